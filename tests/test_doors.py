"""Errors at the door: one exception, one message that says what, what came and what to do."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import jaxlstm
from networks import H, N, T

B = 3
XS = jnp.ones((T, B, N))
LSTM = jaxlstm.init(jax.random.key(0), jaxlstm.lstm, N, H)
STACK = jaxlstm.init(jax.random.key(0), jaxlstm.lstm, N, H, layers=2)
MASK = jnp.ones((T, B), bool)


@pytest.fixture(autouse=True)
def _as_users_call_it():
    """Without the shape checks of the tests, which would answer before the door does."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


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
        ["another network", r"HiddenCell\(h=float64\[3, 5\]"],
    ),
    "state of another cell": (
        lambda: jaxlstm.apply(LSTM, XS, jaxlstm.Hidden(jnp.zeros((B, H)))),
        ValueError,
        [r"Hidden\(h=", "another network"],
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
    "words": (lambda: jaxlstm.apply(LSTM, "hello"), TypeError, ["`xs` must be an array", "str"]),
    "ragged lists": (
        lambda: jaxlstm.apply(LSTM, [[1.0], [1.0, 2.0]]),
        TypeError,
        ["`xs` must be an array"],
    ),
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
    "init of a name": (
        lambda: jaxlstm.init(jax.random.key(0), "lstm", N, H),
        TypeError,
        ["`jaxlstm.lstm`", "'lstm'"],
    ),
    "init without a key": (
        lambda: jaxlstm.init(None, jaxlstm.lstm, N, H),
        TypeError,
        ["`key`", "jax.random.key"],
    ),
    "init of size 0": (
        lambda: jaxlstm.init(jax.random.key(0), jaxlstm.lstm, 0, H),
        ValueError,
        ["`input_size`", "got 0"],
    ),
    "init of a real size": (
        lambda: jaxlstm.init(jax.random.key(0), jaxlstm.lstm, N, (H, 2.5)),
        ValueError,
        ["`hidden_size`", "2.5"],
    ),
    "init of no layers": (
        lambda: jaxlstm.init(jax.random.key(0), jaxlstm.lstm, N, H, layers=0),
        ValueError,
        ["`layers`", "got 0"],
    ),
    "init of other widths than layers": (
        lambda: jaxlstm.init(jax.random.key(0), jaxlstm.lstm, N, (H, H), layers=3),
        ValueError,
        ["3 layers", r"\(5, 5\)"],
    ),
    "dropout without a between": (
        lambda: jaxlstm.init(jax.random.key(0), jaxlstm.lstm, N, H, dropout=0.5),
        ValueError,
        ["between layers", "layers=2"],
    ),
    "dropout of everything": (
        lambda: jaxlstm.init(jax.random.key(0), jaxlstm.lstm, N, H, layers=2, dropout=1.0),
        ValueError,
        ["probability", "1.0"],
    ),
    "dtype of integers": (
        lambda: jaxlstm.init(jax.random.key(0), jaxlstm.lstm, N, H, dtype=int),
        TypeError,
        ["floating", "int64"],
    ),
    "scheme": (
        lambda: jaxlstm.init(jax.random.key(0), jaxlstm.lstm, N, H, scheme="best"),
        ValueError,
        ["'default'", "'torch'", "'best'"],
    ),
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
    "lengths beyond time": (
        lambda: jaxlstm.lengths_to_mask(jnp.array([3, 8]), 7),
        ValueError,
        ["between 0 and the time 7", "3 to 8"],
    ),
    "negative lengths": (
        lambda: jaxlstm.lengths_to_mask(jnp.array([-1]), 7),
        ValueError,
        ["-1"],
    ),
    "real lengths": (
        lambda: jaxlstm.lengths_to_mask(jnp.array([2.0]), 7),
        TypeError,
        ["integers", "float64"],
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_argument_gets_one_clear_error(case):
    call, exception, said = WRONG[case]
    with pytest.raises(exception) as caught:
        call()
    assert type(caught.value) is exception
    for part in said:
        caught.match("(?s)" + part)


@pytest.mark.parametrize(
    "case", ["features", "mask of floats", "integers", "state of another cell"]
)
def test_the_door_is_there_under_jit(case):
    call, exception, _ = WRONG[case]
    with pytest.raises(exception):
        jax.jit(call)()


def test_numpy_doubles_follow_jax_where_it_has_no_doubles():
    """With 64 bits off, JAX reads a NumPy double as float32 everywhere; so does the door."""
    jax.config.update("jax_enable_x64", False)
    params = jaxlstm.init(jax.random.key(0), jaxlstm.lstm, N, H)
    assert jaxlstm.apply(params, np.ones((T, B, N)))[0].dtype == jnp.float32


def test_known_lengths_are_checked_inside_jit():
    lengths = jnp.array([3, 1])
    assert jax.jit(lambda: jaxlstm.lengths_to_mask(lengths, 4))().sum() == 4
    assert jax.jit(jaxlstm.lengths_to_mask, static_argnums=1)(lengths, 4).sum() == 4
    with pytest.raises(ValueError, match="3 to 8"):
        jax.jit(lambda: jaxlstm.lengths_to_mask([3, 8], 7))()
