"""The page of all cells is what its generator makes."""

import importlib.util
import pathlib
import re

import jax
import pytest

DOCS = pathlib.Path(__file__).parent.parent / "docs"


@pytest.mark.slow
def test_the_page_is_up_to_date(monkeypatch):
    monkeypatch.setenv("CXX", "none")  # no kernel is made for a page that leaves `native` out
    spec = importlib.util.spec_from_file_location("make_cells", DOCS / "make_cells.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    message = "run `python docs/make_cells.py`"
    assert (DOCS / "cells.md").read_text() == made.page(), message


def test_its_example_runs():
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "cells.md").read_text(), re.DOTALL)
    with jax.enable_x64(False), jax.numpy_rank_promotion("allow"):
        exec(compile(code, "cells.md", "exec"), {})
