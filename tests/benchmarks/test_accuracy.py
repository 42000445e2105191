"""The arithmetic of the accuracy benchmark: rows of counters, fits, and what is said of them."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import _a100, _host, _tpu
from benchmarks.accuracy import Row, a100, forms, forms_bars, summary, tpu_bars
from infinisa import api
from infinisa.isa.machine import load_machine


def test_counters_of_a_weight_stationary_array_add_up() -> None:
    """Two tiles of weights: 16 rows stream past each, all 256 x 256 weights are useful; what is
    neither streaming, shifting nor waiting for weights is the rest."""
    made = _tpu.simulated(_tpu.mlp("small", 16, (512, 256)))

    rows = dict(zip(_tpu.ROWS, _tpu.measured(made), strict=True))

    four = ("array active", "weight stall", "weight shift", "non-matrix")
    assert sum(rows[name] for name in four) == pytest.approx(100)
    assert rows["useful MACs"] == pytest.approx(100 * 2 * 16 / made.report.cycles)
    assert rows["useful MACs"] + rows["unused MACs"] == pytest.approx(rows["array active"])
    assert rows["weight stall"] > 0


def test_the_workloads_have_the_weights_of_the_papers_table() -> None:
    """In millions, rounded; 48 for LSTM0, whose matrices are whole tiles."""
    weights = {
        each.name: round(sum(np.prod(w.shape) for w in each.model().weights.values()) / 1e6)
        for each in _tpu.WORKLOADS
    }

    assert weights == {"MLP0": 20, "MLP1": 5, "LSTM0": 50, "LSTM1": 34, "CNN0": 8, "CNN1": 100}


def test_a_line_is_found_again() -> None:
    x = np.array([1.0, 2.0, 8.0])

    straight = _a100.line_through(x, 3.0 + 2.0 * x)

    assert straight(np.array([5.0])) == pytest.approx([13.0])


def test_a_roofline_is_found_again() -> None:
    """60 % of peak, 80 % of bandwidth, 10 microseconds a launch."""
    machine = load_machine(_a100.MACHINE)
    model = _a100.rowwise(_host.softmax, 1, 1)

    def case(operations: float, size: float) -> _a100.Case:
        bound = max(operations / (0.6 * machine.peak()), size / (0.8 * machine.dram.bandwidth))
        return _a100.Case("", model, 1e-5 + bound, operations, size)

    found = [case(1e12, 1e6), case(1e10, 1e9), case(1e13, 1e9), case(1e6, 1e3)]
    roof = _a100.roofline(found, machine)

    assert roof(found) == pytest.approx([each.seconds for each in found], rel=1e-6)


def test_without_tables_there_are_no_rows_of_them() -> None:
    assert a100(None) == []


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"table .*matmul_A100\.csv cannot be read"):
        a100(tmp_path)


def test_a_table_is_scored_on_rows_that_were_not_fitted(tmp_path: Path) -> None:
    """Four products: all with nothing fitted, two with constants fitted on the other two."""
    (tmp_path / "a100").mkdir()
    lines = [f"{m}, 256, 256, 0.{m}ms, 1Tflops" for m in (128, 256, 384, 512)]
    (tmp_path / "a100" / "matmul_A100.csv").write_text("\n".join(lines), "utf-8")

    found = _a100.cases(tmp_path, "matmul")
    rows = list(_a100.rows_of("matmul", found, load_machine(_a100.MACHINE)))

    assert [case.seconds for case in found] == [0.128e-3, 0.256e-3, 0.384e-3, 0.512e-3]
    assert [(row[2], row[7]) for row in rows] == [
        ("128 x 256 x 256", 0), ("256 x 256 x 256", 0), ("384 x 256 x 256", 0),
        ("512 x 256 x 256", 0), ("256 x 256 x 256", 2), ("512 x 256 x 256", 2),
        ("256 x 256 x 256", 3), ("512 x 256 x 256", 3),
    ]  # fmt: skip


def test_a_second_run_finds_what_the_first_left_in_the_cache() -> None:
    compiled = api.load(_host.rowwise(_host.rms_norm, 4, 8)).compile("host")

    program = _host.twice(compiled.program)

    assert [section.name for section in program.sections] == ["main", "main_again"]
    assert _host.predicted(compiled, compiled.machine, {}) < compiled.simulate().seconds


def test_every_shape_keeps_the_closed_form() -> None:
    assert all(bar.holds for bar in forms_bars(forms(10)))


def test_a_bar_is_computed_from_rows() -> None:
    """16 % off is too far; workloads with assumed shapes are no bar."""

    def throughput(name: str, error: float) -> Row:
        return Row("TPU v1", "throughput", name, "achieved", 1 + error, 1.0, "TOPS", 0, error)

    rows = [throughput("MLP0", -0.16), throughput("CNN0", 0.14), throughput("CNN1", 0.5)]

    assert [(bar.holds, bar.value) for bar in tpu_bars(rows)] == [(False, 0.16), (True, 0.14)]
    assert list(summary(rows)) == [
        "TPU v1, throughput, 0 fitted constants: 3 rows, error 16.0% at the median, 50.0% at most"
    ]
