"""Errors at the door for weights that are no network, or whose parts do not fit each other."""

import jax
import jax.numpy as jnp
import pytest

import jaxlstm
from networks import H, N, T, refused

pytestmark = pytest.mark.usefixtures("as_users_call_it")
XS = jnp.ones((T, 3, N))
LSTM = jaxlstm.init(jax.random.key(0), jaxlstm.lstm, N, H)
SQUARE = jaxlstm.init(jax.random.key(0), jaxlstm.lstm, N, N)

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
