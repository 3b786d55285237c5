"""The notebooks: well-formed, without outputs, and true: each asserts its own results."""

import ast
import json
import pathlib
import subprocess
import sys
import time

import pytest

nbformat = pytest.importorskip("nbformat")

FOLDER = pathlib.Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
NEEDS = {
    "04": ["mnist1d"],
    "05": ["aeon"],
    "08": ["silero_vad", "onnxruntime"],
    "09": ["flatbuffers", "onnx", "safetensors"],
}
LIMIT = 120  # seconds that a notebook may take on two cores
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])


def test_they_are_there():
    numbers = [int(path.name[:2]) for path in NOTEBOOKS]
    assert numbers == [*range(1, 12)]


@each
def test_well_formed(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    opening = notebook.cells[0]
    assert opening.cell_type == "markdown"
    assert opening.source.startswith("# ")
    assert "you will know" in opening.source
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs
            assert cell.execution_count is None
            ast.parse(cell.source)
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert "assert" in code


def test_types(tmp_path):
    """What a reader copies passes a type checker."""
    pytest.importorskip("pyright")
    for path in NOTEBOOKS:
        cells = [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
        (tmp_path / f"notebook_{path.stem}.py").write_text("\n\n".join(cells), encoding="utf-8")
    rules = {"extraPaths": [str(FOLDER.parent / "src")], "pythonVersion": "3.11"}
    rules |= {"reportMissingImports": False, "reportMissingModuleSource": False}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(rules))
    command = [sys.executable, "-m", "pyright", "-p", str(tmp_path)]
    done = subprocess.run(
        [*command, "--pythonpath", sys.executable], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


PEERS = {"08_pretrained_voice_detector"}  # needs PyTorch and the detector's own package
suite = lambda path: pytest.mark.peers if path.stem in PEERS else pytest.mark.slow


@pytest.mark.filterwarnings("default")  # of the kernel's own libraries
@pytest.mark.parametrize(
    "path", [pytest.param(path, id=path.stem, marks=suite(path)) for path in NOTEBOOKS]
)
def test_it_runs_and_its_results_hold(path):
    client = pytest.importorskip("nbclient")
    for needed in NEEDS.get(path.name[:2], ()):
        pytest.importorskip(needed)
    notebook = nbformat.read(path, as_version=4)
    begin = time.monotonic()
    options = {"timeout": 2 * LIMIT, "kernel_name": "python3"}
    client.NotebookClient(
        notebook, resources={"metadata": {"path": str(FOLDER)}}, **options
    ).execute()
    print(f"{path.stem}: {time.monotonic() - begin:.0f} s (limit {LIMIT} s)")
