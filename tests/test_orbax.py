"""Checkpoints of Orbax: trees of networks come back, with an abstract tree and without."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxlstm
from jaxlstm import wrappers
from networks import network
from test_roles import by_path

pytestmark = pytest.mark.peers


def model():
    rnn = wrappers.learn_initial_state(network(jaxlstm.cells.lstm_variant(peephole=True), "stack"))
    return {"embed": jnp.ones((3, 4)), "rnn": rnn, "bare": network(jaxlstm.gru, bias=False)}


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


@pytest.fixture
def ocp(tmp_path):
    ocp = pytest.importorskip("orbax.checkpoint")
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield ocp


@pytest.mark.filterwarnings("ignore")  # what Orbax says of itself
def test_with_an_abstract_tree(ocp, tmp_path):
    tree = model()
    tree["optimizer"] = optax.adamw(1e-3, mask=jaxlstm.decay_mask).init(tree)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "a", tree)
        checkpointer.wait_until_finished()
        same(checkpointer.restore(tmp_path / "a", jax.eval_shape(lambda: tree)), tree)


@pytest.mark.filterwarnings("ignore")
def test_without_one_the_arrays_come_back_by_name(ocp, tmp_path):
    """And a tree of the same architecture takes them: `from_dict`."""
    tree = model()
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "a", tree)
        checkpointer.wait_until_finished()
        found = checkpointer.restore(tmp_path / "a")
    arrays = {name: a for name, a in by_path(found).items() if a is not None}
    assert arrays.keys() == by_path(tree).keys()
    same(jaxlstm.convert.from_dict(arrays, like=tree), tree)
