"""The notebooks: well-formed, true, and stored as a run leaves them.

Each asserts its own results.  `python docs/store_notebooks.py NAME` stores what it prints and
draws; a notebook without any outputs is run when the site is built.
"""

import ast
import importlib.util
import itertools
import os
import pathlib
import re
import time

import pytest

from pages import FIGURE

nbformat = pytest.importorskip("nbformat")

SPEC = importlib.util.spec_from_file_location(
    "store_notebooks", pathlib.Path(__file__).parents[1] / "docs" / "store_notebooks.py"
)
assert SPEC
assert SPEC.loader
store = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(store)
FOLDER = pathlib.Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
NEEDS = {
    "04": ["mnist1d"],
    "05": ["aeon"],
    "08": ["silero_vad", "onnxruntime"],
    "09": ["flatbuffers", "onnx", "safetensors"],
}
LIMIT = 120  # seconds that a notebook may take on two quiet cores
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
            ast.parse(cell.source)
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert "assert" in code


PEERS = {"08_pretrained_voice_detector"}  # needs PyTorch and the detector's own package
suite = lambda path: pytest.mark.peers if path.stem in PEERS else pytest.mark.slow


def shown(notebook):
    """What each cell prints, in lines, and the shapes of what it draws."""
    for cell in notebook.cells:
        for output in cell.outputs if cell.cell_type == "code" else ():
            text = output.get("text") or output.get("data", {}).get("text/plain", "")
            yield [" ".join(line.split()) for line in text.splitlines()]
            if picture := output.get("data", {}).get("image/png"):
                yield store.pixels(picture)


TIMES = re.compile(r"\d ?(s|ms|us|µs|seconds?|minutes?|microseconds?)\b|s/step|per second|times as")
WITHIN = 0.3  # of the largest figure of an output: training differs between processors


def differences(before, after):
    """Where a run does not give what is stored; lines with times are compared in words alone."""
    if isinstance(before, tuple) or isinstance(after, tuple):
        return [] if before == after else [f"a picture of {before}, now {after}"]
    word = lambda line: FIGURE.sub("0", line)
    # Of lines alike, such as one for each epoch, a run may print more or fewer.
    alike = lambda lines: [[*several] for _, several in itertools.groupby(lines, word)]
    old, new = alike(before), alike(after)
    if [word(one[0]) for one in old] != [word(two[0]) for two in new]:
        return [f"stored {before}, now {after}"]
    figures = lambda line: [float(text.replace(",", "")) for text in FIGURE.findall(line)]
    pairs = [pair for one, two in zip(old, new) if len(one) == len(two) for pair in zip(one, two)]
    held = [(a, b) for a, b in pairs if not TIMES.search(a)]
    scale = max((abs(x) for a, _ in held for x in figures(a)), default=0)
    return [
        f"stored {a!r}, now {b!r}"
        for a, b in held
        if any(abs(x - y) > WITHIN * scale for x, y in zip(figures(a), figures(b)))
    ]


def test_what_is_stored_is_compared():
    assert not differences(["loss 0.50 in 3 s"], ["loss 0.90 in 7 s"])
    assert differences(["loss 0.50", "in 3 s"], ["loss 0.90", "in 7 s"])
    assert not differences(["loss 0.50"], ["loss 0.52"])
    assert differences(["loss 0.50"], ["accuracy 0.50"])
    assert not differences(["epoch 1: 0.5", "epoch 2: 0.4", "end 0.4"], ["epoch 1: 0.4", "end 0.4"])
    assert differences(["epoch 1: 0.5", "epoch 2: 0.4", "end 0.4"], ["epoch 1: 0.4", "end 0.9"])
    assert differences(["epoch 1: 0.5", "epoch 2: 0.4"], ["epoch 1: 0.5", "end 0.4"])
    assert differences(["epoch 1: 0.5", "epoch 2: 0.4"], ["end 0.4"])
    assert differences((640, 480), (640, 320))


def test_what_is_stored_is_whole_and_small():
    for path in NOTEBOOKS:
        cells = [c for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
        counts = [cell.execution_count for cell in cells]
        assert counts in ([None] * len(cells), [*range(1, len(cells) + 1)]), path.stem
        assert path.stat().st_size < 1_000_000, path.stem
        errors = [o for c in cells for o in c.outputs if o.output_type == "error"]
        assert not errors, path.stem


@pytest.mark.filterwarnings("default")  # of the kernel's own libraries
@pytest.mark.parametrize(
    "path", [pytest.param(path, id=path.stem, marks=suite(path)) for path in NOTEBOOKS]
)
def test_it_runs_and_its_results_hold(path):
    pytest.importorskip("nbclient")
    for needed in NEEDS.get(path.name[:2], ()):
        pytest.importorskip(needed)
    begun, before = time.monotonic(), sum(os.times()[2:4])
    now = store.run(path, 10 * LIMIT)
    cpu = sum(os.times()[2:4]) - before  # of the kernel's process, whatever else runs
    print(f"{path.stem}: {time.monotonic() - begun:.0f} s, of two CPUs {cpu:.0f} s")
    assert cpu < 2 * LIMIT
    stored = list(shown(nbformat.read(path, as_version=4)))
    if stored:
        found = [d for pair in zip(stored, shown(now), strict=True) for d in differences(*pair)]
        assert not found, "\n".join(found)
