"""The reference names every public name, and no other."""

import importlib
import inspect
import re

import pytest

import jaxlstm
from jaxlstm import initializers
from pages import ROOT

TEXT = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
MODULES = ["jaxlstm", "jaxlstm.initializers", "jaxlstm.wrappers", "jaxlstm.plot", "jaxlstm.convert"]


def documented():
    """Full names, of the directives of autodoc."""
    found, module = set(), ""
    for directive, name in re.findall(r"^\.\. ([a-z]+):: *(\S+)", TEXT, re.MULTILINE):
        if directive == "currentmodule":
            module = name
        elif directive.startswith("auto") and directive != "automodule":
            found.add(name if name.startswith("jaxlstm.") else f"{module}.{name}")
    return found


def public(module):
    """What a user finds in a module: classes, functions and schemes of this library."""
    room = importlib.import_module(module)
    imported = {"jaxlstm.plot": {"Record"}}.get(module, set())
    for name, value in vars(room).items():
        ours = (getattr(value, "__module__", None) or "").startswith("jaxlstm")
        if ours and not name.startswith("_") and not inspect.ismodule(value):
            if isinstance(value, jaxlstm.Cell) or name in imported:
                continue
            yield f"{module}.{name}"


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_there_and_no_other(module):
    if module == "jaxlstm.plot":
        pytest.importorskip("matplotlib")
    here = {name for name in documented() if name.rpartition(".")[0] == module}
    assert here == set(public(module))


def test_what_needs_other_libraries_is_there():
    for module in ("nnx", "linen", "haiku"):
        assert f"jaxlstm.{module}.Recurrent" in documented()
    assert "jaxlstm.convert.onnx_backend.Backend" in documented()


def test_every_scheme_is_there():
    assert {f"jaxlstm.initializers.{name}" for name in initializers.SCHEMES} <= documented()


def test_every_cell_is_on_the_page_of_cells_and_named_here_if_it_is_one_of_jaxlstm():
    headings = re.findall(r"^### (\w+)$", (ROOT / "docs" / "cells.md").read_text(), re.MULTILINE)
    every = {name for name, c in vars(jaxlstm.cells).items() if isinstance(c, jaxlstm.Cell)}
    assert every == set(headings)
    (part,) = re.findall(r"^## Cells$(.*?)^## ", TEXT, re.MULTILINE | re.DOTALL)
    top = {name for name, c in vars(jaxlstm).items() if isinstance(c, jaxlstm.Cell)}
    assert top == set(re.findall(r"\[`(\w+)`\]", part))


def test_commands_and_variables_are_there():
    from jaxlstm._unroll.native import SWITCH
    from jaxlstm.experiments.__main__ import NAMES

    assert NAMES
    assert SWITCH in TEXT
    for command in ("info", "build lstm gru"):
        assert f"python -m jaxlstm {command}" in TEXT
