"""Networks as modules of Haiku."""

import jax
import numpy as np
import optax
import pytest

import jaxlstm

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]
hk = pytest.importorskip("haiku")


@pytest.fixture(autouse=True)
def _as_users_have_it():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def make(key, n):
    return jaxlstm.init(key, jaxlstm.lstm, n, 5, layers=2, bidirectional=True, dtype="float32")


def recurrent(make=make):
    from jaxlstm.haiku import Recurrent

    return Recurrent(make, name="rnn")


def model(xs):
    ys, _ = recurrent()(xs)
    return hk.Linear(1)(ys.mean(0))


def run(xs, **options):
    return recurrent()(xs, **options)[0]


XS = np.random.default_rng(0).standard_normal((7, 2, 3)).astype("float32")
KEY = jax.random.key(1)


def test_weights_are_parameters():
    shapes = jax.eval_shape(lambda: make(KEY, 3))
    params = hk.transform(model).init(KEY, XS)
    assert hk.data_structures.tree_size(params) == 11 + sum(a.size for a in jax.tree.leaves(shapes))
    weights = params["rnn"]
    assert (weights["layers_0_forward_w"] != weights["layers_0_backward_w"]).all()
    other = hk.transform(model).init(jax.random.key(2), XS)["rnn"]
    assert (weights["layers_0_forward_w"] != other["layers_0_forward_w"]).all()


def test_a_call_and_its_gradients_are_those_of_the_network():
    f = hk.without_apply_rng(hk.transform(run))
    weights = f.init(KEY, XS)
    network = hk.without_apply_rng(hk.transform(lambda: recurrent().network(3)))
    params = network.apply(weights)
    assert jax.tree.structure(params) == jax.tree.structure(make(KEY, 3))
    mask = jaxlstm.lengths_to_mask([7, 4], 7)
    np.testing.assert_array_equal(
        f.apply(weights, XS, mask=mask), jaxlstm.apply(params, XS, mask=mask)[0]
    )
    loss = lambda ys: (ys**2).sum()
    found = jax.grad(lambda w: loss(f.apply(w, XS, mask=mask)))(weights)["rnn"]
    expected = jax.grad(lambda p: loss(jaxlstm.apply(p, XS, mask=mask)[0]))(params)
    for path, d in jax.tree_util.tree_leaves_with_path(expected):
        name = jax.tree_util.keystr(path, simple=True, separator="_")
        np.testing.assert_allclose(found[name], d, rtol=1e-5, atol=1e-6)


def test_it_trains():
    f = hk.without_apply_rng(hk.transform(model))
    params = before = f.init(KEY, XS)
    optimizer = optax.adam(1e-2)
    state = optimizer.init(params)

    @jax.jit
    def update(params, state):
        value, grads = jax.value_and_grad(lambda p: (f.apply(p, XS) ** 2).mean())(params)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state, value

    values = []
    for _ in range(5):
        params, state, value = update(params, state)
        values.append(value)
    assert values[-1] < values[0]
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: (a != b).any(), before, params)))


def test_an_ensemble():
    f = hk.without_apply_rng(hk.transform(run))
    many = jax.vmap(f.init, (0, None))(jax.random.split(KEY, 3), XS)
    ys = jax.vmap(f.apply, (0, None))(many, XS)
    for k in range(3):
        one = jax.tree.map(lambda a, k=k: a[k], many)
        np.testing.assert_allclose(ys[k], f.apply(one, XS), rtol=1e-5, atol=1e-6)


def test_one_module_called_twice_and_by_steps():
    drawn = lambda key, n: jaxlstm.init(key, jaxlstm.gru, n, 5, dtype="float32")

    def twice(xs):
        rnn = recurrent(drawn)
        ys, state = rnn(xs)
        return ys, rnn(xs, state)[0], rnn.step(xs[0], state)[0]

    f = hk.without_apply_rng(hk.transform(twice))
    params = f.init(KEY, XS)
    assert set(params["rnn"]) == {"w", "r", "b", "recurrent_bias"}
    ys, more, one = f.apply(params, XS)
    np.testing.assert_allclose(more[0], one, rtol=1e-5, atol=1e-6)
    assert (ys[0] != one).any()
