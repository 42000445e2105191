"""Tokenizers: text to ids and back, as kernels that an instruction can run.

| file | what it is |
|---|---|
| `load.py` | a path to a tokenizer; the file says which kind |
| `segment.py` | text to Chinese words, by a dictionary and a model |
| `tables.py` | reading `tokenizer.json` and `vocab.txt`, checked field by field |
| `tokenizer.py` | `Tokenizer`: flat tables, two kernels, and what happens around them |
| `byte_bpe.py`, `wordpiece.py`, `word.py`, `character.py` | a kind each: encoder and tables |
| `pieces.py`, `merging.py` | of byte-level BPE: where pieces of text end; merging their bytes |
| `lookup.py` | hash tables in arrays; the decoder, which all kinds share |
| `memo.py` | what pieces of text became, remembered |
| `characters.py`, `unicode.json` | UTF-8; classes of characters, by `tools/unicode_tables.py` |
| `arrays.py` | the types of kernel parameters; running a kernel in CPython |
| `native.py` | kernels as native code, with memory of their own |

Kernels are restricted Python: functions of typed flat arrays and integers, without strings, lists,
slices, exceptions or negative indices. `Tokenizer.ids` runs them as native code, and so do programs
with instructions that encode; in a program nothing is remembered.
"""

from . import character
from .load import READERS, Read, load_tokenizer
from .segment import Segmenter, load_segmenter
from .tables import Section
from .tokenizer import AddedToken, Frame, Tokenizer

__all__ = [
    "READERS",
    "AddedToken",
    "Frame",
    "Read",
    "Section",
    "Segmenter",
    "Tokenizer",
    "character",
    "load_segmenter",
    "load_tokenizer",
]
