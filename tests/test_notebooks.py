"""The notebooks run offline from top to bottom, and are stored as they were written."""

from __future__ import annotations

from pathlib import Path

import nbclient
import nbformat
import pytest
from jupyter_client.manager import KernelManager

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_output_is_stored(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code and all(not cell.outputs and cell.execution_count is None for cell in code)


@pytest.mark.slow
def test_they_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All in one kernel, emptied between them, since importing takes longest."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    assert len(NOTEBOOKS) == 3
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(tmp_path))
    try:
        for path in NOTEBOOKS:
            _execute(path, manager)
    finally:
        manager.shutdown_kernel(now=True)


def _execute(path: Path, manager: KernelManager) -> None:
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell("%reset -f"))
    try:
        nbclient.NotebookClient(notebook, km=manager, timeout=300).execute()
    except nbclient.exceptions.CellExecutionError as error:
        pytest.fail(f"{path.name}: {error}")
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    said = "".join(output.get("text", "") for output in outputs)
    drawn = [output for output in outputs if "image/png" in output.get("data", {})]
    assert "dB" in said or "distance" in said
    assert drawn or path.stem == "your_own"
    assert "tap_ext:" not in said  # no warning of ours
