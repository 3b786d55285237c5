"""Copies and names: a copied cell is itself, and a pickled one is found by its name or refused."""

import copy
import dataclasses
import multiprocessing
import pickle
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlstm
from networks import CELLS, H, N, close, inputs

SOURCE = """
import jax.numpy as jnp, jaxlstm

@jaxlstm.gated_cell("{gates}", jaxlstm.HiddenState)
def mine(s, u, v, *, scale=1.0):
    z = jaxlstm.tag({name}=jnp.tanh(u[0] + v[0]))
    return ({factor} * scale * z,)
"""


@pytest.fixture
def notebook(monkeypatch):
    """A module whose cells can be run again, edited."""
    module = types.ModuleType("a_notebook")
    monkeypatch.setitem(sys.modules, module.__name__, module)

    def run(gates="z", factor=1.0):
        source = SOURCE.format(gates=gates, name=gates[0], factor=factor)
        exec(source, vars(module))
        return module.mine

    run.module = module
    return run


def drawn(cell, **options):
    return jaxlstm.init(jax.random.key(0), cell, N, H, **options)


COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "deepcopy of a dict": lambda p: copy.deepcopy({"rnn": [p]})["rnn"][0],
    "tree.map": lambda p: jax.tree.map(lambda a: a, p),
}


@pytest.mark.parametrize("by", COPIES)
def test_a_copy_has_the_cell_itself(notebook, by):
    """Edited and run again, or local: what was drawn keeps its equations."""

    @jaxlstm.gated_cell("z", jaxlstm.HiddenState)
    def local(s, u, v):
        return (jnp.sin(u[0] + v[0]),)

    for cell in (notebook(), notebook()(scale=2.0), local):
        params = jaxlstm.wrappers.zoneout(drawn(cell, layers=2, bidirectional=True), 0.5)
        before = jaxlstm.apply(params, inputs())
        notebook(factor=-1.0)
        again = COPIES[by](params)
        assert jax.tree.structure(again) == jax.tree.structure(params)
        assert jax.tree.leaves(again, is_leaf=lambda a: hasattr(a, "cell"))[0].cell is cell
        close(jaxlstm.apply(again, inputs()), before)


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_every_cell_is_pickled_by_its_name(cell):
    assert pickle.loads(pickle.dumps(cell)) == cell
    assert copy.copy(cell) is copy.deepcopy(cell) is cell


def test_options_come_back(notebook):
    cell = notebook()(scale=2)
    again = pickle.loads(pickle.dumps(cell))
    assert again == cell
    assert again.options == (("scale", 2.0),)
    notebook.module.mine = cell  # the name leads to the cell with options
    for one in (cell, dataclasses.replace(cell, options=())):
        assert pickle.loads(pickle.dumps(one)) == one


def test_a_name_that_leads_elsewhere_is_not_pickled(notebook):
    @jaxlstm.gated_cell("z", jaxlstm.HiddenState)
    def local(s, u, v):
        return (jnp.tanh(u[0] + v[0]),)

    def plain(s, u, v):
        return (jnp.tanh(u[0] + v[0]),)

    plain.__qualname__, plain.__module__ = "plain", notebook.module.__name__
    notebook.module.plain = plain
    edited, gone = notebook(), notebook()
    cases = {
        edited: "another cell",
        local: "no cell",
        jaxlstm.gated_cell("z", jaxlstm.HiddenState)(plain): "no cell",
        dataclasses.replace(jaxlstm.lstm, recurrent_bias=True): "another cell",
    }
    for cell, message in cases.items():
        for what in (cell, cell(), drawn(cell)):
            with pytest.raises(pickle.PicklingError, match=f"by its name.*refers to {message}"):
                pickle.dumps(what)
    del notebook.module.mine
    with pytest.raises(pickle.PicklingError, match="refers to no cell"):
        pickle.dumps(gone)
    gone.equations.__module__ = "not_installed"
    with pytest.raises(pickle.PicklingError, match="refers to no cell"):
        pickle.dumps(gone)


