"""What was right once is not checked again; what is wrong is refused after it as before it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlstm
from jaxlstm import _arguments
from networks import N, T, close, inputs, network, normal_like, refused

pytestmark = pytest.mark.usefixtures("as_users_call_it")
B = 3
XS = inputs()
MASK = jnp.ones((T, B), bool)
LSTM = network(jaxlstm.lstm)
NUMPY = jax.tree.map(np.asarray, LSTM)


@pytest.fixture(autouse=True)
def _none_is_known():
    _arguments._valid.clear()


@pytest.fixture
def unchecked(monkeypatch):
    """From here on nothing is checked but what is not known to be right."""

    def now():
        def fail(*_):
            raise AssertionError("checked again")

        monkeypatch.setattr(_arguments, "_checked", fail)

    return now


class _Counted(NamedTuple):
    node: jaxlstm.Node
    name: jaxlstm.Static


class Counted(_Counted, jaxlstm.Node):
    """Counts how often its initial state is asked for."""

    @property
    def input_size(self):
        return self.node.input_size

    def initial_state(self, batch):
        COUNT.append(batch)
        return self.node.initial_state(batch)

    def run(self, xs, state, context):
        return jaxlstm.run(self.node, xs, state, context)


COUNT = []


def test_the_initial_state_is_traced_once():
    params = Counted(LSTM, jaxlstm.Static("once"))
    _, state = jaxlstm.apply(params, XS)
    for f, x in ((jaxlstm.apply, XS), (jaxlstm.step, XS[0])):
        f(params, x, state)
        COUNT.clear()
        for _ in range(3):
            _, state = f(params, x, state)
        assert not COUNT


CALLS = {
    "apply": lambda p, x, s: jaxlstm.apply(p, x, s),
    "mask and reset": lambda p, x, s: jaxlstm.apply(p, x, s, mask=MASK, reset=MASK),
    "axis": lambda p, x, s: jaxlstm.apply(p, x.swapaxes(0, 1), s, mask=MASK.T, axis=1),
    "key": lambda p, x, s: jaxlstm.apply(p, x, s, key=jax.random.key(0)),
    "options": lambda p, x, s: jaxlstm.apply(
        p, x, s, reverse=True, checkpoint=True, precision="highest", implementation="scan"
    ),
    "step": lambda p, x, s: jaxlstm.step(p, x[0], s),
    "gradient": lambda p, x, s: jax.grad(lambda p: jaxlstm.apply(p, x, s)[0].sum())(p),
    "vmap": lambda p, x, s: jax.vmap(lambda x: jaxlstm.apply(p, x))(x),
    "jit": lambda p, x, s: jax.jit(lambda p, x, s: jaxlstm.apply(p, x, s))(p, x, s),
}


@pytest.mark.parametrize("kind", ["JAX", "NumPy"])
@pytest.mark.parametrize("name", CALLS)
def test_the_second_call_gives_what_the_first_gave(name, kind, unchecked):
    params, xs = (LSTM, XS) if kind == "JAX" else (NUMPY, np.asarray(XS))
    state = jaxlstm.apply(LSTM, XS)[1]
    state = state if kind == "JAX" else jax.tree.map(np.asarray, state)
    call = CALLS[name]
    first = call(params, xs, state)
    unchecked()
    close(call(params, xs, state), first)


def test_numbers_are_read_anew():
    """In place of others in the same array, NaN under the mask and elsewhere among them."""
    weights = jax.tree.map(np.copy, NUMPY)
    xs = np.array(XS)
    mask = np.ones((T, B), bool)
    for i in range(3):
        weights.w[0, 0, i] += 1
        xs[i] += 1
        mask[i, i] = False
        expected = jaxlstm.apply(
            jax.tree.map(jnp.array, weights), jnp.array(xs), mask=jnp.array(mask)
        )
        hidden = np.where(mask[..., None], xs, np.nan)
        close(jaxlstm.apply(weights, hidden, mask=mask), expected)
    assert jnp.isnan(jaxlstm.apply(weights, hidden)[0]).any()


def test_nan_under_a_mask_passes_debug_nans_each_time():
    mask = MASK.at[2:, 0].set(False)
    xs = np.where(mask[..., None], XS, np.nan)
    columns = xs.swapaxes(0, 1)
    expected, one = jaxlstm.apply(LSTM, XS, mask=mask), jaxlstm.step(LSTM, XS[-1], mask=mask[-1])
    with jax.debug_nans(True):
        for read in (np.asarray, jax.device_put, np.asarray, jax.device_put):
            close(jaxlstm.apply(LSTM, read(xs), mask=mask), expected)
            close(jaxlstm.apply(LSTM, read(columns), mask=mask.T, axis=1)[1], expected[1])
            close(jaxlstm.step(LSTM, read(xs[-1]), mask=mask[-1]), one)


class Words:
    """No array."""


STATE = normal_like(jax.eval_shape(jaxlstm.apply, LSTM, XS)[1])
NEIGHBOURS = {
    "`True` as an axis": (lambda: jaxlstm.apply(LSTM, XS, axis=True), ValueError, ["got True"]),
    "a number as an axis": (lambda: jaxlstm.apply(LSTM, XS, axis=0.0), ValueError, ["got 0.0"]),
    "shapes": (
        lambda: jaxlstm.apply(LSTM, jax.ShapeDtypeStruct(XS.shape, XS.dtype)),
        TypeError,
        ["no values"],
    ),
    "a masked array": (
        lambda: jaxlstm.apply(LSTM, np.ma.masked_array(XS)), TypeError, ["MaskedArray"]
    ),
    "an object": (lambda: jaxlstm.apply(LSTM, Words()), TypeError, ["a Words"]),
    "a weight that is none": (
        lambda: jaxlstm.apply(LSTM._replace(w=Words()), XS), TypeError, [r"params\.w"]
    ),
    "another dtype": (lambda: jaxlstm.apply(LSTM, XS.astype("f4")), TypeError, ["float32"]),
    "no dtype of JAX": (
        lambda: jaxlstm.apply(NUMPY, np.asarray(XS).astype(object)), TypeError, ["object"]
    ),
    "a state of another shape": (
        lambda: jaxlstm.apply(LSTM, XS, jax.tree.map(lambda a: a[:2], STATE)),
        ValueError,
        [r"\(3, 5\); got \(2, 5\)"],
    ),
    "a state of another structure": (
        lambda: jaxlstm.apply(LSTM, XS, tuple(STATE)), ValueError, ["another network"]
    ),
    "a sequence as a step": (lambda: jaxlstm.step(LSTM, XS, STATE), ValueError, ["`apply`"]),
    "a mask of numbers": (
        lambda: jaxlstm.apply(LSTM, XS, mask=MASK.astype(float)), TypeError, ["dtype bool"]
    ),
    "a checkpoint of none": (
        lambda: jaxlstm.apply(LSTM, XS, checkpoint=0), ValueError, ["`checkpoint`"]
    ),
    "a precision of none": (
        lambda: jaxlstm.apply(LSTM, XS, precision="very"), ValueError, ["`precision`"]
    ),
    "a key that is none": (lambda: jaxlstm.apply(LSTM, XS, key=3), TypeError, ["`key`"]),
    "a cell of other gates": (
        lambda: jaxlstm.apply(LSTM._replace(cell=jaxlstm.gru), XS), ValueError, ["gru"]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_a_wrong_neighbour_of_a_right_call_is_refused_each_time(name):
    call, exception, message = NEIGHBOURS[name]
    for params, xs in ((LSTM, XS), (NUMPY, np.asarray(XS))):
        jaxlstm.apply(params, xs)
        jaxlstm.apply(params, xs, STATE, mask=MASK)
    jaxlstm.apply(LSTM, XS, axis=1)
    jaxlstm.step(LSTM, XS[0], STATE)
    for _ in range(2):
        refused(call, exception, message)


def test_doubles_are_right_only_while_jax_has_them():
    xs = np.asarray(XS)
    for params in (LSTM, NUMPY):
        jaxlstm.apply(params, xs)
    with jax.enable_x64(False):
        refused(lambda: jaxlstm.apply(LSTM, xs), TypeError, ["`params` are of float64"])
        assert jaxlstm.apply(NUMPY, xs)[0].dtype == jnp.float32
    assert jaxlstm.apply(NUMPY, xs)[0].dtype == jnp.float64


def test_what_is_known_is_bounded(monkeypatch):
    monkeypatch.setattr(_arguments, "_MOST", 4)
    for rows in range(1, 12):
        jaxlstm.implementations(LSTM, jnp.ones((1, rows, N)))
        assert len(_arguments._valid) <= 4


def test_trees_that_cannot_be_compared_are_checked_each_time():
    mixed = {"a": LSTM, 1: LSTM}  # keys without an order
    for _ in range(2):
        refused(lambda: jaxlstm.apply(mixed, XS), TypeError, ["`params` must be what"])
