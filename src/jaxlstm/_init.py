"""`init`: initializes the weights of a network, which are its architecture."""

from collections.abc import Sequence
from typing import Literal, overload

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.export import is_symbolic_dim
from jax.typing import DTypeLike
from jaxtyping import Array, ArrayLike, Bool, Integer, PyTree

from . import _arguments, _flax
from ._cell import Cell, Layer, shape_of
from ._containers import Bidirectional, Stack, Static
from ._declaration import check_equations, check_weight
from ._dtypes import wide
from ._types import DType, Key, Shape
from .initializers import SCHEMES, Scheme


def init_layer(
    key: Key,
    cell: Cell,
    input_size: int,
    hidden_size: int,
    dtype: DType,
    scheme: Scheme,
    bias: bool,
) -> Layer:
    """Initializes one layer.  Weights are sampled in float32 at least, then cast."""
    sampled = wide(dtype)
    for name, value in cell.size_options().items():
        _arguments.count(name, value)
    dims = cell.dims(input_size, hidden_size)
    h, heads = hidden_size, dims.get("heads", 1)
    if h % heads:
        raise ValueError(f"`hidden_size` must be a multiple of the {heads} heads; got {h}.")
    check_equations(cell, input_size, h)
    last = cell.shapes(input_size, h)
    needed = {"b": bias, "recurrent_bias": bias and cell.recurrent_bias}
    shapes: dict[str, Shape | None] = {
        role: shape if needed.get(role, True) else None for role, shape in last.items()
    }
    if shapes["r"]:  # sampled block by block
        rows, g, _ = shapes["r"]
        shapes["r"] = rows, g * heads, h // heads
    additional = cell.own_weights()
    keys = iter(jax.random.split(key, len(shapes) + len(additional)))
    arrays: dict[str, PyTree] = {
        role: None if shape is None else getattr(scheme, role)(k, shape, sampled)
        for (role, shape), k in zip(shapes.items(), keys)
    }
    if last["r"]:
        arrays["r"] = arrays["r"].reshape(last["r"])
    if bias and scheme.gate_biases:
        for gate, value in cell.bias or ():
            arrays["b"] = arrays["b"].at[cell.gates.index(gate)].add(value)
    arrays["weights"] = {
        name: check_weight(cell, name, weight.init(k, shape, sampled), shape, sampled)
        for (name, weight), k in zip(additional.items(), keys)
        for shape in [shape_of(weight.shape, dims)]
    } or None
    cast = jax.tree.map(lambda a: a.astype(dtype), arrays)
    return Layer(cell, **cast)


def checked(
    key: object, cell: object, scheme: object, dtype: DTypeLike | None
) -> tuple[Key, Scheme, DType]:
    """The validated `(key, scheme, dtype)` of `init` and `init_conv`."""
    _flax.register()
    key = _arguments.key_of(key)
    if not isinstance(cell, Cell):
        raise TypeError(f"`cell` must be a cell, such as `jaxlstm.lstm`; got {cell!r}.")
    made = SCHEMES.get(scheme) if isinstance(scheme, str) else scheme
    if not isinstance(made, Scheme):
        raise ValueError(
            f"`scheme` must be one of {sorted(SCHEMES)} or a `jaxlstm.initializers.Scheme`; got "
            f"{scheme!r}."
        )
    return key, made, _arguments.floating(dtype)


@overload
def init(  # pyright: ignore[reportOverlappingOverload]
    key: ArrayLike,
    cell: Cell,
    input_size: int,
    hidden_size: int,
    *,
    layers: Literal[1] | None = None,
    bidirectional: Literal[False] = False,
    dropout: float = 0.0,
    bias: bool = True,
    dtype: DTypeLike = float,
    scheme: str | Scheme = "default",
) -> Layer: ...


@overload
def init(
    key: ArrayLike,
    cell: Cell,
    input_size: int,
    hidden_size: int,
    *,
    layers: Literal[1] | None = None,
    bidirectional: Literal[True],
    dropout: float = 0.0,
    bias: bool = True,
    dtype: DTypeLike = float,
    scheme: str | Scheme = "default",
) -> Bidirectional: ...


@overload
def init(
    key: ArrayLike,
    cell: Cell,
    input_size: int,
    hidden_size: int | Sequence[int],
    *,
    layers: int | None = None,
    bidirectional: bool = False,
    dropout: float = 0.0,
    bias: bool = True,
    dtype: DTypeLike = float,
    scheme: str | Scheme = "default",
) -> Stack: ...