def test_a_name_that_leads_elsewhere_is_not_unpickled(notebook):
    data = pickle.dumps(drawn(notebook()))
    notebook(factor=2.0)  # an edit of the equations alone cannot be seen from a name
    assert pickle.loads(data).cell == notebook.module.mine
    notebook(gates="zn")
    with pytest.raises(pickle.UnpicklingError, match=r"another cell.*'z'.*'zn'"):
        pickle.loads(data)
    for other in (lambda s, u, v: s, 3):
        notebook.module.mine = other
        with pytest.raises(pickle.UnpicklingError, match="refers to no cell here"):
            pickle.loads(data)
    del notebook.module.mine
    with pytest.raises(pickle.UnpicklingError, match="refers to no cell here"):
        pickle.loads(data)
    sys.modules.pop(notebook.module.__name__)
    with pytest.raises(pickle.UnpicklingError, match=r"a_notebook\.mine"):
        pickle.loads(data)


def test_states_schemes_and_static_values():
    params = drawn(jaxlstm.lstm, layers=2, dropout=0.5)
    state = jaxlstm.apply(params, inputs())[1]
    things = [state, jaxlstm.initializers.default, jaxlstm.Static((1, "a")), params]
    for thing in things:
        for again in (pickle.loads(pickle.dumps(thing)), copy.deepcopy(thing)):
            assert jax.tree.structure(again) == jax.tree.structure(thing)
    local = jaxlstm.Static(object())
    assert copy.deepcopy(local) is copy.copy(local) is local


@pytest.mark.parametrize("value", [[1], {"a": 1}, np.ones(2), jnp.ones(2), float("nan")], ids=repr)
def test_what_is_static_is_hashable(value):
    with pytest.raises(TypeError, match=r"value of `Static` must be hashable"):
        jaxlstm.Static(value)


@jaxlstm.gated_cell("z", jaxlstm.HiddenState)
def optional(s, u, v, *, rate=0.5, count=1, flag=False, anything=None):
    return (jnp.tanh(u[0] + v[0]),)


def test_options_are_values():
    """Lists are tuples, numbers are Python's, and what means the same is equal."""
    same = [
        (optional(anything=["a", [1, 2]]), optional(anything=("a", (1, 2)))),
        (optional(rate=np.float32(0.5)), optional),
        (optional(rate=jnp.ones(())), optional(rate=1)),
        (optional(count=np.int64(3)), optional(count=3)),
        (optional(flag=np.True_), optional(flag=True)),
        (optional(flag=False, anything=None), optional),
    ]
    for a, b in same:
        assert a == b
        assert hash(a) == hash(b)
        assert repr(a) == repr(b)
        assert pickle.loads(pickle.dumps(a)) == a
    assert optional(count=True) != optional  # refused where it is used as a size


@pytest.mark.parametrize(
    "options",
    [
        {"anything": np.ones(2)},
        {"anything": jnp.ones(2)},
        {"anything": {"a": 1}},
        {"anything": [{1}]},
        {"rate": float("nan")},
        {"flag": "no"},
        {"flag": 1},
    ],
    ids=str,
)
def test_options_that_are_no_values_are_refused(options):
    (name,) = options
    with pytest.raises(TypeError, match=f"`{name}` must be"):
        optional(**options)


def test_a_traced_option_is_refused():
    with pytest.raises(TypeError, match=r"`rate` must be.*traced"):
        jax.jit(lambda rate: drawn(optional(rate=rate)))(0.5)


def test_a_declaration_that_is_no_value_is_refused(as_users_call_it):
    with pytest.raises(TypeError, match="each gate to its initial value"):
        jaxlstm.gated_cell("z", jaxlstm.HiddenState, bias={"z": np.ones(3)})(lambda s, u, v: s)


def test_cloudpickle():
    cloudpickle = pytest.importorskip("cloudpickle")
    params = drawn(jaxlstm.cells.lstm_variant(clip=3.0))
    close(cloudpickle.loads(cloudpickle.dumps(params)), params)


SCRIPT = """
import multiprocessing
import jax, jax.numpy as jnp, numpy as np, jaxlstm

@jaxlstm.gated_cell("z", jaxlstm.HiddenState)
def mine(s, u, v):
    return (jnp.tanh(u[0] + v[0]),)

def run(params):
    return np.asarray(jaxlstm.apply(params, jnp.ones((3, 4)))[0])

if __name__ == "__main__":
    params = jaxlstm.init(jax.random.key(0), mine, 4, 5)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        np.testing.assert_allclose(pool.apply(run, (params,)), run(params), rtol=1e-6)
"""


@pytest.mark.slow
def test_a_cell_of_the_main_module_in_another_process(tmp_path):
    assert "spawn" in multiprocessing.get_all_start_methods()
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    subprocess.run([sys.executable, script], check=True, timeout=300)
