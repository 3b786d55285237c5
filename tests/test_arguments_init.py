"""Errors of arguments of `init` and `lengths_to_mask`, and the numbers that are welcome there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlstm
from networks import H, N, T, close, refused

pytestmark = pytest.mark.usefixtures("as_users_call_it")
KEY = jax.random.key(0)

# name: (what is called, the exception, what the message must say)
WRONG = {
    "init of a name": (
        lambda: jaxlstm.init(KEY, "lstm", N, H),
        TypeError,
        ["`jaxlstm.lstm`", "'lstm'"],
    ),
    "init without a key": (
        lambda: jaxlstm.init(None, jaxlstm.lstm, N, H),
        TypeError,
        ["`key`", "jax.random.key"],
    ),
    "init of size 0": (
        lambda: jaxlstm.init(KEY, jaxlstm.lstm, 0, H),
        ValueError,
        ["`input_size`", "got 0"],
    ),
    "init of a real size": (
        lambda: jaxlstm.init(KEY, jaxlstm.lstm, N, (H, 2.5)),
        ValueError,
        ["`hidden_size`", "2.5"],
    ),
    "init of no layers": (
        lambda: jaxlstm.init(KEY, jaxlstm.lstm, N, H, layers=0),
        ValueError,
        ["`layers`", "got 0"],
    ),
    "init of other widths than layers": (
        lambda: jaxlstm.init(KEY, jaxlstm.lstm, N, (H, H), layers=3),
        ValueError,
        ["3 layers", r"\(5, 5\)"],
    ),
    "dropout without a between": (
        lambda: jaxlstm.init(KEY, jaxlstm.lstm, N, H, dropout=0.5),
        ValueError,
        ["between layers", "layers=2"],
    ),
    "dropout of everything": (
        lambda: jaxlstm.init(KEY, jaxlstm.lstm, N, H, layers=2, dropout=1.0),
        ValueError,
        ["probability", "1.0"],
    ),
    "dtype of integers": (
        lambda: jaxlstm.init(KEY, jaxlstm.lstm, N, H, dtype=int),
        TypeError,
        ["floating", "int64"],
    ),
    "scheme": (
        lambda: jaxlstm.init(KEY, jaxlstm.lstm, N, H, scheme="best"),
        ValueError,
        ["'default'", "'torch'", "'best'"],
    ),
    "init of a real width": (
        lambda: jaxlstm.init(KEY, jaxlstm.lstm, N, 64.0),
        ValueError,
        ["`hidden_size` must be a whole number", "64.0"],
    ),
    "init of no width": (lambda: jaxlstm.init(KEY, jaxlstm.lstm, N, []), ValueError, [r"got \[\]"]),
    "init of a traced width": (
        lambda: jax.jit(lambda n: jaxlstm.init(KEY, jaxlstm.lstm, N, n))(H),
        ValueError,
        ["`hidden_size`", "traced", "static_argnames"],
    ),
    "inputs in place of their size": (
        lambda: jaxlstm.init(KEY, jaxlstm.lstm, jnp.ones((T, N)), H),
        ValueError,
        [r"`input_size`.*got float64\[7, 4\]\."],
    ),
    "dropout as a word": (
        lambda: jaxlstm.init(KEY, jaxlstm.lstm, N, H, layers=2, dropout="0.5"),
        ValueError,
        ["`dropout` must be a probability below 1; got '0.5'"],
    ),
    "directions as a word": (
        lambda: jaxlstm.init(KEY, jaxlstm.lstm, N, H, bidirectional="both"),
        TypeError,
        ["`bidirectional` must be True or False; got 'both'"],
    ),
    "bias as a word": (
        lambda: jaxlstm.init(KEY, jaxlstm.lstm, N, H, bias="zeros"),
        TypeError,
        ["`bias` must be True or False"],
    ),
    "dtype that is none": (
        lambda: jaxlstm.init(KEY, jaxlstm.lstm, N, H, dtype="float33"),
        TypeError,
        ["`dtype` must be a floating dtype; got 'float33'"],
    ),
    "scheme as a function": (
        lambda: jaxlstm.init(KEY, jaxlstm.lstm, N, H, scheme=jax.nn.initializers.zeros),
        ValueError,
        ["Scheme", "function"],
    ),
    "a convolution of a name": (
        lambda: jaxlstm.init_conv(KEY, "lstm", N, H, (3,)),
        TypeError,
        ["`jaxlstm.lstm`", "'lstm'"],
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
    "ragged lengths": (
        lambda: jaxlstm.lengths_to_mask([[1], [1, 2]], 7),
        TypeError,
        ["one array of integers", r"\[\[1\], \[1, 2\]\]"],
    ),
    "a mask in place of lengths": (
        lambda: jaxlstm.lengths_to_mask(jnp.ones((7, 2), bool), 7),
        TypeError,
        ["integers", "got bool", "directly"],
    ),
    "lengths and time swapped": (
        lambda: jaxlstm.lengths_to_mask(7, [3, 1]),
        ValueError,
        ["`time`", r"\[3, 1\]"],
    ),
    "axis of a mask": (
        lambda: jaxlstm.lengths_to_mask([3], 7, axis=2),
        ValueError,
        ["`axis`", "0 to 1; got 2"],
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_argument_gets_one_clear_error(case):
    refused(*WRONG[case])


def test_doubles_are_not_narrowed_in_silence():
    """`float` is what JAX has; to ask for float64 by name where there is none is an error."""
    jax.config.update("jax_enable_x64", False)
    assert jaxlstm.init(KEY, jaxlstm.lstm, N, H).w.dtype == jnp.float32
    for dtype in ("float64", jnp.float64, np.dtype("float64")):
        refused(
            lambda dtype=dtype: jaxlstm.init(KEY, jaxlstm.lstm, N, H, dtype=dtype),
            TypeError,
            ["float64", "jax_enable_x64"],
        )


def test_numbers_of_numpy_are_welcome():
    one = np.int64(1)
    params = jaxlstm.init(KEY, jaxlstm.lstm, N * one, np.array([H, H]), dropout=np.float32(0.5))
    close(params, jaxlstm.init(KEY, jaxlstm.lstm, N, H, layers=2 * one, dropout=0.5))
    xs = np.ones((3, T, N))
    plain = jaxlstm.apply(params, xs, axis=1, reverse=True, checkpoint=2)
    close(jaxlstm.apply(params, xs, axis=one, reverse=np.True_, checkpoint=2 * one), plain)
    assert jaxlstm.lengths_to_mask(np.array([3, 200], np.uint8), 300 * one).sum() == 203


def test_known_lengths_are_checked_inside_jit():
    lengths = jnp.array([3, 1])
    assert jax.jit(lambda: jaxlstm.lengths_to_mask(lengths, 4))().sum() == 4
    assert jax.jit(jaxlstm.lengths_to_mask, static_argnums=1)(lengths, 4).sum() == 4
    with pytest.raises(ValueError, match="3 to 8"):
        jax.jit(lambda: jaxlstm.lengths_to_mask([3, 8], 7))()


def test_traced_lengths_end_where_time_ends():
    """Their values are not known, so they cannot be an error."""
    mask = jax.jit(lambda lengths: jaxlstm.lengths_to_mask(lengths, 7))(jnp.array([9, -3, 2]))
    assert mask.sum(0).tolist() == [7, 0, 2]
