"""The best path through scores, and a whole model that ends with it."""

from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest

from infinisa.compiler.reference import evaluate_model
from infinisa.isa.errors import ModelError
from infinisa.plugins.families.tagging import viterbi, viterbi_path
from infinisa.plugins.manager import load
from infinisa.plugins.models import read_model_folder

RANDOM = np.random.default_rng(5)


@pytest.mark.parametrize("count", [0, 1, 4])
def test_viterbi_finds_the_best_of_all_paths(count: int) -> None:
    scores = RANDOM.normal(size=(count, 3)).astype(np.float32)
    transitions = RANDOM.normal(size=(5, 3)).astype(np.float32)

    def value(path: tuple[int, ...]) -> float:
        total = transitions[0, path[0]] + transitions[1, path[-1]]
        total += sum(scores[s, tag] for s, tag in enumerate(path))
        return float(total + sum(transitions[2 + a, b] for a, b in pairwise(path)))

    best, came = np.zeros(3 * count, np.float32), np.zeros(3 * count, np.int32)
    tags = np.zeros(count, np.int32)
    assert viterbi.body is not None
    assert viterbi_path.body is not None
    flat = transitions.reshape(-1).data
    viterbi.body(scores.reshape(-1).data, flat, best.data, came.data)
    viterbi_path.body(best.data, came.data, flat, tags.data)

    if count:
        assert tuple(tags) == max(product(range(3), repeat=count), key=value)


def write_tensor(file: Path, *shape: int) -> None:
    """A file as LAC has them: zeros, size of the description, description, numbers."""
    description = b"\x08\x05" + b"".join(b"\x10" + bytes([n]) for n in shape)
    values = RANDOM.normal(size=shape).astype("<f4")
    file.write_bytes(
        bytes(16) + len(description).to_bytes(4, "little") + description + values.tobytes()
    )


def lac_folder(folder: Path) -> Path:
    """Random weights: 5 words, embeddings of 4, hidden of 3, tags A-B, A-I and O."""
    words, embedding, hidden, tags = 5, 4, 3, ("A-B", "A-I", "O")
    (folder / "word.dic").write_text("0\t中\n1\t文\n2\t字\n3\tOOV\n4\t好\n", encoding="utf-8")
    (folder / "tag.dic").write_text("".join(f"{n}\t{name}\n" for n, name in enumerate(tags)))
    where = folder / "model_baseline"
    where.mkdir()
    write_tensor(where / "word_emb", words, embedding)
    for number in range(4):
        inputs = embedding if number < 2 else 2 * hidden
        write_tensor(where / f"fc_{number}.w_0", inputs, 3 * hidden)
        write_tensor(where / f"fc_{number}.b_0", 3 * hidden)
        write_tensor(where / f"gru_{number}.w_0", hidden, 3 * hidden)
        write_tensor(where / f"gru_{number}.b_0", 1, 3 * hidden)
    write_tensor(where / "fc_4.w_0", 2 * hidden, len(tags))
    write_tensor(where / "fc_4.b_0", len(tags))
    write_tensor(where / "crfw", len(tags) + 2, len(tags))
    return folder


def test_a_lac_folder_becomes_a_model_from_text_to_tagged_text(tmp_path: Path) -> None:
    model = read_model_folder(lac_folder(tmp_path))
    text = "中文好?".encode()

    values = evaluate_model(
        model,
        {"text": np.frombuffer(text, np.uint8)},
        {"bytes": len(text)},
        load(installed=False).library,
    )

    written = values.outputs["tag/text"][: values.parameters["written"]].tobytes().decode()
    assert values.parameters["prompt"] == 4
    assert values.kept["ids"][:4].tolist() == [0, 1, 4, 3]
    plain = "".join(word.rpartition("/")[0] for word in written.split(" "))
    assert plain == "中文好?"
    assert {word.rpartition("/")[2] for word in written.split(" ")} <= {"A", "O"}


def test_a_tensor_that_is_cut_short_is_named(tmp_path: Path) -> None:
    file = lac_folder(tmp_path) / "model_baseline" / "word_emb"
    file.write_bytes(file.read_bytes()[:-4])

    with pytest.raises(ModelError) as caught:
        read_model_folder(tmp_path)

    assert str(caught.value) == (
        f"{file}: must hold 20 f32 numbers of shape (5, 4), not 76 bytes of type 5"
    )
