"""Networks as modules of Flax nnx."""

import jax
import numpy as np
import optax
import pytest

import jaxlstm

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]
nnx = pytest.importorskip("flax.nnx")


@pytest.fixture(autouse=True)
def _as_users_have_it():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def model():
    from jaxlstm.nnx import Recurrent

    class Model(nnx.Module):
        def __init__(self):
            params = jaxlstm.init(
                jax.random.key(0), jaxlstm.lstm, 3, 5, bidirectional=True, dtype="float32"
            )
            self.rnn = Recurrent(params)
            self.readout = nnx.Linear(10, 1, rngs=nnx.Rngs(0))

        def __call__(self, xs, **options):
            ys, _ = self.rnn(xs, **options)
            return self.readout(ys.mean(0))

    return Model()


XS = np.random.default_rng(0).standard_normal((7, 2, 3)).astype("float32")


def test_all_weights_are_parameters_and_train():
    one = model()
    before = one.rnn.params
    count = sum(a.size for a in jax.tree.leaves(nnx.state(one, nnx.Param)))
    assert count == sum(a.size for a in jax.tree.leaves(before)) + 11
    optimizer = nnx.Optimizer(one, optax.adam(1e-2), wrt=nnx.Param)

    @nnx.jit
    def update(model, optimizer):
        value, grads = nnx.value_and_grad(lambda m: (m(XS) ** 2).mean())(model)
        optimizer.update(model, grads)
        return value

    values = [update(one, optimizer) for _ in range(5)]
    assert values[-1] < values[0]
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), before, one.rnn.params)
    assert all(jax.tree.leaves(moved))


def test_gradients_are_those_of_the_network():
    one = model()
    mask = jaxlstm.lengths_to_mask([7, 4], 7)
    loss = lambda ys: (ys**2).sum()
    found = nnx.grad(lambda rnn: loss(rnn(XS, mask=mask)[0]))(one.rnn)
    expected = jax.grad(lambda p: loss(jaxlstm.apply(p, XS, mask=mask)[0]))(one.rnn.params)
    for name, d in jax.tree_util.tree_leaves_with_path(expected):
        path = jax.tree_util.keystr(name, simple=True, separator="_")
        np.testing.assert_allclose(found[path][...], d, rtol=1e-5, atol=1e-6)


def test_split_and_merge():
    one = model()
    graph, state = nnx.split(one)
    again = nnx.merge(graph, jax.tree.map(lambda a: a, state))
    np.testing.assert_array_equal(again(XS), one(XS))
    assert jax.tree.structure(again.rnn.params) == jax.tree.structure(one.rnn.params)
