"""The README and the pages: every block of Python runs as it stands and prints what is shown."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import pages
from pages import PAGES, ROOT, SECTIONS


def marked(section):
    marks = [pytest.mark.peers] if section.peers else [pytest.mark.slow] if section.slow else []
    return pytest.param(section, id=section.name, marks=marks)


@pytest.fixture
def _as_a_reader_has_it(tmp_path, monkeypatch, as_users_call_it):
    monkeypatch.chdir(tmp_path)
    with (
        jax.enable_x64(False),
        jax.numpy_rank_promotion("allow"),
        jax.numpy_dtype_promotion("standard"),
    ):
        yield


@pytest.mark.usefixtures("_as_a_reader_has_it")
@pytest.mark.filterwarnings("default")  # of other libraries
@pytest.mark.parametrize("section", [marked(section) for section in SECTIONS])
def test_it_runs_and_prints_what_is_shown(section):
    for name in section.peers:
        pytest.importorskip(name)
    if "matplotlib" in section.code or "plot" in section.code:
        pytest.importorskip("matplotlib").use("Agg")
    for block, printed in zip(section.blocks, section.run(), strict=True):
        assert not pages.differences(block, printed)
        assert block.printed is not None or not printed, "the page does not show what is printed"
    if "matplotlib" in sys.modules:
        importlib.import_module("matplotlib.pyplot").close("all")


def test_what_is_shown_is_compared():
    block = pages.Block("", "after 300 steps: 0.51 of (7, 2)\n", 0.1)
    assert not pages.differences(block, "after 300 steps: 0.53 of (7, 2)\n")
    assert pages.differences(block, "after 300 steps: 0.63 of (7, 2)\n")
    assert pages.differences(block, "after 301 steps: 0.51 of (7, 2)\n")
    assert pages.differences(block, "after 300 steps: 0.51\n")


def test_every_block_of_python_is_found():
    for page in PAGES:
        here = sum(len(s.blocks) for s in SECTIONS if s.page == page)
        assert here == page.read_text().count("\n```python\n"), page


@pytest.mark.slow  # `make types` runs it
def test_types(tmp_path):
    """What a reader copies from a page or a notebook passes a type checker."""
    pytest.importorskip("pyright")
    for number, section in enumerate(SECTIONS):
        code = f"# {section.name}\n{section.code}"
        (tmp_path / f"section_{number}.py").write_text(code)
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
        code = "\n\n".join("".join(c["source"]) for c in cells)
        (tmp_path / f"notebook_{path.stem}.py").write_text(code)
    rules = {"reportMissingImports": False, "extraPaths": [str(ROOT / "src")]}
    rules |= {"reportMissingModuleSource": False, "pythonVersion": "3.11"}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(rules))
    command = [sys.executable, "-m", "pyright", "-p", str(tmp_path)]
    done = subprocess.run(
        [*command, "--pythonpath", sys.executable], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_there_are_blocks():
    assert sum(section.page.name == "README.md" for section in SECTIONS) >= 4


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    made = {"CONTRIBUTING.md", "CHANGELOG.md"}  # pages of the site, made when it is built
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    for target in re.findall(r"\]\((?!http)([^)#\s]+)", text):
        notebook = page.parent.name == "docs" and target.startswith("notebooks/")
        place = ROOT / target.replace(".md", ".ipynb") if notebook else page.parent / target
        assert place.exists() or Path(target).name in made, target


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        named = re.findall(r"`make ([a-z-]+)|^make ([a-z-]+)", page.read_text(), re.MULTILINE)
        assert {a or b for a, b in named} <= targets, page


def test_every_notebook_is_on_the_map_and_in_the_index():
    for page in ("notebooks.md", "index.md"):
        text = (ROOT / "docs" / page).read_text()
        for path in (ROOT / "notebooks").glob("*.ipynb"):
            assert f"notebooks/{path.stem}" in text, (page, path.stem)
