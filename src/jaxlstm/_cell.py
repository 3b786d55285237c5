"""What a cell is: one time step, in one of three shapes, and nothing about sequences.

- `linear`:  `h' = a * h + b`, with `(a, b)` read from the input alone.
- `gated`:   `s' = f(s, u, v)`, with `v = h r` the one recurrent product of the step.
- `general`: `s' = f(s, u, recur)`, free to call `recur` as it likes.

Here `u = x w + b` is what does not wait for the state.  A cell is a value: two cells of the
same equations and options compare equal, so a tree of weights that names its cell keeps its
structure from run to run.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ._layer import (
    Layer as Layer,
    front as front,
    of_rows,
    product as product,
)
from ._named import mark, named as named
from ._node import Recur
from ._value import (
    Cell as Cell,
    Hidden as Hidden,
    HiddenCell as HiddenCell,
    Initializer as Initializer,
    State as State,
    Weight as Weight,
    Weights as Weights,
    shape_of as shape_of,
)


class General(Cell):
    """A cell that calls the recurrent product itself."""

    def step(self, p: Weights, s: State, u: Array, recur: Recur) -> State:
        def product(h: Array, gates: str = self.recurrent) -> Array:
            return mark(front(recur(h, gates)), "v", gates)

        given = self.keywords(p, u.ndim - 2)
        return self.state(*self.equations(s, mark(front(u), "u", self.gates), product, **given))


class Gated(Cell):
    """A cell that has one recurrent product, `v = h r`."""

    def step(self, p: Weights, s: State, u: Array, recur: Recur) -> State:
        v = mark(front(recur(s[0], self.recurrent)), "v", self.recurrent)
        given = self.keywords(p, u.ndim - 2)
        return self.state(*self.equations(s, mark(front(u), "u", self.gates), v, **given))


Read: TypeAlias = Callable[..., Array] | None  # memories -> output


class Linear(Cell):
    """A cell that is linear in its memory, so parallel in time."""

    def step(self, p: Weights, s: State, u: Array, recur: Recur) -> State:
        a, b, read = self.coefficients(p, mark(front(u), "u", self.gates))
        memory = zip(a, self.memory(s), b, strict=True)
        return self.remember(s, tuple(a * c + b for a, c, b in memory), read)

    def coefficients(
        self, p: Weights, u: Array
    ) -> tuple[tuple[Array, ...], tuple[Array, ...], Read]:
        """`(a, b, read)` of `c' = a * c + b` for each memory; gates come first."""
        a, b, *read = self.equations(u, **self.keywords(p, u.ndim - 2))
        a, b = (x if isinstance(x, tuple) else (x,) for x in (a, b))
        # A weight among them has one row; as a product its rows are shared out as those of `u`.
        ones = jnp.ones_like(u[0, ..., 0])
        a = tuple(x * of_rows(ones, x).astype(x.dtype) for x in a)
        return a, b, read[0] if read else None

    def memory(self, s: State) -> tuple[Array, ...]:
        """What runs through `c' = a * c + b`: the state without what is read from it."""
        words = self.sizes[1:] or ("hidden",)
        return tuple(
            complex_of(c[..., 0, :], c[..., 1, :]) if "complex" in word else c
            for word, c in zip(words, s[-len(words) :], strict=True)
        )

    def remember(self, s: State, memory: tuple[Array, ...], read: Read) -> State:
        """The state of these memories, in the dtypes of the state `s`."""
        flat = [jnp.stack([c.real, c.imag], -2) if jnp.iscomplexobj(c) else c for c in memory]
        new = [*flat] if read is None else [read(*memory), *flat]
        return self.state(*[a.astype(b.dtype) for a, b in zip(new, s, strict=True)])


def complex_of(re: Array, im: Array) -> Array:
    """A complex number from its parts; none is narrower than two of float32."""
    wide = re.dtype if re.dtype.itemsize >= 4 else jnp.float32
    return jax.lax.complex(re.astype(wide), im.astype(wide))


Biases: TypeAlias = Mapping[str, float] | Literal[False] | None
Decorator: TypeAlias = Callable[[Callable[..., Any]], Any]


def _decorator(shape: type[Any], gates: str, state: type[Any], **data: Any) -> Decorator:
    recurrent, bias, weights = (data.pop(name) for name in ("recurrent", "bias", "weights"))
    data["recurrent"] = gates if recurrent is None else recurrent
    data["bias"] = None if bias is False else tuple((bias or {}).items())
    data["weights"] = tuple((weights or {}).items())
    data["sizes"] = tuple(data["sizes"])
    return lambda equations: shape(equations, gates, state, **data)


def linear(
    gates: str,
    state: type[Any] = Hidden,
    *,
    bias: Biases = None,
    weights: Mapping[str, Weight] | None = None,
    sizes: Sequence[str] = (),
) -> Callable[[Callable[..., Any]], Linear]:
    """Makes a cell of `equations(u) -> (a, b)`, meaning `h' = a * h + b`.

    `gates` names the rows of `u`, a letter each.  `bias` gives the gates whose bias does not
    start at zero, or is False for a cell without; `weights` gives further weights, which the
    equations take by keyword; `sizes` the shapes of the state's fields, in words.

    Where the output is not what is remembered, the equations return `(a, b, read)`: the
    memories are the fields of the state after its first, `c' = a * c + b`, and the first is
    `read(c')`.  Several memories have a tuple of `a` and of `b`.

    ```python
    @jaxlstm.linear("zn")
    def average(u):
        z, n = u
        z = jax.nn.sigmoid(z)
        return 1 - z, z * n
    ```
    """
    data = {"bias": bias, "weights": weights, "sizes": sizes}
    return _decorator(Linear, gates, state, recurrent="", **data)


def gated(
    gates: str,
    state: type[Any],
    *,
    recurrent: str | None = None,
    recurrent_bias: bool = False,
    bias: Biases = None,
    weights: Mapping[str, Weight] | None = None,
    sizes: Sequence[str] = (),
    pointwise: bool = True,
) -> Callable[[Callable[..., Any]], Gated]:
    """Makes a cell of `equations(s, u, v) -> s'`, where `v = h r` is its only product.

    `gates` names the rows of `u`, `recurrent` those of `v` (all of them unless told);
    `recurrent_bias` adds a bias to `v`.  The rest is as for `linear`.  `pointwise` is False
    where units see each other after the product too, as in a layer norm.

    ```python
    @jaxlstm.gated("h", jaxlstm.Hidden)
    def elman(s, u, v):
        (z,) = u + v
        return (jnp.tanh(z),)
    ```
    """
    data = {"recurrent": recurrent, "recurrent_bias": recurrent_bias, "bias": bias}
    data |= {"weights": weights, "sizes": sizes, "pointwise": pointwise}
    return _decorator(Gated, gates, state, **data)


def general(
    gates: str,
    state: type[Any],
    *,
    recurrent: str | None = None,
    recurrent_bias: bool = False,
    bias: Biases = None,
    weights: Mapping[str, Weight] | None = None,
    sizes: Sequence[str] = (),
) -> Callable[[Callable[..., Any]], General]:
    """Makes a cell of `equations(s, u, recur) -> s'`.

    `recur(h, "rz")` is the recurrent product of the gates `r` and `z`; the rest is as for
    `gated`.
    """
    data = {"recurrent": recurrent, "recurrent_bias": recurrent_bias, "bias": bias}
    data |= {"weights": weights, "sizes": sizes, "pointwise": False}
    return _decorator(General, gates, state, **data)
