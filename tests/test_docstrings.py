"""Every example in a public docstring runs."""

import importlib
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlstm

MODULES = ["jaxlstm", "jaxlstm.cells", "jaxlstm.initializers", "jaxlstm.wrappers"]
MODULES += ["jaxlstm.convert", "jaxlstm.plot"]


def public():
    """Every public object, by its name."""
    for module in MODULES:
        try:
            room = importlib.import_module(module)
        except ImportError:  # an extra that is not here
            continue
        yield module, room
        for name, value in vars(room).items():
            if not name.startswith("_") and getattr(value, "__module__", "").startswith("jaxlstm"):
                yield f"{module}.{name}", value


def examples():
    seen = {}
    for name, value in public():
        for i, code in enumerate(re.findall(r"```python\n(.*?)```", value.__doc__ or "", re.S)):
            seen.setdefault(inspect.cleandoc("\n" + code), f"{name}-{i}")
    return [pytest.param(code, id=name) for code, name in seen.items()]


@pytest.fixture
def _float32():
    """Readers run examples in JAX's own defaults."""
    with jax.numpy_rank_promotion("allow"), jax.enable_x64(False):
        yield


@pytest.mark.usefixtures("_float32")
@pytest.mark.parametrize("code", examples())
def test_it_runs(code, tmp_path, monkeypatch):
    matplotlib = pytest.importorskip("matplotlib") if "plot" in code else None
    if matplotlib:
        matplotlib.use("Agg")
    rooms = {name: getattr(jaxlstm, name, None) for name in ("convert", "initializers", "wrappers")}
    names = {"jax": jax, "jnp": jnp, "np": np, "jaxlstm": jaxlstm, "__name__": "example"}
    monkeypatch.chdir(tmp_path)
    try:
        exec(code, {**rooms, **names})
    except ImportError as error:
        if "pip install" not in str(error):
            raise
        pytest.skip(f"needs an extra: {error}")
    if matplotlib:
        importlib.import_module("matplotlib.pyplot").close("all")


PUBLIC = {name: f for name, f in vars(jaxlstm).items() if not name.startswith("_")}
FUNCTIONS = [name for name, f in PUBLIC.items() if inspect.isfunction(f)]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_has_a_runnable_example_or_says_whose_it_is(name):
    doc = inspect.getdoc(getattr(jaxlstm, name))
    assert doc
    assert "```python" in doc or name == "run"  # which the example of `Node` calls
