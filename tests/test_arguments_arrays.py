"""What counts as an array: NumPy's in every layout, lists, tensors of others."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import jaxlstm
from networks import H, N, T, close, network, refused

pytestmark = pytest.mark.usefixtures("as_users_call_it")
B = 3
XS = np.random.default_rng(0).normal(size=(T, B, N))
MASK = np.arange(T)[:, None] < np.array([7, 4, 0])


class Tensor:
    """An array of another framework, that NumPy reads."""

    def __init__(self, a):
        self.a = a

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.a, dtype)


class OnlyExchanged:
    """A tensor that is exchanged alone, as those of a dtype that NumPy has not."""

    def __init__(self, a):
        self.a = jnp.asarray(a)

    def __array__(self, dtype=None, copy=None):
        raise TypeError("no such dtype")

    def __dlpack__(self, **how):
        return self.a.__dlpack__(**how)

    def __dlpack_device__(self):
        return self.a.__dlpack_device__()


class Refusing:
    """A tensor that is part of a gradient."""

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("detach it first")

    def __dlpack__(self, **how):
        raise BufferError("detach it first")


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


LAYOUTS = {
    "big endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "little endian": lambda a: a.astype(a.dtype.newbyteorder("<")),
    "Fortran order": np.asfortranarray,
    "not contiguous": lambda a: np.repeat(a, 2, 0)[::2],
    "swapped": lambda a: np.ascontiguousarray(a.swapaxes(0, -1)).swapaxes(0, -1),
    "backwards": lambda a: np.ascontiguousarray(a[::-1])[::-1],
    "read only": read_only,
    "unaligned": lambda a: np.frombuffer(b"x" + a.tobytes(), a.dtype, offset=1).reshape(a.shape),
    "broadcast": lambda a: np.broadcast_to(a[None], (2, *a.shape))[1],
    "lists": lambda a: a.tolist(),
    "a list of arrays": list,
    "a list of JAX arrays": lambda a: [*map(jnp.asarray, a)],
    "memoryview": lambda a: memoryview(np.ascontiguousarray(a)),
    "a tensor": Tensor,
    "a tensor that is exchanged": OnlyExchanged,
}
NARROW = {k: f for k, f in LAYOUTS.items() if k not in ("lists", "memoryview")}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read(layout):
    change = LAYOUTS[layout]
    params = network(jaxlstm.lstm)
    expected = jaxlstm.apply(params, jnp.asarray(XS), mask=jnp.asarray(MASK))
    close(jaxlstm.apply(params, change(XS), mask=change(MASK)), expected)
    state = jax.tree.map(lambda a: jnp.asarray(XS[0, :, :1]) + jnp.zeros_like(a), expected[1])
    given = type(state)(*(change(np.asarray(a)) for a in state)) if "list" not in layout else state
    close(jaxlstm.apply(params, change(XS), given), jaxlstm.apply(params, XS, state))
    close(jaxlstm.step(params, change(XS[0])), jaxlstm.step(params, XS[0]))
    inside = change(XS)
    close(jax.jit(lambda p: jaxlstm.apply(p, inside))(params), jaxlstm.apply(params, XS))
    if "list" not in layout and layout not in ("memoryview", "a tensor that is exchanged"):
        weights = jax.tree.map(lambda a: change(np.asarray(a)), params)
        if hasattr(weights.w, "dtype"):
            close(jaxlstm.apply(weights, XS), jaxlstm.apply(params, XS))


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
@pytest.mark.parametrize("layout", NARROW)
def test_every_layout_of_16_bits_is_read(layout, dtype):
    xs = XS.astype(dtype)
    params = network(jaxlstm.gru, dtype=dtype)
    close(jaxlstm.apply(params, NARROW[layout](xs)), jaxlstm.apply(params, jnp.array(xs)))


def test_the_callers_array_may_change_while_jax_runs():
    """Large and aligned, so that JAX would take it as it lies in memory."""
    params = network(jaxlstm.lstm)
    size = 64 * 64 * N * 8
    memory = np.zeros(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    xs = memory[start : start + size].view(np.float64).reshape(64, 64, N)
    xs[:] = 1
    ys, _ = jaxlstm.apply(params, xs)
    xs[:] = -1
    close(ys, jaxlstm.apply(params, jnp.ones((64, 64, N)))[0])


LSTM = network(jaxlstm.lstm)
SHAPES = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), LSTM)
IS_ABSTRACT = ["A shape has no values", "jax.eval_shape"]
WRONG = {
    "objects": (lambda: jaxlstm.apply(LSTM, XS.astype(object)), ["object", "an array of numbers"]),
    "words": (lambda: jaxlstm.apply(LSTM, XS.astype(str)), ["`xs`", "dtype <U", "of numbers"]),
    "dates": (lambda: jaxlstm.apply(LSTM, np.zeros(XS.shape, "M8[s]")), ["datetime64"]),
    "long doubles": (lambda: jaxlstm.apply(LSTM, XS.astype(np.longdouble)), ["`xs`", "float128"]),
    "complex": (lambda: jaxlstm.apply(LSTM, XS + 1j), ["complex128", "pass real numbers"]),
    "masked array": (
        lambda: jaxlstm.apply(LSTM, np.ma.masked_array(XS, XS > 0)),
        ["a MaskedArray float64", r"\.filled\(0\)", "mask="],
    ),
    "mask as a masked array": (
        lambda: jaxlstm.apply(LSTM, XS, mask=np.ma.masked_array(MASK)),
        ["`mask`", "MaskedArray"],
    ),
    "weights as a masked array": (
        lambda: jaxlstm.apply(LSTM._replace(b=np.ma.masked_array(np.zeros((4, H)))), XS),
        [r"`params\.b`", "MaskedArray", "filled"],
    ),
    "weights of objects": (
        lambda: jaxlstm.apply(LSTM._replace(b=np.zeros((4, H), object)), XS),
        [r"`params\.b`", "object"],
    ),
    "a tensor in a gradient": (
        lambda: jaxlstm.apply(LSTM, Refusing()),
        ["`xs` must be one array", r"detach\(\)"],
    ),
    "abstract inputs": (
        lambda: jaxlstm.apply(LSTM, jax.ShapeDtypeStruct(XS.shape, XS.dtype)),
        ["`xs`", *IS_ABSTRACT],
    ),
    "abstract weights": (lambda: jaxlstm.apply(SHAPES, XS), [r"`params\.w`", *IS_ABSTRACT]),
    "abstract weights, step": (lambda: jaxlstm.step(SHAPES, XS[0]), IS_ABSTRACT),
    "abstract weights, record": (lambda: jaxlstm.record(SHAPES, XS), IS_ABSTRACT),
    "abstract weights, flow": (
        lambda: jaxlstm.gradient_flow(SHAPES, XS, jnp.sum),
        IS_ABSTRACT,
    ),
    "abstract state": (
        lambda: jaxlstm.apply(LSTM, XS, jax.eval_shape(jaxlstm.apply, LSTM, XS)[1]),
        ["`state`", *IS_ABSTRACT],
    ),
    "abstract key": (
        lambda: jaxlstm.apply(LSTM, XS, key=jax.eval_shape(lambda: jax.random.key(0))),
        ["`key`"],
    ),
    "a seed": (lambda: jaxlstm.apply(LSTM, XS, key=3), [r"by `jax\.random\.key\(3\)`"]),
    "lengths as a masked array": (
        lambda: jaxlstm.lengths_to_mask(np.ma.masked_array([1, 2]), T),
        ["`lengths`", "filled"],
    ),
    "tokens": (
        lambda: jaxlstm.apply(LSTM, np.zeros((T, B), int)),
        [r"got int64\[7, 3\]", "one_hot", "a row of features for each"],
    ),
    "tokens, batch first": (
        lambda: jaxlstm.apply(LSTM, np.zeros((B, T), int), axis=1),
        ["one_hot"],
    ),
    "tokens of one row": (lambda: jaxlstm.apply(LSTM, np.zeros(T, int)), ["one_hot"]),
    "tokens of a step": (lambda: jaxlstm.step(LSTM, np.zeros(B, int)), ["`x`", "one_hot"]),
    "one token": (lambda: jaxlstm.step(LSTM, 3), [r"got int64\[\]", "one_hot"]),
    "numbers that are whole": (
        lambda: jaxlstm.apply(LSTM, XS.astype(int)),
        ["one_hot", r"`xs\.astype\('float64'\)`"],
    ),
    "a list of whole numbers": (
        lambda: jaxlstm.apply(LSTM, XS.astype(int).tolist()),
        [r"`np\.asarray\(xs, 'float64'\)`"],
    ),
    "another dtype, exchanged": (
        lambda: jaxlstm.apply(LSTM, OnlyExchanged(XS.astype(ml_dtypes.bfloat16))),
        ["got bfloat16", r"`jnp\.array\(xs\)\.astype\('float64'\)`"],
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_array_gets_one_clear_error(case):
    call, message = WRONG[case]
    refused(call, TypeError, message)


def test_shapes_alone():
    """Abstract weights are for `jax.eval_shape`, and for what computes nothing."""
    xs = jax.ShapeDtypeStruct(XS.shape, XS.dtype)
    for f in (jaxlstm.apply, jaxlstm.record):
        shapes = jax.eval_shape(f, SHAPES, xs)
        for a, b in zip(jax.tree.leaves(shapes), jax.tree.leaves(f(LSTM, XS)), strict=True):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
    assert jaxlstm.implementations(SHAPES, xs) == jaxlstm.implementations(LSTM, XS)


def test_lists_of_no_rows():
    """NumPy takes a list without numbers for one of doubles."""
    params, xs = network(jaxlstm.lstm), jnp.ones((3, 0, N))
    assert jaxlstm.lengths_to_mask([], 5).shape == (5, 0)
    assert jaxlstm.lengths_to_mask([[], []], 5).shape == (5, 2, 0)
    for name in ("mask", "reset"):
        assert jaxlstm.apply(params, xs, **{name: [[], [], []]})[0].shape == (3, 0, H)
        assert jaxlstm.step(params, xs[0], **{name: []})[0].shape == (0, H)
    with pytest.raises(TypeError, match="must be integers"):
        jaxlstm.lengths_to_mask(np.zeros(0), 5)


def test_lengths_in_every_layout():
    expected = jaxlstm.lengths_to_mask([7, 4, 0], T)
    for change in (*LAYOUTS.values(), jnp.asarray):
        close(jaxlstm.lengths_to_mask(change(np.array([7, 4, 0])), T), expected)
    traced = jax.jit(lambda a, b: jaxlstm.lengths_to_mask([a, b, 0], T))(7, 4)
    close(traced, expected)


def test_doubles_where_jax_has_none():
    """Weights drawn in 64 bits; no advice to cast to what there is not."""
    params = network(jaxlstm.lstm)
    xs, ones = jnp.ones((T, B, N)), np.ones((T, B, N))
    jax.config.update("jax_enable_x64", False)
    remedy = ["`params` are of float64", "jax_enable_x64", r"astype\('float32'\)"]
    for given in (xs, ones, ones.astype("float32"), ones.astype(int)):
        for f in (jaxlstm.apply, jaxlstm.record, jax.jit(jaxlstm.apply)):
            refused(lambda f=f, given=given: f(params, given), TypeError, remedy)
    single = jax.tree.map(lambda a: a.astype("float32"), params)
    assert jaxlstm.apply(single, ones)[0].dtype == jnp.float32
    assert jaxlstm.apply(jax.tree.map(np.asarray, params), ones)[0].dtype == jnp.float32
    refused(lambda: jaxlstm.apply(single, xs), TypeError, [r"xs\.astype\('float32'\)"])


def swap(a):
    return jnp.swapaxes(a, 0, 1)


def message_of(call):
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    return str(caught.value)


def test_no_advice_that_is_followed_already():
    """With `axis=1` nothing tells to pass it, and lengths become a mask with time there."""
    state = jaxlstm.apply(LSTM, XS)[1]
    wrong = [
        lambda axis, turn: jaxlstm.apply(LSTM, turn(XS), mask=swap(turn(MASK)), axis=axis),
        lambda axis, turn: jaxlstm.apply(LSTM, turn(XS), reset=swap(turn(MASK)), axis=axis),
        lambda axis, turn: jaxlstm.apply(LSTM, swap(turn(XS)), state, axis=axis),
        lambda axis, turn: jaxlstm.apply(LSTM, turn(XS), mask=np.ones(B), axis=axis),
        lambda axis, turn: jaxlstm.apply(LSTM, turn(XS)[..., :2], axis=axis),
        lambda axis, turn: jaxlstm.apply(LSTM, turn(XS)[..., 0], axis=axis),
    ]
    plain = [message_of(lambda f=f: f(0, lambda a: a)) for f in wrong]
    first = [message_of(lambda f=f: f(1, swap)) for f in wrong]
    assert all("pass `axis=1`" in m or "or `axis=1`" in m for m in plain[:3])
    assert "lengths_to_mask(lengths, time)" in plain[3]
    assert "lengths_to_mask(lengths, time, axis=1)" in first[3]
    for message in first[:3] + first[4:]:
        assert "axis=1" not in message


def test_advice_is_for_what_came():
    """A state of another batch is not swapped, and a mask with features is no lengths."""
    state = jaxlstm.apply(LSTM, np.ones((T, 9, N)))[1]
    assert "axis=1" not in message_of(lambda: jaxlstm.apply(LSTM, XS, state))
    assert "one step without time" not in message_of(lambda: jaxlstm.step(LSTM, XS[0], state))
    sequence = message_of(lambda: jaxlstm.step(LSTM, XS, jaxlstm.apply(LSTM, XS)[1]))
    assert "a sequence is run by `apply`" in sequence
    assert "lengths" not in message_of(lambda: jaxlstm.apply(LSTM, XS, mask=MASK[..., None]))
    assert "lengths" not in message_of(lambda: jaxlstm.apply(LSTM, XS, mask=MASK.astype(int)))
    assert "vmap" not in message_of(lambda: jaxlstm.apply(LSTM, XS, key=1.5))
