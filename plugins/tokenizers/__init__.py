"""Tokenizers: text to ids and back, as kernels that an instruction can run.

| file | what it is |
|---|---|
| `load.py` | a path to a tokenizer; the file says which kind |
| `tables.py` | reading `tokenizer.json` and `vocab.txt`, checked field by field |
| `tokenizer.py` | `Tokenizer`: flat tables, two kernels, and what happens around them |
| `byte_bpe.py`, `wordpiece.py`, `word.py`, `character.py` | a kind each: encoder and tables |
| `lookup.py` | hash tables in arrays; the decoder, which all kinds share |
| `characters.py`, `unicode.json` | UTF-8; classes of characters, by `tools/unicode_tables.py` |
| `arrays.py` | the types of kernel parameters; running a kernel in CPython |

Kernels are restricted Python: functions of typed flat arrays and integers, without strings, lists,
slices, exceptions or negative indices.
"""

from . import character
from .load import READERS, Read, load_tokenizer
from .tables import Section
from .tokenizer import AddedToken, Frame, Tokenizer

__all__ = [
    "READERS",
    "AddedToken",
    "Frame",
    "Read",
    "Section",
    "Tokenizer",
    "character",
    "load_tokenizer",
]
