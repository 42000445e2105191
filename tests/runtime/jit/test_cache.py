"""Object files from run to run."""

from pathlib import Path

import pytest

from infinisa.runtime.jit import cache


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "folder", lambda: tmp_path)


def test_an_object_is_made_once() -> None:
    assert cache.remembered("source", "", lambda: b"code") == b"code"
    assert cache.remembered("source", "", lambda: pytest.fail("made again")) == b"code"


def test_another_source_is_another_object() -> None:
    cache.remembered("source", "", lambda: b"code")

    assert cache.remembered("source", "optimised", lambda: b"faster") == b"faster"
    assert cache.remembered("another", "", lambda: b"other") == b"other"


def test_a_damaged_object_is_made_again(tmp_path: Path) -> None:
    cache.remembered("source", "", lambda: b"code")
    (file,) = (tmp_path / "code").iterdir()
    file.write_bytes(file.read_bytes()[:-1])

    assert cache.remembered("source", "", lambda: b"made again") == b"made again"


def test_a_full_disk_leaves_no_part_of_an_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def some_of_it(path: Path, data: bytes) -> None:
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", some_of_it)

    assert cache.remembered("source", "", lambda: b"code") == b"code"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_the_oldest_objects_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "LARGEST", 3 * (cache.DIGEST + 100))
    monkeypatch.setattr(cache, "RARELY", 1)
    for number in range(5):
        cache.remembered(str(number), "", lambda: bytes(100))

    assert len(list((tmp_path / "code").iterdir())) == 3


def test_now_and_then_objects_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "LARGEST", 0)
    for number in range(400):
        cache.remembered(str(number), "", lambda: bytes(100))

    assert len(list((tmp_path / "code").iterdir())) < 400
