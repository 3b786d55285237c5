"""How networks are shown, and what is imported when."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

import jaxlstm
from jaxlstm import wrappers
from networks import CELLS, KINDS, H, N, some_of

K = jax.random.key(0)


def test_a_layer_is_its_cell_and_its_sizes():
    assert repr(jaxlstm.init(K, jaxlstm.lstm, 3, 5, dtype=jnp.float32)) == "lstm 3 -> 5"
    narrow = jaxlstm.cells.projected_lstm(projection=2)
    params = jaxlstm.init(K, narrow, 3, 5, dtype=jnp.bfloat16)
    assert repr(params) == "projected_lstm(projection=2) 3 -> 2 bfloat16"


def test_a_network_is_a_line_or_a_line_for_each_part():
    two = jaxlstm.init(K, jaxlstm.gru, 3, 5, layers=2, dropout=0.5, dtype=jnp.float32)
    assert repr(two) == "Stack(gru 3 -> 5, gru 5 -> 5, dropout=0.5)"
    assert repr(wrappers.zoneout(two.layers[0], 0.1)) == "Zoneout(gru 3 -> 5, rates=(0.1, 0.1))"
    wide = jaxlstm.init(K, jaxlstm.gru, 3, 5, layers=3, bidirectional=True, dtype=jnp.float32)
    assert repr(wide).splitlines() == [
        "Stack(",
        "  Bidirectional(gru 3 -> 5, gru 3 -> 5),",
        "  Bidirectional(gru 10 -> 5, gru 10 -> 5),",
        "  Bidirectional(gru 10 -> 5, gru 10 -> 5),",
        ")",
    ]


@pytest.mark.parametrize("name", some_of(CELLS, KINDS))
def test_no_number_is_written(name):
    params = jaxlstm.init(K, CELLS[name], N, H)
    assert len(repr(wrappers.learn_initial_state(params))) < 400
    assert repr(jax.tree.map(lambda a: jnp.full_like(a, 7.125), params)).count("7.125") == 0


def test_trees_of_something_else_are_shown_too():
    mask = jax.tree.map(lambda a: a.ndim > 2, jaxlstm.init(K, jaxlstm.lstm, 3, 5))
    assert "w=True" in repr(mask)
    assert "b=False" in repr(mask)


def test_summary_counts_every_weight():
    params = jaxlstm.init(K, jaxlstm.gru, 3, 5, layers=2, dtype=jnp.float32)
    tree = {"embed": jnp.ones((7, 3), jnp.float32), "rnn": params}
    lines = jaxlstm.summary(tree).splitlines()
    assert lines[0].split() == ["['embed']", "(7,", "3)", "float32", "21"]
    total = sum(a.size for a in jax.tree.leaves(tree))
    assert lines[-1].split() == ["total", str(total)]
    assert len(lines) == 1 + len(jax.tree.leaves(tree))
    assert jaxlstm.summary(params).splitlines()[0] == repr(params)


def test_the_state_of_both_directions_names_them():
    params = jaxlstm.init(K, jaxlstm.lstm, 3, 5, bidirectional=True)
    _, state = jaxlstm.apply(params, jnp.ones((4, 3)))
    assert state.forward.h.shape == state.backward.c.shape == (5,)


IMPORTED = """
import sys
import jax
import jaxlstm
assert not {"jaxlstm.convert", "jaxlstm.plot", "optax", "matplotlib"} & {*sys.modules}, "early"
assert "convert" in dir(jaxlstm) and "plot" in dir(jaxlstm)
jaxlstm.convert.from_torch, jaxlstm.plot
from jax._src import xla_bridge
assert not xla_bridge._backends, "a backend was initialised"
try:
    jaxlstm.nothing
except AttributeError as e:
    assert "jaxlstm" in str(e)
else:
    raise AssertionError
"""


def test_parts_are_imported_when_used_and_no_backend_is():
    subprocess.run([sys.executable, "-c", IMPORTED], check=True)
