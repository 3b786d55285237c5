"""`init`: draws the weights of a network, which are its architecture."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Integer

from . import _door
from ._cell import Cell, Layer, shape_of
from ._nodes import Bidirectional, Stack, Static
from .initializers import SCHEMES, Scheme


def init_layer(
    key: Any, cell: Cell, input_size: int, hidden_size: int, dtype: Any, scheme: Scheme, bias: bool
) -> Layer:
    """Draws one layer.  Draws are made in float32 at least, then cast."""
    wide = dtype if dtype.itemsize >= 4 else jnp.float32
    for name, value in cell.size_options().items():
        _door.count(name, value)
    dims = cell.dims(input_size, hidden_size)
    n, h, g, heads = input_size, hidden_size, len(cell.recurrent), dims.get("heads", 1)
    if h % heads:
        raise ValueError(f"`hidden_size` must be a multiple of the {heads} heads; got {h}.")
    shapes = {
        "w": (n, len(cell.gates), h),
        "r": (dims["output"] // heads, g * heads, h // heads) if g else None,  # block by block
        "b": (len(cell.gates), h) if bias and cell.bias is not None else None,
        "recurrent_bias": (g, h) if bias and cell.recurrent_bias else None,
    }
    weights = cell.drawn()
    keys = iter(jax.random.split(key, len(shapes) + len(weights)))
    drawn: dict[str, Any] = {
        role: None if shape is None else getattr(scheme, role)(k, shape, wide)
        for (role, shape), k in zip(shapes.items(), keys)
    }
    if g:
        drawn["r"] = drawn["r"].reshape(-1, g, h)
    if bias and scheme.gate_biases:
        for gate, value in cell.bias or ():
            drawn["b"] = drawn["b"].at[cell.gates.index(gate)].add(value)
    drawn["weights"] = {
        name: draw(k, shape_of(shape, dims), wide)
        for (name, (shape, draw)), k in zip(weights.items(), keys)
    } or None
    cast = jax.tree.map(lambda a: a.astype(dtype), drawn)
    return Layer(cell, **cast)


def check_cell(cell: Any) -> None:
    if not isinstance(cell, Cell):
        raise TypeError(f"`cell` must be a cell, such as `jaxlstm.lstm`; got {cell!r}.")


def dtype_of(dtype: Any) -> Any:
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"`dtype` must be a floating dtype; got {dtype}.")
    return dtype


def scheme_of(scheme: Any) -> Scheme:
    if (isinstance(scheme, str) and scheme not in SCHEMES) or not isinstance(scheme, str | Scheme):
        raise ValueError(
            f"`scheme` must be one of {sorted(SCHEMES)} or a `jaxlstm.initializers.Scheme`; got "
            f"{scheme!r}."
        )
    return SCHEMES[scheme] if isinstance(scheme, str) else scheme


def init(
    key: Any,
    cell: Cell,
    input_size: int,
    hidden_size: int | Sequence[int],
    *,
    layers: int | None = None,
    bidirectional: bool = False,
    dropout: float = 0.0,
    bias: bool = True,
    dtype: Any = float,
    scheme: str | Scheme = "default",
) -> Layer | Bidirectional | Stack:
    """Draws the weights of a recurrent network.

    Args:
        key: a `jax.random.key`.
        cell: a cell, such as `jaxlstm.lstm`.
        input_size: the number of features of one time step.
        hidden_size: the width of every layer, or of each in turn.
        layers: how many; 1, or as many as `hidden_size` has widths, unless told.
        bidirectional: every layer runs in both directions and joins the two outputs.
        dropout: the probability of zeroing a unit between layers, when `apply` has a key.
        bias: False leaves all biases out.
        dtype: of every weight, and so of the inputs, the states and the outputs.
        scheme: `"default"`, `"torch"`, `"keras"`, `"irnn"` or a `jaxlstm.initializers.Scheme`.

    Returns:
        A `Layer`, a `Bidirectional` of two, or a `Stack` of several: a pytree.

    Raises:
        TypeError, ValueError: one message: what was wrong, what came, what to do.

    ```python
    params = jaxlstm.init(jax.random.key(0), jaxlstm.lstm, input_size=3, hidden_size=5)
    assert params.w.shape == (3, 4, 5)  # input, gates, hidden
    ```
    """
    key = _door.key_of(key)
    check_cell(cell)
    several = not isinstance(hidden_size, int)
    if layers is None:
        layers = len(hidden_size) if several else 1
    _door.count("layers", layers)
    _door.count("input_size", input_size)
    widths = list(hidden_size) if several else [hidden_size] * layers
    for width in widths:
        _door.count("hidden_size", width)
    if len(widths) != layers:
        raise ValueError(
            f"`hidden_size` must be one width, or one for each of the {layers} layers; got "
            f"{hidden_size!r}."
        )
    if not 0 <= dropout < 1:
        raise ValueError(f"`dropout` must be a probability below 1; got {dropout!r}.")
    if dropout and layers == 1:
        raise ValueError(
            f"`dropout` runs between layers, and one layer has no between; got {dropout!r} with "
            "`layers=1`. Drop outputs after `apply`, or pass `layers=2` or more."
        )
    dtype, made = dtype_of(dtype), scheme_of(scheme)

    def layer(key: Any, n: int, h: int) -> Layer:
        return init_layer(key, cell, n, h, dtype, made, bias)

    levels = []
    n = input_size
    for width, k in zip(widths, jax.random.split(key, layers), strict=True):
        if bidirectional:
            forward, backward = jax.random.split(k)
            levels.append(Bidirectional(layer(forward, n, width), layer(backward, n, width)))
        else:
            levels.append(layer(k, n, width))
        n = cell.output_size(width) * (1 + bidirectional)
    return levels[0] if layers == 1 else Stack(tuple(levels), Static(float(dropout)))


def lengths_to_mask(
    lengths: Integer[ArrayLike, "*batch"] | Sequence[Any], time: int, *, axis: int = 0
) -> Bool[Array, "time *batch"]:
    """The mask of sequences that start at 0 and have these lengths, time at `axis`.

    ```python
    mask = jaxlstm.lengths_to_mask([3, 1], time=4)
    assert mask.T.tolist() == [[True, True, True, False], [True, False, False, False]]
    ```
    """
    known = not isinstance(lengths, jax.core.Tracer)
    # In NumPy, so that known lengths are checked inside `jit` too.
    lengths = np.asarray(lengths) if known else jnp.asarray(lengths)
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise TypeError(f"`lengths` must be integers; got {lengths.dtype}.")
    _door.count("time", time, least=0)
    if known and lengths.size:
        low, high = int(lengths.min()), int(lengths.max())
        if low < 0 or high > time:
            raise ValueError(
                f"`lengths` must lie between 0 and the time {time}; got {low} to {high}."
            )
    lengths = jnp.asarray(lengths)
    steps = jnp.arange(time).reshape(time, *(1,) * lengths.ndim)
    mask = jnp.broadcast_to(steps, (time, *lengths.shape)) < jnp.broadcast_to(
        lengths[None], (time, *lengths.shape)
    )
    return jnp.moveaxis(mask, 0, axis)
