"""Errors of arguments: one exception, one message that says what, what came and what to do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlstm
from networks import H, N, T, network, refused

B = 3
XS = jnp.ones((T, B, N))
LSTM = network(jaxlstm.lstm)
STACK = network(jaxlstm.lstm, "stack")
MASK = jnp.ones((T, B), bool)


pytestmark = pytest.mark.usefixtures("as_users_call_it")


def state(params=LSTM, batch=(B,), dtype=float):
    return jaxlstm.apply(params, jnp.ones((1, *batch, N), dtype))[1]


# name: (what is called, the exception, what the message must say)
WRONG = {
    "features": (
        lambda: jaxlstm.apply(LSTM, jnp.ones((T, B, 9))),
        ValueError,
        [r"\(time, \*batch, 4\)", r"\(7, 3, 9\)", "features"],
    ),
    "no time axis": (
        lambda: jaxlstm.apply(LSTM, jnp.ones(N)),
        ValueError,
        [r"\(4,\)", "jaxlstm.step"],
    ),
    "time and batch swapped under a mask": (
        lambda: jaxlstm.apply(LSTM, XS.swapaxes(0, 1), mask=MASK),
        ValueError,
        [r"`mask`.*\(3, 7\); got\s+\(7, 3\)", "swapped", "axis=1"],
    ),
    "time and batch swapped with a state": (
        lambda: jaxlstm.apply(LSTM, XS.swapaxes(0, 1), state()),
        ValueError,
        [r"state\.h.*\(7, 5\); got \(3, 5\)", "axis=1"],
    ),
    "mask as lengths": (
        lambda: jaxlstm.apply(LSTM, XS, mask=jnp.array([7, 4, 1])),
        ValueError,
        [r"got \(3,\)", "lengths_to_mask"],
    ),
    "mask of floats": (
        lambda: jaxlstm.apply(LSTM, XS, mask=MASK.astype(float)),
        TypeError,
        ["`mask` must be of dtype bool; got float64", "!= 0"],
    ),
    "mask with a features axis": (
        lambda: jaxlstm.apply(LSTM, XS, mask=MASK[..., None]),
        ValueError,
        [r"\(7, 3\); got \(7, 3, 1\)"],
    ),
    "reset of a wrong shape": (
        lambda: jaxlstm.apply(LSTM, XS, reset=MASK[:, :1]),
        ValueError,
        ["`reset`", r"\(7, 1\)"],
    ),
    "reset of integers": (
        lambda: jaxlstm.apply(LSTM, XS, reset=jnp.ones((T, B), int)),
        TypeError,
        ["`reset` must be of dtype bool; got int64"],
    ),
    "state of another network": (
        lambda: jaxlstm.apply(STACK, XS, state()),
        ValueError,
        ["another network", r"LSTMState\(h=float64\[3, 5\]"],
    ),
    "state of another cell": (
        lambda: jaxlstm.apply(LSTM, XS, jaxlstm.HiddenState(jnp.zeros((B, H)))),
        ValueError,
        [r"HiddenState\(h=", "another network"],
    ),
    "state of another batch": (
        lambda: jaxlstm.apply(LSTM, XS, state(batch=(9,))),
        ValueError,
        [r"state\.h", r"\(3, 5\)", r"\(9, 5\)"],
    ),
    "state of another dtype": (
        lambda: jaxlstm.apply(LSTM, XS, jax.tree.map(lambda a: a.astype("float32"), state())),
        TypeError,
        [r"state\.h", "float64; got float32"],
    ),
    "integers": (
        lambda: jaxlstm.apply(LSTM, XS.astype(int)),
        TypeError,
        ["float64; got int64", "one_hot"],
    ),
    "booleans": (lambda: jaxlstm.apply(LSTM, XS > 0), TypeError, ["got bool"]),
    "another dtype": (
        lambda: jaxlstm.apply(LSTM, XS.astype("bfloat16")),
        TypeError,
        ["float64; got bfloat16", "cast"],
    ),
    "words": (lambda: jaxlstm.apply(LSTM, "hello"), TypeError, ["`xs` must be one array", "str"]),
    "ragged lists": (
        lambda: jaxlstm.apply(LSTM, [[1.0], [1.0, 2.0]]),
        TypeError,
        ["`xs` must be one array"],
    ),
    "implementation": (
        lambda: jaxlstm.apply(LSTM, XS, implementation="cuda"),
        ValueError,
        ["implementation", "'scan'", "'cuda'"],
    ),
    "no implementation": (
        lambda: jaxlstm.apply(LSTM, XS, implementation=()),
        ValueError,
        ["implementation", r"got \(\)"],
    ),
    "axis of the features": (
        lambda: jaxlstm.apply(LSTM, XS, axis=2),
        ValueError,
        ["`axis`", "2", r"\(7, 3, 4\)"],
    ),
    "axis from the end": (lambda: jaxlstm.apply(LSTM, XS, axis=-2), ValueError, ["`axis`", "-2"]),
    "checkpoint": (
        lambda: jaxlstm.apply(LSTM, XS, checkpoint=-1),
        ValueError,
        ["`checkpoint`", "-1"],
    ),
    "precision": (
        lambda: jaxlstm.apply(LSTM, XS, precision="best"),
        ValueError,
        ["`precision`", "highest", "'best'"],
    ),
    "key": (lambda: jaxlstm.apply(LSTM, XS, key=1.5), TypeError, ["jax.random.key", "float"]),
    "keys": (
        lambda: jaxlstm.apply(LSTM, XS, key=jax.random.split(jax.random.key(0), 2)),
        TypeError,
        ["jax.random.key", "vmap"],
    ),
    "step of both directions": (
        lambda: jaxlstm.step(
            jaxlstm.init(jax.random.key(0), jaxlstm.gru, N, H, bidirectional=True), XS[0]
        ),
        ValueError,
        ["whole sequence", "one direction"],
    ),
    "step with time": (lambda: jaxlstm.step(LSTM, XS, state()), ValueError, [r"state\.h"]),
    "a cell called like a layer": (
        lambda: jaxlstm.lstm(XS, None),
        TypeError,
        ["jaxlstm.apply"],
    ),
    "an option that the cell has not": (
        lambda: jaxlstm.lstm(peephole=True),
        TypeError,
        ["`lstm`", "peephole"],
    ),
    "old keys": (
        lambda: jaxlstm.apply(LSTM, XS, key=jax.random.split(jax.random.PRNGKey(0))),
        TypeError,
        ["one `jax.random.key", r"uint32\[2, 2\]"],
    ),
    "mask of words": (
        lambda: jaxlstm.apply(LSTM, XS, mask="all"),
        TypeError,
        [r"`mask` must be an array of booleans of shape \(7, 3\); got a str"],
    ),
    "ragged mask": (
        lambda: jaxlstm.apply(LSTM, XS, mask=[[True], [True, False]]),
        TypeError,
        ["`mask` must be an array of booleans", "got a list"],
    ),
    "state of words": (
        lambda: jaxlstm.apply(LSTM, XS, jaxlstm.LSTMState("zero", "zero")),
        TypeError,
        ["an earlier call", r"LSTMState\(h=a str"],
    ),
    "reverse as a word": (
        lambda: jaxlstm.apply(LSTM, XS, reverse="no"),
        TypeError,
        ["`reverse` must be True or False; got 'no'"],
    ),
    "an option that is traced": (
        lambda: jax.jit(jaxlstm.apply)(LSTM, XS, axis=1),
        ValueError,
        ["`axis`", "traced", "static_argnames"],
    ),
    "checkpoint of no steps": (
        lambda: jaxlstm.apply(LSTM, XS, checkpoint=0),
        ValueError,
        ["`checkpoint`", "got 0"],
    ),
    "implementation as a number": (
        lambda: jaxlstm.apply(LSTM, XS, implementation=1),
        ValueError,
        ["`implementation`", "'scan'", "got 1"],
    ),
    "step of wrong features": (
        lambda: jaxlstm.step(LSTM, jnp.ones(9)),
        ValueError,
        [r"`x` must have shape \(\*batch, 4\); got \(9,\)"],
    ),
    "step of a number": (
        lambda: jaxlstm.step(LSTM, 1.0),
        ValueError,
        [r"`x` must have shape \(\*batch, 4\); got \(\)"],
    ),
    "step of nothing": (
        lambda: jaxlstm.step(LSTM, None),
        TypeError,
        ["`x` must be one array of inputs; got None"],
    ),
    "step under a mask of another batch": (
        lambda: jaxlstm.step(LSTM, XS[0], mask=MASK[0, :2]),
        ValueError,
        [r"the shape of `x` without its features, \(3,\); got \(2,\)"],
    ),
    "record in reverse, by a number": (
        lambda: jaxlstm.record(LSTM, XS, reverse=1),
        TypeError,
        ["`reverse` must be True or False; got 1"],
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_argument_gets_one_clear_error(case):
    refused(*WRONG[case])


@pytest.mark.parametrize(
    "case", ["features", "mask of floats", "integers", "state of another cell"]
)
def test_errors_are_raised_under_jit_too(case):
    call, exception, _ = WRONG[case]
    with pytest.raises(exception):
        jax.jit(call)()


def test_numpy_doubles_follow_jax_where_it_has_no_doubles():
    """With 64 bits off, JAX reads a NumPy double as float32 everywhere; so do the checks."""
    jax.config.update("jax_enable_x64", False)
    params = jaxlstm.init(jax.random.key(0), jaxlstm.lstm, N, H)
    assert jaxlstm.apply(params, np.ones((T, B, N)))[0].dtype == jnp.float32
