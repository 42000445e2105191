"""What PyTorch writes, by both of its exporters: read, covered, compiled and run, as the benchmark
does with all models that others wrote."""

from pathlib import Path

import pytest

pytest.importorskip("onnxscript")
pytest.importorskip("torch")

from benchmarks._export import Export, write  # after the skip
from benchmarks._zoo import from_file, measure  # after the skip

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]  # exporters warn a lot


@pytest.mark.parametrize(
    "export",
    [Export("encoder", 20), Export("lstm", 23), Export("gru", 18, "script")],
    ids=lambda export: export.title,
)
def test_an_export_is_covered_by_what_its_architecture_has(export: Export, tmp_path: Path) -> None:
    write(export, tmp_path)

    row = measure(from_file(export, tmp_path / f"{export.title}.onnx"), rounds=1)

    assert "refused" not in row
    assert (row["missing"], row["wrong"]) == ("", 0)
    assert row["error"] < 1e-5
