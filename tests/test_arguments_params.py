"""Errors of weights that are no network, or whose parts do not fit each other."""

import jax
import jax.numpy as jnp
import pytest

import jaxlstm
from networks import H, N, T, network, refused

pytestmark = pytest.mark.usefixtures("as_users_call_it")
XS = jnp.ones((T, 3, N))
LSTM = network(jaxlstm.lstm)
SQUARE = network(jaxlstm.lstm, sizes=(N, N))
PEEPHOLE = network(jaxlstm.peephole_lstm)


def static(rate):
    return jaxlstm.Stack((LSTM, network(jaxlstm.gru, sizes=(H, H))), rate)


# name: (what is called, the exception, what the message must say)
WRONG = {
    "a plain dict": (
        lambda: jaxlstm.apply({"w": LSTM.w}, XS),
        TypeError,
        ["what `jaxlstm.init` returns", "got a dict"],
    ),
    "a cell in place of weights": (
        lambda: jaxlstm.apply(jaxlstm.lstm, XS),
        TypeError,
        ["what `jaxlstm.init` returns"],
    ),
    "a class in place of weights": (
        lambda: jaxlstm.apply(jaxlstm.Layer, XS),
        TypeError,
        ["Layer class"],
    ),
    "a tree with words in it": (
        lambda: jaxlstm.apply(LSTM._replace(b="zero"), XS),
        TypeError,
        [r"params\.b", "str"],
    ),
    "weights of two dtypes": (
        lambda: jaxlstm.apply(LSTM._replace(b=LSTM.b.astype("float32")), XS),
        TypeError,
        [r"params\.b float32", "one dtype"],
    ),
    "weights of its own that would fit as one": (
        lambda: jaxlstm.apply(
            PEEPHOLE._replace(weights={k: a[:1] for k, a in PEEPHOLE.weights.items()}), XS
        ),
        ValueError,
        [r"`params\.weights\['p.'\]` of the cell peephole_lstm", r"\(5,\); got float64\[1\]"],
    ),
    "weights that a cell has not": (
        lambda: jaxlstm.apply(LSTM._replace(weights={"p": LSTM.b}), XS),
        ValueError,
        [r"`params\.weights` of the cell lstm must be None; got \['p'\]"],
    ),
    "no weights of its own": (
        lambda: jaxlstm.step(jaxlstm.Reverse(PEEPHOLE._replace(weights=None)), XS[0]),
        ValueError,
        [r"`params\.node\.weights` of .* a dict of \['p.', 'p.', 'p.'\]; got \[\]"],
    ),
    "no matrix": (
        lambda: jaxlstm.apply(LSTM._replace(w=None), XS),
        TypeError,
        [r"`params\.w` must be an array; got None"],
    ),
    "a stack of a layer's fields": (
        lambda: jaxlstm.apply(jaxlstm.Stack(LSTM), XS),
        TypeError,
        [r"`params\.layers` must be a tuple of one node or more, `Stack\(\(layer,\)\)`"],
    ),
    "a stack of a dict": (
        lambda: jaxlstm.apply(jaxlstm.Stack({"a": LSTM}), XS),
        TypeError,
        [r"`params\.layers` must be a tuple of one node or more", "got a dict"],
    ),
    "a stack with a cell in it": (
        lambda: jaxlstm.apply(jaxlstm.Stack((LSTM, jaxlstm.lstm)), XS),
        TypeError,
        [r"`params\.layers\[1\]` must be a node; got a Gated"],
    ),
    "one direction": (
        lambda: jaxlstm.apply(jaxlstm.Stack((jaxlstm.Bidirectional(LSTM, None),)), XS),
        TypeError,
        [r"`params\.layers\[0\]\.backward` must be a node; got None"],
    ),
    "a rate above 1": (
        lambda: jaxlstm.apply(static(jaxlstm.Static(1.5)), XS, key=jax.random.key(0)),
        ValueError,
        [r"`params\.dropout` must be a probability below 1; got 1.5"],
    ),
    "a rate in words": (
        lambda: jaxlstm.apply(static(jaxlstm.Static("half")), XS),
        ValueError,
        [r"`params\.dropout` must be a probability below 1; got 'half'"],
    ),
    "an ensemble without vmap": (
        lambda: jaxlstm.apply(jax.tree.map(lambda a: a[None], LSTM), XS),
        ValueError,
        ["jax.vmap", r"\(1, 4, 4, 5\)"],
    ),
    "weights of another cell": (
        lambda: jaxlstm.apply(LSTM._replace(cell=jaxlstm.gru), XS),
        ValueError,
        [r"`params\.w` of the cell gru", r"\(4, 3, 5\); got float64\[4, 4, 5\]", "convert"],
    ),
    "recurrent weights that would fit as blocks": (
        lambda: jaxlstm.apply(jaxlstm.Stack((LSTM._replace(r=LSTM.r[:1]),)), XS),
        ValueError,
        [r"params\.layers\[0\]\.r", r"\(5, 4, 5\); got float64\[1, 4, 5\]"],
    ),
    "a bias for all gates": (
        lambda: jaxlstm.apply(LSTM._replace(b=LSTM.b[:1]), XS),
        ValueError,
        [r"params\.b", r"\(4, 5\); got float64\[1, 5\]"],
    ),
    "no recurrent weights": (
        lambda: jaxlstm.apply(LSTM._replace(r=None), XS),
        ValueError,
        [r"params\.r", "got None"],
    ),
    "a layer's fields in another order": (
        lambda: jaxlstm.apply(jaxlstm.Layer(LSTM.w, LSTM.r, LSTM.b, LSTM.cell), XS),
        TypeError,
        [r"`params\.cell` must be a cell", r"float64\[4, 4, 5\]"],
    ),
    "layers that do not fit": (
        lambda: jaxlstm.apply(jaxlstm.Stack((LSTM, LSTM)), XS),
        ValueError,
        ["a Layer in `params` takes 4 features; got 5", "bidirectional"],
    ),
    "layers that would fit as blocks": (
        lambda: jaxlstm.apply(jaxlstm.Stack((jaxlstm.Bidirectional(SQUARE, SQUARE), SQUARE)), XS),
        ValueError,
        ["takes 4 features; got 8"],
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_argument_gets_one_clear_error(case):
    refused(*WRONG[case])