def init(
    key: ArrayLike,
    cell: Cell,
    input_size: int,
    hidden_size: int | Sequence[int],
    *,
    layers: int | None = None,
    bidirectional: bool = False,
    dropout: float = 0.0,
    bias: bool = True,
    dtype: DTypeLike = float,
    scheme: str | Scheme = "default",
) -> Layer | Bidirectional | Stack:
    """Initializes the weights of a recurrent network.

    Args:
        key: a `jax.random.key`.
        cell: a cell, such as `jaxlstm.lstm`.
        input_size: the number of features of one time step.
        hidden_size: the width of every layer, or of each in turn.
        layers: the number of layers; by default 1, or the number of widths in `hidden_size`.
        bidirectional: whether every layer runs in both directions and concatenates the two outputs.
        dropout: the probability of zeroing a unit between layers, when `apply` has a key.
        bias: False omits all biases.
        dtype: of every weight, and so of the inputs and outputs.  With 16 bits (`bfloat16`,
            `float16`), products take 16-bit operands and accumulate in float32, and the
            CPU kernel computes them in float32; states and equations are float32.
        scheme: `"default"`, `"torch"`, `"keras"`, `"irnn"` or a `jaxlstm.initializers.Scheme`.

    Returns:
        A `Layer`, a `Bidirectional` of two, or a `Stack` of several: a pytree.  To a type
        checker it is a `Stack` unless `layers` is known to be 1.

    Raises:
        TypeError, ValueError: an argument is invalid; the message says what was expected, what
            was passed and what to do.

    ```python
    params = jaxlstm.init(jax.random.key(0), jaxlstm.lstm, input_size=3, hidden_size=5)
    assert params.w.shape == (3, 4, 5)  # input, gates, hidden
    ```
    """
    start, made, of = checked(key, cell, scheme, dtype)
    several = isinstance(hidden_size, list | tuple) or getattr(hidden_size, "ndim", 0) == 1
    sizes: PyTree = hidden_size  # one or several, of Python, NumPy or JAX
    if layers is None:
        layers = max(len(sizes), 1) if several else 1
    layers = _arguments.count("layers", layers)
    input_size = _arguments.count("input_size", input_size)
    widths = [_arguments.count("hidden_size", n) for n in (sizes if several else [sizes] * layers)]
    if len(widths) != layers:
        raise ValueError(
            f"`hidden_size` must be one width, or one for each of the {layers} layers; got "
            f"{hidden_size!r}."
        )
    dropout = _arguments.probability("dropout", dropout)
    bidirectional = _arguments.flag("bidirectional", bidirectional)
    bias = _arguments.flag("bias", bias)
    if dropout and layers == 1:
        raise ValueError(
            f"`dropout` is applied between layers, which needs at least two; got {dropout!r} with "
            "`layers=1`. Apply dropout to the outputs of `apply`, or pass `layers=2` or more."
        )

    def layer(key: Key, n: int, h: int) -> Layer:
        return init_layer(key, cell, n, h, of, made, bias)

    levels = []
    n = input_size
    for width, k in zip(widths, jax.random.split(start, layers), strict=True):
        if bidirectional:
            forward, backward = jax.random.split(k)
            levels.append(Bidirectional(layer(forward, n, width), layer(backward, n, width)))
        else:
            levels.append(layer(k, n, width))
        n = cell.output_size(width) * (1 + bidirectional)
    return levels[0] if layers == 1 else Stack(tuple(levels), Static(dropout))


def lengths_to_mask(
    lengths: Integer[ArrayLike, "*batch"] | Sequence[PyTree], time: int, *, axis: int = 0
) -> Bool[Array, "time *batch"]:
    """The mask of sequences that start at 0 and have these lengths, time at `axis`.

    ```python
    mask = jaxlstm.lengths_to_mask([3, 1], time=4)
    assert mask.T.tolist() == [[True, True, True, False], [True, False, False, False]]
    ```

    Lengths must lie between 0 and `time`, which may be a size of `jax.export.symbolic_shape`.
    Traced lengths cannot be checked: those above `time` act as `time`, those below 0 as 0.
    """
    try:
        given = _arguments.numbers(lengths)
    except TypeError as e:
        message = f"`lengths` must be one array of integers; got {lengths!r}."
        raise TypeError(f"{message} {e}".rstrip()) from None
    known = not isinstance(given, jax.core.Tracer)
    if known:  # as NumPy, so that constant lengths are checked inside `jit` too
        given = np.asarray(given)
    if _arguments.says_no_dtype(lengths, given):
        given = given.astype(int)
    if not jnp.issubdtype(given.dtype, jnp.integer):
        raise TypeError(
            f"`lengths` must be integers, one for each row; got {given.dtype}. Pass a mask to "
            "`apply` directly."
        )
    if not is_symbolic_dim(time):  # which is known when an exported program runs
        time = _arguments.count("time", time, least=0)
    at = _arguments.whole(axis)
    if at is None or not 0 <= at <= given.ndim:
        raise ValueError(
            f"`axis` must be the axis of time in the mask, 0 to {given.ndim}; got "
            f"{_arguments.short_repr(axis)}."
        )
    if known and given.size:
        low, high = int(given.min()), int(given.max())
        if low < 0 or (isinstance(time, int) and high > time):
            raise ValueError(
                f"`lengths` must lie between 0 and the time {time}; got {low} to {high}."
            )
    # A narrow dtype may represent the lengths but not `time`.
    ends = _arguments.array(given.astype(jax.dtypes.canonicalize_dtype(int)))
    shape = (time, *ends.shape)
    steps = jax.lax.broadcasted_iota(ends.dtype, shape, 0)
    return jnp.moveaxis(steps < jnp.broadcast_to(ends[None], shape), 0, at)
