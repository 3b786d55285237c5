"""Convolutional recurrent layers: any cell, with a convolution in place of the products."""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike
from jaxtyping import Array, ArrayLike, Float

from . import _arguments
from ._cell import Cell
from ._control import on_each_device, shared
from ._dtypes import wide
from ._init import checked, init_layer
from ._layer import CellNode, biased, bilinear
from .initializers import Scheme


class _ConvLayer(NamedTuple):
    cell: Cell
    w: Float[Array, "*kernel input gates hidden"]
    r: Float[Array, "*kernel output recurrent hidden"] | None
    b: Float[Array, "gates hidden"] | None
    recurrent_bias: Float[Array, "recurrent hidden"] | None = None
    weights: dict[str, Array] | None = None


class ConvLayer(_ConvLayer, CellNode):
    """The weights of one convolutional recurrent layer, and the cell that they are for.

    `xs` is `(time, *batch, *space, input)` with one to three spatial axes, which states and
    outputs have too; `mask` and `reset` are `(time, *batch)`.  Edges are padded with zeros.
    """

    __slots__ = ()
    __repr__ = CellNode.__repr__

    @property
    def spatial_axes(self) -> int:
        """How many axes one input has besides its features."""
        return self.w.ndim - 3

    def product(self, x: Array, w: Array, b: Array | None) -> Array:
        """The convolution of `x` with `w`, and `b`."""
        if any(spec := shared(x)):  # JAX cannot join the axes of such rows to one
            alone = functools.partial(self.product, b=None)
            rows, made = P(*spec), P(*spec[:-1], None, None)
            y = on_each_device(alone, x, (rows, P()), made)(x, w)
            return biased(y, b)
        *kernel, n, g, h = w.shape
        places = x.shape[-1 - len(kernel) : -1]
        letters = "DHW"[-len(kernel) :]
        convolution = functools.partial(
            jax.lax.conv_general_dilated,
            window_strides=(1,) * len(kernel),
            padding="SAME",
            dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
        )
        x_rows = x.reshape(math.prod(x.shape[: -1 - len(kernel)]), *places, n)
        y = bilinear(convolution, x_rows, w.reshape(*kernel, n, g * h), self.operands)
        return biased(y.reshape(*x.shape[:-1], g, h), b)


def init_conv(
    key: ArrayLike,
    cell: Cell,
    input_size: int,
    hidden_size: int,
    kernel: Sequence[int],
    *,
    bias: bool = True,
    dtype: DTypeLike = float,
    scheme: str | Scheme = "default",
) -> ConvLayer:
    """Initializes the weights of a convolutional recurrent layer: a ConvLSTM, a ConvGRU.

    `kernel` has one to three sizes, one for each spatial axis; `input_size` and `hidden_size`
    count channels.  Shi et al. 2015, "Convolutional LSTM network: a machine learning approach
    for precipitation nowcasting", arXiv:1506.04214, without its peepholes, whose weights differ
    from place to place; `peephole_lstm` has one weight for each channel instead.

    ```python
    params = jaxlstm.init_conv(jax.random.key(0), jaxlstm.lstm, 3, 5, kernel=(3, 3))
    ys, state = jaxlstm.apply(params, jnp.ones((7, 2, 8, 8, 3)))  # time, batch, height, width
    assert ys.shape == (7, 2, 8, 8, 5)
    ```
    """
    start, made, of = checked(key, cell, scheme, dtype)
    if not isinstance(kernel, Sequence) or not 1 <= len(kernel) <= 3:
        raise ValueError(
            f"`kernel` must have one, two or three sizes, as in `(3, 3)`; got {kernel!r}."
        )
    if cell.size_options().get("heads", 1) != 1:
        raise ValueError(f"a convolutional layer is of a cell with one head; got {cell}.")
    sides = [_arguments.count("kernel", size) for size in kernel]
    input_size = _arguments.count("input_size", input_size)
    hidden_size = _arguments.count("hidden_size", hidden_size)
    bias = _arguments.flag("bias", bias)
    inner, outer = jax.random.split(start)
    places = math.prod(sides)
    # Initial weights depend on the number of inputs that a unit sees, over the whole kernel.
    p = init_layer(inner, cell, places * input_size, hidden_size, of, made, bias)
    w = p.w.reshape(*sides, input_size, *p.w.shape[1:])
    r = p.r
    if r is not None:
        r = made.r(outer, (places * r.shape[0], *r.shape[1:]), wide(of)).astype(of)
        r = r.reshape(*sides, -1, *r.shape[1:])
        # An identity matrix stands at the first place of the kernel and belongs in the middle;
        # to other initializers all places are alike.
        r = jnp.roll(r, [(size - 1) // 2 for size in sides], range(len(sides)))
    return ConvLayer(cell, w, r, p.b, p.recurrent_bias, p.weights)
