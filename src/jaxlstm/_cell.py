"""What a cell is: one time step, in one of three shapes, and nothing about sequences.

- `linear`:  `h' = a * h + b`, with `(a, b)` read from the input alone.
- `gated`:   `s' = f(s, u, v)`, with `v = h r` the one matrix product of the step.
- `general`: `s' = f(s, u, recur)`, free to call `recur` as it likes.

Here `u = x w + b` is what does not wait for the state.  A cell is a value: two cells of the
same equations and options compare equal, so a tree of weights that names its cell keeps its
structure from run to run.
"""

import dataclasses
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

State: TypeAlias = Any  # a NamedTuple of arrays; its first field is the output
Initializer: TypeAlias = Callable[..., Array]  # (key, shape, dtype) -> array


class Hidden(NamedTuple):
    """State of a cell that keeps a hidden vector."""

    h: Float[Array, "*batch hidden"]


class HiddenCell(NamedTuple):
    """State of a cell that keeps a hidden vector and a memory cell."""

    h: Float[Array, "*batch hidden"]
    c: Float[Array, "*batch hidden"]


class Weight(NamedTuple):
    """A weight beside `w`, `r` and `b`: its shape in words, and how it starts.

    The words are `input`, `hidden`, `gates`, numbers, and the names of the cell's options:
    `Weight("3 hidden", zeros)`.  The equations take it as a keyword of its name.
    """

    shape: str
    init: Initializer


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell as a value: its equations, and the data that they are read with.

    Calling a cell with options gives the cell with these options: `cell(clip=3.0)`.
    """

    equations: Callable[..., Any]
    gates: str  # one letter a gate: their one order, in memory and in files
    state: type[Any]
    recurrent: str = ""  # the gates that have a recurrent product
    recurrent_bias: bool = False
    bias: tuple[tuple[str, float], ...] = ()  # gates whose bias does not start at zero
    weights: tuple[tuple[str, Weight], ...] = ()
    sizes: tuple[str, ...] = ()  # of the state's fields, in words; `hidden` unless told
    options: tuple[tuple[str, Any], ...] = ()  # those that differ from the defaults

    def __init_subclass__(cls) -> None:
        jax.tree_util.register_static(cls)  # in a tree, a cell has no leaves

    def __post_init__(self) -> None:
        object.__setattr__(self, "__doc__", self.equations.__doc__)

    @property
    def name(self) -> str:
        return self.equations.__name__

    def __repr__(self) -> str:
        options = ", ".join(f"{k}={v!r}" for k, v in self.options)
        return f"{self.name}({options})" if options else self.name

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by name, as Python pickles a function."""
        f = self.equations
        return _named, (f.__module__, f.__qualname__, self.options)

    def __call__(self, *args: Any, **options: Any) -> "Cell":
        known = self.defaults()
        if args or not options.keys() <= known.keys():
            raise TypeError(
                f"`{self.name}` takes options by name, of {sorted(known) or 'none'}; got "
                f"{[*args, *options]}. A cell is run by `jaxlstm.init` and `jaxlstm.apply`."
            )
        told = {**dict(self.options), **options}
        differ = tuple(sorted((k, v) for k, v in told.items() if v != known[k]))
        return dataclasses.replace(self, options=differ)

    def defaults(self) -> dict[str, Any]:
        """The options of the equations: their keywords that are not weights."""
        parameters = inspect.signature(self.equations).parameters.values()
        return {p.name: p.default for p in parameters if p.default is not p.empty}

    def dims(self, input_size: int, hidden_size: int) -> dict[str, int]:
        """What the words of a shape stand for."""
        sizes = {**self.defaults(), **dict(self.options)}
        sizes = {k: v for k, v in sizes.items() if isinstance(v, int)}
        return {**sizes, "input": input_size, "hidden": hidden_size, "gates": len(self.gates)}

    def widths(self, hidden_size: int) -> tuple[int, ...]:
        """The width of each field of the state, the output's first."""
        dims = self.dims(0, hidden_size)
        words = self.sizes or ("hidden",) * len(self.state._fields)
        return tuple(dims[word] for word in words)

    def keywords(self, p: "Layer") -> dict[str, Any]:
        return {**dict(self.options), **(p.weights or {})}

    def step(self, p: "Layer", s: State, u: Array) -> State:
        """One time step; `u` is `(*batch, gates, hidden)`."""
        raise NotImplementedError


def _named(module: str, name: str, options: tuple[tuple[str, Any], ...]) -> Cell:
    cell: Any = importlib.import_module(module)
    for part in name.split("."):
        cell = getattr(cell, part)
    return cell(**dict(options)) if options else cell


class General(Cell):
    """A cell that calls the recurrent product itself."""

    def step(self, p: "Layer", s: State, u: Array) -> State:
        def recur(h: Array, gates: str = self.recurrent) -> Array:
            return front(recurrent(p, h, gates))

        return self.state(*self.equations(s, front(u), recur, **self.keywords(p)))


class Gated(Cell):
    """A cell that is pointwise once `v = h r` is known."""

    def step(self, p: "Layer", s: State, u: Array) -> State:
        return self.point(p, s, front(u), front(recurrent(p, s[0], self.recurrent)))

    def point(self, p: "Layer", s: State, u: Array, v: Array) -> State:
        """The pointwise part, all that a kernel needs to know; gates come first."""
        return self.state(*self.equations(s, u, v, **self.keywords(p)))


