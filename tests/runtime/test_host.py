"""This processor as a machine."""

from pathlib import Path

import pytest

from infinisa.runtime import host


def test_the_host_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second probe reads the file that the first has written."""
    monkeypatch.setattr(host, "folder", lambda: tmp_path / "cache")

    first = host.probe()
    monkeypatch.setattr(host, "measure", lambda: pytest.fail("measured again"))

    assert host.probe() == first


def test_the_host_has_a_cache_and_one_core() -> None:
    machine = host.measure()

    assert (machine.name, machine.cores, machine.scratchpad.managed) == ("host", 1, "hardware")
    assert 0.3e9 < machine.clock < 8e9
    assert 1e9 < machine.peak() < 2e12
    assert 1e9 < machine.dram.bandwidth < 1e12


def test_several_cores_compute_more_and_share_their_memory() -> None:
    one = host.measure()
    three = host.several_cores(one, 3)

    assert three.peak() == 3 * one.peak()
    assert three.memories == one.memories


def test_a_damaged_file_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "folder", lambda: tmp_path)
    first = host.probe()
    (file,) = tmp_path.iterdir()
    file.write_text("not a machine", "utf-8")

    assert [unit.name for unit in host.probe().units] == [unit.name for unit in first.units]
    assert file.read_text("utf-8") != "not a machine"
