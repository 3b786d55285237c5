"""Networks in modules of Equinox, which need no adapter: they are trees of arrays."""

import jax
import numpy as np
import optax
import pytest

import jaxlstm

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]
eqx = pytest.importorskip("equinox")


@pytest.fixture(autouse=True)
def _as_users_have_it():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


class Model(eqx.Module):
    """A network as a field, among the layers of Equinox."""

    rnn: jaxlstm.Stack
    readout: eqx.nn.Linear

    def __init__(self, key):
        first, second = jax.random.split(key)
        self.rnn = jaxlstm.init(first, jaxlstm.lstm, 3, 5, layers=2, dtype="float32")
        self.readout = eqx.nn.Linear(5, 1, key=second, dtype="float32")

    def __call__(self, xs):
        ys, _ = jaxlstm.apply(self.rnn, xs)
        return jax.vmap(self.readout)(ys.mean(0))


XS = np.random.default_rng(0).standard_normal((7, 2, 3)).astype("float32")
KEY = jax.random.key(1)


def loss(model):
    return (model(XS) ** 2).mean()


def test_it_trains():
    model = before = Model(KEY)
    optimizer = optax.adamw(1e-2, mask=jaxlstm.decay_mask)
    state = optimizer.init(eqx.filter(model, eqx.is_array))

    @eqx.filter_jit
    def update(model, state):
        value, grads = eqx.filter_value_and_grad(loss)(model)
        updates, state = optimizer.update(grads, state, eqx.filter(model, eqx.is_array))
        return eqx.apply_updates(model, updates), state, value

    values = []
    for _ in range(5):
        model, state, value = update(model, state)
        values.append(value)
    assert values[-1] < values[0]
    moved = jax.tree.map(lambda a, b: (a != b).any(), before.rnn, model.rnn)
    assert all(jax.tree.leaves(moved))
    grads = eqx.filter_grad(loss)(before)
    expected = jax.grad(lambda rnn: loss(eqx.tree_at(lambda m: m.rnn, before, rnn)))(before.rnn)
    jax.tree.map(np.testing.assert_array_equal, grads.rnn, expected)


def test_partition_ensembles_and_files(tmp_path):
    model = Model(KEY)
    arrays, static = eqx.partition(model, eqx.is_array)
    np.testing.assert_array_equal(eqx.combine(arrays, static)(XS), model(XS))
    many = eqx.filter_vmap(Model)(jax.random.split(KEY, 3))
    ys = eqx.filter_vmap(lambda m: m(XS))(many)
    one = jax.tree.map(lambda a: a[1] if eqx.is_array(a) else a, many)
    np.testing.assert_allclose(ys[1], one(XS), rtol=1e-5, atol=1e-6)
    eqx.tree_serialise_leaves(tmp_path / "model.eqx", model)
    again = eqx.tree_deserialise_leaves(tmp_path / "model.eqx", Model(jax.random.key(2)))
    np.testing.assert_array_equal(again(XS), model(XS))
