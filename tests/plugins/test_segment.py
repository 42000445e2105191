"""Chinese words equal jieba's, with its hidden Markov model and without."""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from infinisa.isa.errors import ModelError
from infinisa.plugins.tokenizers.segment import Segmenter, load_segmenter

TEXT = st.one_of(
    st.text(max_size=30),
    st.text(st.characters(min_codepoint=0x4E00, max_codepoint=0x9FD8), max_size=30),
    st.text("的一是在不了有和人这中大为上个国我以要他AB1.5%#+ \r\n，。_-", max_size=40),
)


@cache
def jieba() -> Any:
    module = pytest.importorskip("jieba")
    module.setLogLevel(logging.WARNING)
    return module


@cache
def segmenter(hidden: bool) -> Segmenter:
    folder = Path(jieba().__file__).parent
    return load_segmenter(folder / "dict.txt", folder / "finalseg" if hidden else None)


@cache
def drawn() -> str:
    """Words of jieba's dictionary in any order."""
    lines = (Path(jieba().__file__).parent / "dict.txt").read_text("utf-8").splitlines()
    return "".join(line.split(" ")[0] for line in Random(0).choices(lines, k=20_000))


@pytest.mark.parametrize("hidden", [True, False])
@settings(max_examples=400, deadline=None)
@given(text=TEXT)
@example("")
@example("3.14%的C++与\r\nAT&T、他来到了网易杭研大厦")
def test_words_are_those_of_jieba(hidden: bool, text: str) -> None:
    assert segmenter(hidden).words(text) == jieba().lcut(text, HMM=hidden)


@pytest.mark.parametrize("hidden", [True, False])
def test_words_of_a_long_text_are_those_of_jieba(hidden: bool) -> None:
    assert segmenter(hidden).words(drawn()) == jieba().lcut(drawn(), HMM=hidden)


def test_a_dictionary_is_enough(tmp_path: Path) -> None:
    """A word that never occurs is none."""
    file = tmp_path / "words.txt"
    file.write_text("我们 8 r\n我 2\n们 2\n中 1\n中国 0\n", "utf-8")

    assert load_segmenter(file).words("我们中国，我") == ["我们", "中", "国", "，", "我"]


def test_mistakes_are_named(tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_text("我们 8\n我们\n", "utf-8")
    with pytest.raises(ModelError) as caught:
        load_segmenter(file)
    assert str(caught.value) == (
        f"{file}: line 2 must be a word and how often it occurs, not '我们'"
    )
    file.write_text("我们 0\n", "utf-8")
    with pytest.raises(ModelError) as caught:
        load_segmenter(file)
    assert str(caught.value) == f"{file}: the file must hold a word that occurs, not none"

    file.write_text("我们 8\n", "utf-8")
    (tmp_path / "prob_start.py").write_text("P = open('x')\n", "utf-8")
    with pytest.raises(ModelError) as caught:
        load_segmenter(file, tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / 'prob_start.py'}: the file must assign P a dictionary "
        "by the states B, E, M, S"
    )
