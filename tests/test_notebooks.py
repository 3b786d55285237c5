"""The notebooks: well-formed, without outputs, and true: each asserts its own results."""

import ast
import pathlib
import time

import pytest

nbformat = pytest.importorskip("nbformat")

FOLDER = pathlib.Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
NEEDS = {"04": ["mnist1d"], "05": ["aeon"], "08": ["silero_vad", "onnxruntime"]}
LIMIT = 120  # seconds that a notebook may take on two cores
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])


def test_they_are_there():
    numbers = [int(path.name[:2]) for path in NOTEBOOKS]
    assert numbers[:7] == [1, 2, 3, 4, 5, 6, 7]


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
