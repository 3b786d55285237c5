"""Networks as modules of Flax linen."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxlstm
from jaxlstm import wrappers

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]
nn = pytest.importorskip("flax.linen")


@pytest.fixture(autouse=True)
def _as_users_have_it():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def make(key, n):
    """A network as `init` makes it, of either direction."""
    return jaxlstm.init(key, jaxlstm.lstm, n, 5, layers=2, bidirectional=True, dtype="float32")


def recurrent(make=make):
    from jaxlstm.linen import Recurrent

    return Recurrent(make)


def model():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, xs, **options):
            ys, _ = recurrent()(xs, **options)
            return nn.Dense(1)(ys.mean(0))

    return Model()


XS = np.random.default_rng(0).standard_normal((7, 2, 3)).astype("float32")
KEY = jax.random.key(1)


def test_weights_are_parameters():
    shapes = jax.eval_shape(lambda: make(KEY, 3))
    variables = model().init(KEY, XS)
    weights = variables["params"]["Recurrent_0"]
    assert {k: a.shape for k, a in weights.items()} == {
        jax.tree_util.keystr(path, simple=True, separator="_"): a.shape
        for path, a in jax.tree_util.tree_leaves_with_path(shapes)
    }
    assert all(isinstance(a, jax.Array) for a in weights.values())
    assert jnp.abs(weights["layers_0_forward_w"]).min() > 0
    assert not (weights["layers_0_forward_w"] == weights["layers_0_backward_w"]).any()


def test_a_call_and_its_gradients_are_those_of_the_network():
    rnn, mask = recurrent(), jaxlstm.lengths_to_mask([7, 4], 7)
    variables = rnn.init(KEY, XS)
    params = rnn.apply(variables, 3, method="network")
    assert jax.tree.structure(params) == jax.tree.structure(make(KEY, 3))
    np.testing.assert_array_equal(
        rnn.apply(variables, XS, mask=mask)[0], jaxlstm.apply(params, XS, mask=mask)[0]
    )
    state = jaxlstm.apply(params, XS)[1]
    np.testing.assert_array_equal(
        rnn.apply(variables, XS, state)[0], jaxlstm.apply(params, XS, state)[0]
    )
    loss = lambda ys: (ys**2).sum()
    found = jax.grad(lambda v: loss(rnn.apply(v, XS, mask=mask)[0]))(variables)["params"]
    expected = jax.grad(lambda p: loss(jaxlstm.apply(p, XS, mask=mask)[0]))(params)
    for path, d in jax.tree_util.tree_leaves_with_path(expected):
        name = jax.tree_util.keystr(path, simple=True, separator="_")
        np.testing.assert_allclose(found[name], d, rtol=1e-5, atol=1e-6)


def test_it_trains_by_a_train_state_which_is_saved():
    from flax import serialization
    from flax.training.train_state import TrainState

    one = model()
    new = lambda key: TrainState.create(
        apply_fn=one.apply, params=one.init(key, XS)["params"], tx=optax.adam(1e-2)
    )

    @jax.jit
    def update(state):
        loss = lambda p: (state.apply_fn({"params": p}, XS) ** 2).mean()
        value, grads = jax.value_and_grad(loss)(state.params)
        return state.apply_gradients(grads=grads), value

    state, values = new(KEY), []
    for _ in range(5):
        state, value = update(state)
        values.append(value)
    assert values[-1] < values[0]
    before = new(KEY).params
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: (a != b).any(), before, state.params)))
    again = serialization.from_bytes(new(jax.random.key(9)), serialization.to_bytes(state))
    jax.tree.map(np.testing.assert_array_equal, update(again)[0].params, update(state)[0].params)


def test_an_ensemble_by_vmap():
    """Each member draws its own weights, and runs as it would by itself."""

    class Many(nn.Module):
        @nn.compact
        def __call__(self, xs):
            one = nn.vmap(
                type(recurrent()),
                variable_axes={"params": 0},
                split_rngs={"params": True},
                in_axes=None,
                axis_size=3,
            )
            return one(make, name="rnn")(xs)[0]

    variables = Many().init(KEY, XS)
    weights = variables["params"]["rnn"]
    assert weights["layers_0_forward_w"].shape == (3, 3, 4, 5)
    assert (weights["layers_0_forward_w"][0] != weights["layers_0_forward_w"][1]).any()
    ys = Many().apply(variables, XS)
    for k in range(3):
        member = {"params": {name: a[k] for name, a in weights.items()}}
        np.testing.assert_allclose(ys[k], recurrent().apply(member, XS)[0], rtol=1e-5, atol=1e-6)


def test_one_module_called_twice_and_by_steps():
    drawn = lambda key, n: jaxlstm.init(key, jaxlstm.gru, n, 5, dtype="float32")

    class Twice(nn.Module):
        def setup(self):
            self.rnn = recurrent(drawn)

        def __call__(self, xs):
            ys, state = self.rnn(xs)
            more, _ = self.rnn(xs, state)
            one, _ = self.rnn.step(xs[0], state)
            return ys, more, one

    variables = Twice().init(KEY, XS)
    assert [*variables["params"]] == ["rnn"]
    assert set(variables["params"]["rnn"]) == {"w", "r", "b", "recurrent_bias"}
    ys, more, one = Twice().apply(variables, XS)
    np.testing.assert_allclose(more[0], one, rtol=1e-5, atol=1e-6)
    assert (ys[0] != one).any()


def test_weights_from_elsewhere_and_wrappers():
    """`make` may give any network: converted, of NumPy arrays, wrapped."""
    params = jax.tree.map(np.asarray, make(KEY, 3))
    rnn = recurrent(lambda key, n: params)
    found = rnn.apply(rnn.init(KEY, XS), 3, method="network")
    jax.tree.map(np.testing.assert_array_equal, found, params)
    learned = lambda key, n: wrappers.learn_initial_state(make(key, n))
    rnn = recurrent(learned)
    assert rnn.apply(rnn.init(KEY, XS), XS)[0].shape == (7, 2, 10)


def test_what_is_missing_or_of_another_shape_is_linens_error():
    variables = recurrent().init(KEY, XS)
    few = {"params": {k: a for k, a in variables["params"].items() if k != "layers_1_backward_b"}}
    with pytest.raises(Exception, match="layers_1_backward_b"):
        recurrent().apply(few, XS)
    with pytest.raises(Exception, match=r"(?i)shape"):
        recurrent().apply(variables, XS[..., :2])
