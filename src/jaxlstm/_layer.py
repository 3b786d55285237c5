"""A layer: the weights of one cell, and the products that they take part in."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._named import mark

if TYPE_CHECKING:
    from ._value import Cell, State


class Layer(NamedTuple):
    """The weights of one recurrent layer, and the cell that they are for."""

    cell: "Cell"
    w: Float[Array, "*ens input gates hidden"]
    r: Float[Array, "*ens output recurrent hidden"] | None
    b: Float[Array, "*ens gates hidden"] | None
    recurrent_bias: Float[Array, "*ens recurrent hidden"] | None = None
    weights: dict[str, Array] | None = None

    @property
    def input_size(self) -> int:
        return self.w.shape[0]

    def zeros(self, batch: Sequence[int]) -> "State":
        """The initial state."""
        return self.cell.zeros(batch, self.w.shape[-1], self.w.dtype)

    def project(self, xs: Float[Array, "*time input"]) -> Float[Array, "*time gates hidden"]:
        """`u = x w + b`, which does not wait for the state: for one step, or for all."""
        return self.product(xs, self.w, self.b)

    def product(self, x: Array, w: Array, b: Array | None) -> Array:
        """What a weight does to an input or a state; in other nodes, a convolution."""
        return product(x, w, b)

    def step(self, s: "State", u: Float[Array, "*batch gates hidden"], key: Any = None) -> "State":
        """One time step.  `key` is for nodes that draw noise; a layer draws none."""
        return self.cell.step(self, s, u)


def front(a: Array) -> Array:
    """Gates first, as the equations take them: `i, f, g, o = u`."""
    return jnp.moveaxis(a, -2, 0)


def product(x: Array, w: Array, b: Array | None) -> Array:
    """`x w + b` over the last axis; the product itself is flat.

    Where `w` has fewer rows than `x` has features it is block diagonal: one block for each
    head, which sees its own part of `x` and makes its own part of the result.
    """
    n, g, h = w.shape
    heads = x.shape[-1] // n if n else 1
    if heads > 1:
        parts = x.reshape(*x.shape[:-1], heads, n)
        y = jnp.einsum("...kn,ngkh->...gkh", parts, w.reshape(n, g, heads, h // heads))
        y = y.reshape(*x.shape[:-1], g, h)
    else:
        rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1]) if _joined(x) else x
        y = (rows @ w.reshape(n, g * h)).reshape(*x.shape[:-1], g, h)
    return y if b is None else y + over_rows(b, y)


def shared(a: Any) -> tuple[Any, ...]:
    """How an array is shared out over devices, by its type: a mesh axis, or None, for each axis."""
    spec = tuple(getattr(getattr(jax.typeof(a), "sharding", None), "spec", ()))
    return spec + (None,) * (jnp.ndim(a) - len(spec))


def over_rows(a: Array, like: Array) -> Array:
    """A weight of one row, for every row of an array: with axes of length 1.

    Not as large as the array: its rows may be shared out over devices, and then the copies of a
    weight would be on each of them, and their gradients gathered there.
    """
    return a.reshape((1,) * (like.ndim - a.ndim) + a.shape)


def of_rows(a: Array, like: Array) -> Array:
    """A number a row, for all that the rows of an array have: with axes of length 1 at the end."""
    return a.reshape(a.shape + (1,) * (like.ndim - a.ndim))


def _joined(x: Array) -> bool:
    """Whether time and batch become one axis for a product.

    The gradient of `w` sums over both.  XLA:CPU first copies the operands of such a sum over two
    axes, which takes an eighth of a step of training.  But an axis made of a part that is shared
    out over devices and one that is not would be gathered on each of them.
    """
    alone = jax.default_backend() == "cpu" and jax.device_count() == 1 and not any(shared(x))
    return x.ndim > 2 and alone


def take(a: Any, names: str, gates: str) -> Any:
    """The rows of some gates of an array whose rows (axis -2) have names; None of no gate."""
    if a is None or not gates:
        return None
    at = [names.index(gate) for gate in gates]
    if at == [*range(len(names))]:
        return a
    if at == [*range(at[0], at[-1] + 1)]:
        return a[..., at[0] : at[-1] + 1, :]
    return jnp.stack([a[..., i, :] for i in at], -2)


def recurrent(p: Any, h: Array, gates: str) -> Array:
    """`h r` and its bias, for the gates that are named."""
    r, b = (take(a, p.cell.recurrent, gates) for a in (p.r, p.recurrent_bias))
    return p.product(mark(h, "operand", "recurrent product"), r, b)
