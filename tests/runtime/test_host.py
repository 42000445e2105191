"""This processor as a machine."""

from pathlib import Path

import pytest

from infinisa.isa.machine import Machine
from infinisa.runtime import host
from infinisa.runtime.jit import cache

ORIGINAL = host.measure


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Machine]:
    """An empty cache folder; every measurement from here on."""
    found: list[Machine] = []

    def measure() -> Machine:
        found.append(ORIGINAL())
        return found[-1]

    monkeypatch.setattr(cache, "folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(host, "measure", measure)
    return found


def test_the_host_is_measured_once(measured: list[Machine]) -> None:
    """The second probe reads what the first has kept."""
    assert host.probe() == host.probe() == measured[0]
    assert len(measured) == 1


def test_the_host_is_measured_again_with_other_kernels(
    measured: list[Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    host.probe()
    monkeypatch.setattr(host, "SOURCES", "others")
    host.probe()

    assert len(measured) == 2


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


def test_a_damaged_file_is_measured_again(measured: list[Machine], tmp_path: Path) -> None:
    host.probe()
    for file in (tmp_path / "cache" / "code").iterdir():
        file.write_text("not a machine", "utf-8")

    assert host.probe() == measured[1]