class Linear(Cell):
    """A cell that is linear in its state, so parallel in time."""

    def step(self, p: "Layer", s: State, u: Array) -> State:
        a, b = self.coefficients(p, front(u))
        return self.state(a * s[0] + b)

    def coefficients(self, p: "Layer", u: Array) -> tuple[Array, Array]:
        """`(a, b)` of `h' = a h + b`; gates come first."""
        return self.equations(u, **self.keywords(p))


def _decorator(shape: type[Any], gates: str, state: type[Any], **data: Any) -> Callable[..., Any]:
    for name in ("bias", "weights"):
        data[name] = tuple((data.get(name) or {}).items())
    return lambda equations: shape(equations, gates, state, **data)


def linear(
    gates: str,
    state: type[Any] = Hidden,
    *,
    bias: Mapping[str, float] | None = None,
    weights: Mapping[str, Weight] | None = None,
) -> Callable[[Callable[..., Any]], Linear]:
    """Makes a cell of `equations(u) -> (a, b)`, meaning `h' = a h + b`.

    `gates` names the rows of `u`, a letter each.  `bias` gives the gates whose bias does not
    start at zero, `weights` further weights, which the equations take by keyword.
    """
    return _decorator(Linear, gates, state, bias=bias, weights=weights)


def gated(
    gates: str,
    state: type[Any],
    *,
    recurrent: str | None = None,
    recurrent_bias: bool = False,
    bias: Mapping[str, float] | None = None,
    weights: Mapping[str, Weight] | None = None,
    sizes: Sequence[str] = (),
) -> Callable[[Callable[..., Any]], Gated]:
    """Makes a cell of `equations(s, u, v) -> s'`, pointwise once `v = h r` is known.

    `gates` names the rows of `u`, `recurrent` those of `v` (all of them unless told);
    `recurrent_bias` adds a bias to `v`.  `bias` gives the gates whose bias does not start at
    zero, `weights` further weights, `sizes` the widths of the state's fields.

    ```python
    @jaxlstm.gated("h", jaxlstm.Hidden)
    def elman(s, u, v):
        (z,) = u + v
        return (jnp.tanh(z),)
    ```
    """
    return _decorator(
        Gated,
        gates,
        state,
        recurrent=gates if recurrent is None else recurrent,
        recurrent_bias=recurrent_bias,
        bias=bias,
        weights=weights,
        sizes=tuple(sizes),
    )


def general(
    gates: str,
    state: type[Any],
    *,
    recurrent: str | None = None,
    recurrent_bias: bool = False,
    bias: Mapping[str, float] | None = None,
    weights: Mapping[str, Weight] | None = None,
    sizes: Sequence[str] = (),
) -> Callable[[Callable[..., Any]], General]:
    """Makes a cell of `equations(s, u, recur) -> s'`.

    `recur(h, "rz")` is the recurrent product of the gates `r` and `z`; the rest is as for
    `gated`.
    """
    return _decorator(
        General,
        gates,
        state,
        recurrent=gates if recurrent is None else recurrent,
        recurrent_bias=recurrent_bias,
        bias=bias,
        weights=weights,
        sizes=tuple(sizes),
    )


class Layer(NamedTuple):
    """The weights of one recurrent layer, and the cell that they are for."""

    cell: Cell
    w: Float[Array, "*ens input gates hidden"]
    r: Float[Array, "*ens output recurrent hidden"] | None
    b: Float[Array, "*ens gates hidden"] | None
    recurrent_bias: Float[Array, "*ens recurrent hidden"] | None = None
    weights: dict[str, Array] | None = None

    @property
    def input_size(self) -> int:
        return self.w.shape[0]

    def zeros(self, batch: Sequence[int]) -> State:
        """The initial state."""
        widths = self.cell.widths(self.w.shape[-1])
        return self.cell.state(*[jnp.zeros((*batch, n), self.w.dtype) for n in widths])

    def project(self, xs: Float[Array, "*time input"]) -> Float[Array, "*time gates hidden"]:
        """`u = x w + b`, which does not wait for the state: for one step, or for all."""
        return product(xs, self.w, self.b)

    def step(self, s: State, u: Float[Array, "*batch gates hidden"], key: Any = None) -> State:
        """One time step.  `key` is for nodes that draw noise; a layer draws none."""
        return self.cell.step(self, s, u)


def front(a: Array) -> Array:
    """Gates first, as the equations take them: `i, f, g, o = u`."""
    return jnp.moveaxis(a, -2, 0)


def product(x: Array, w: Array, b: Array | None) -> Array:
    """`x w + b` over the last axis; the product itself is flat."""
    n, g, h = w.shape
    y = (x @ w.reshape(n, g * h)).reshape(*x.shape[:-1], g, h)
    return y if b is None else y + jnp.broadcast_to(b, y.shape)


def recurrent(p: Layer, h: Array, gates: str) -> Array:
    """`h r` and its bias, for the gates that are named."""
    assert p.r is not None
    at = [p.cell.recurrent.index(gate) for gate in gates]
    rows = slice(at[0], at[-1] + 1) if at == [*range(at[0], at[-1] + 1)] else at
    b = None if p.recurrent_bias is None else p.recurrent_bias[rows]
    return product(h, p.r[:, rows], b)
