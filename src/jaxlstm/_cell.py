"""What an author of cells writes: one time step, and nothing about sequences.

- `linear_cell`:  `h' = a * h + b`, with `(a, b)` read from the input alone.
- `gated_cell`:   `s' = f(s, u, v)`, with `v = h r` the only recurrent product of the step.
- `general_cell`: `s' = f(s, u, recur)`, free to call `recur` any number of times.

Here `u = x w + b` is independent of the state.  A cell is a value: two cells with the same
equations and options compare equal, so a tree of weights that contains its cell has the same
structure in every run.
"""

import dataclasses
import importlib
import inspect
import pickle
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import ClassVar, Literal, NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PyTree

from ._declaration import (
    check_coefficients,
    check_declaration,
    check_memories,
    check_options,
    check_product,
    check_returned,
)
from ._dtypes import wide, widened
from ._layer import (
    CellNode,
    Layer as Layer,
    gates_first as gates_first,
    of_rows,
    product as product,
)
from ._node import Recur, State as State
from ._options import flag, hashable, plain
from ._tags import mark, tag as tag
from ._types import Fields, Shape

Equations: TypeAlias = Callable[..., object]  # what they return is checked
Option: TypeAlias = Hashable  # of a cell
Initializer: TypeAlias = Callable[..., Array]  # (key, shape, dtype) -> array


class HiddenState(NamedTuple):
    """State with a hidden state."""

    h: Float[Array, "*batch hidden"]


class LSTMState(NamedTuple):
    """State with a hidden state and a cell state."""

    h: Float[Array, "*batch hidden"]
    c: Float[Array, "*batch hidden"]


class Weight(NamedTuple):
    """An additional weight of a cell: its shape in words, and its initializer.

    The words are `input`, `hidden`, `output` (the width of the output), `gates`, `head` (the
    width of one of the `heads`), numbers, and names of the cell's options, where an option of
    `None` means `hidden`.  The equations take the weight as a keyword argument with its name.
    There, `...` marks the position of the batch axes: `Weight("3 ... hidden", zeros)` is three
    vectors, each of which can multiply a state.
    """

    shape: str
    init: Initializer
    when: str | None = None  # an option without which the cell has no such weight


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell as a value: its equations and their declaration.

    Calling a cell with options returns the cell with these options: `cell(clip=3.0)`.
    """

    equations: Equations
    gates: str  # one letter per gate, in the order of memory and of files
    state: type[Fields]
    recurrent: str = ""  # the gates that have a recurrent product
    recurrent_bias: bool = False
    bias: (
        tuple[tuple[str, float], ...] | None
    ) = ()  # initial biases that are not zero; None: no bias
    weights: tuple[tuple[str, Weight], ...] = ()
    sizes: tuple[str, ...] = ()  # of the state's fields, in words; `hidden` by default
    options: tuple[tuple[str, Option], ...] = ()  # those that differ from the defaults
    arguments: ClassVar[tuple[str, ...]] = ()  # that the equations take by position

    def __init_subclass__(cls) -> None:
        jax.tree_util.register_static(cls)  # in a tree, a cell has no leaves

    def __post_init__(self) -> None:
        object.__setattr__(self, "__doc__", self.equations.__doc__)
        check_declaration(self)
        for field in dataclasses.fields(self):
            hashable(f"`{field.name}` of a cell", getattr(self, field.name))

    @property
    def name(self) -> str:
        return getattr(self.equations, "__name__", repr(self.equations))

    def __repr__(self) -> str:
        options = ", ".join(f"{k}={v!r}" for k, v in self.options)
        return f"{self.name}({options})" if options else self.name

    def __copy__(self) -> "Cell":
        return self

    def __deepcopy__(self, memo: object) -> "Cell":
        return self

    def __reduce__(self) -> tuple[Callable[..., "Cell"], tuple[object, ...]]:
        """Pickle by name, as Python pickles a function."""
        f = self.equations
        plain = dataclasses.replace(self, options=())
        try:
            found = _by_name(f.__module__, f.__qualname__)
        except (ImportError, AttributeError):
            found = None
        if found is None or dataclasses.replace(found, options=()) != plain:
            actual = "no cell" if found is None else "another cell, as after an edit"
            raise pickle.PicklingError(
                f"the cell {self} is pickled by its name, `{f.__module__}.{f.__qualname__}`, which "
                f"refers to {actual}. Decorate its equations at the top level of a module, and do "
                "not assign their name to anything else."
            )
        return unpickled, (f.__module__, f.__qualname__, self.options, self.gates, self.recurrent)

    def __call__(self, *args: object, **options: object) -> "Cell":
        known = self.defaults()
        if args or not options.keys() <= known.keys():
            raise TypeError(
                f"`{self.name}` takes options by name, of {sorted(known) or 'none'}; got "
                f"{[*args, *options]}. A cell is run by `jaxlstm.init` and `jaxlstm.apply`."
            )
        cell = self.with_options({**dict(self.options), **options})
        check_options(cell)
        return cell

    def with_options(self, options: Mapping[str, object]) -> "Cell":
        """The cell with exactly these options, without checking that the equations accept them."""
        known = self.defaults()
        plain = {k: _option(k, v, known[k]) for k, v in options.items()}
        differ = {k: v for k, v in plain.items() if not _alike(v, known[k])}
        return dataclasses.replace(self, options=tuple(sorted(differ.items())))

    def defaults(self) -> dict[str, Option]:
        """The options of the equations: their keywords that are not weights."""
        parameters = inspect.signature(self.equations).parameters.values()
        weights = dict(self.weights)
        known = [p for p in parameters if p.default is not p.empty and p.name not in weights]
        return {p.name: p.default for p in known}

    def dims(self, input_size: int, hidden_size: int) -> dict[str, int]:
        """The size that each word of a shape stands for."""
        options = {**self.defaults(), **dict(self.options)}
        sizes = {k: hidden_size if v is None else v for k, v in options.items()}
        sizes = {k: v for k, v in sizes.items() if isinstance(v, int)}
        dims = {**sizes, "input": input_size, "hidden": hidden_size, "gates": len(self.gates)}
        dims["head"] = hidden_size // dims.get("heads", 1)
        dims["complex"] = 2  # the real part and the imaginary part, side by side
        (dims["output"],) = shape_of(self.sizes[0], dims) if self.sizes else (hidden_size,)
        return dims

    def size_options(self) -> dict[str, Option]:
        """The options that are sizes and are not None: `heads`, `depth`, `projection`."""
        options = {**self.defaults(), **dict(self.options)}
        shapes = [*self.sizes, *(weight.shape for _, weight in self.weights), "heads"]
        words = {word for shape in shapes for word in shape.split()}
        return {k: v for k, v in options.items() if k in words and v is not None}

    def shapes(self, input_size: int, hidden_size: int) -> dict[str, tuple[int, ...] | None]:
        """The shape of each role of a layer's weights, None for one that the cell cannot have.

        A layer may lack biases, and any recurrent cell may have a separate recurrent bias.
        """
        dims = self.dims(input_size, hidden_size)
        n, h, g = input_size, hidden_size, len(self.recurrent)
        rows = dims["output"] // dims.get("heads", 1)  # block by block
        return {
            "w": (n, len(self.gates), h),
            "r": (rows, g, h) if g else None,
            "b": None if self.bias is None else (len(self.gates), h),
            "recurrent_bias": (g, h) if g else None,
        }

    def own_weights(self) -> dict[str, Weight]:
        """The additional weights that the cell has with its options."""
        options = {**self.defaults(), **dict(self.options)}
        return {k: w for k, w in self.weights if not w.when or options[w.when]}

    def abstract_layer(self, input_size: int, hidden_size: int) -> Layer:
        """A layer of the cell without values, in float32."""
        dims = self.dims(input_size, hidden_size)
        shapes = self.shapes(input_size, hidden_size)

        def array(shape: Shape | None) -> PyTree:
            return shape and jax.ShapeDtypeStruct(shape, jnp.float32)

        weights = {k: array(shape_of(w.shape, dims)) for k, w in self.own_weights().items()}
        return Layer(self, **{k: array(v) for k, v in shapes.items()}, weights=weights or None)

    def output_size(self, hidden_size: int) -> int:
        """The width of the output, which is the state's first field."""
        return self.dims(0, hidden_size)["output"]

    def zeros(self, batch: Sequence[int], hidden_size: int, dtype: DTypeLike) -> State:
        """The initial state for weights of a dtype; it is never narrower than float32."""
        dims, dtype = self.dims(0, hidden_size), wide(dtype)
        words = self.sizes or ("hidden",) * len(self.state._fields)
        return self.state(*[jnp.zeros((*batch, *shape_of(word, dims)), dtype) for word in words])

    def keywords(self, p: CellNode, rank: int) -> dict[str, PyTree]:
        """Options and weights, as the equations take them for so many batch axes."""
        keywords: dict[str, PyTree] = dict(self.options)
        keywords |= jax.tree.map(widened, p.weights or {})
        for name, (before, axes) in self.row_weights().items():
            if name in keywords and keywords[name].ndim == axes:  # else it has a copy for each row
                shape = keywords[name].shape
                keywords[name] = keywords[name].reshape(
                    *shape[:before], *[1] * rank, *shape[before:]
                )
        return keywords

    def row_weights(self) -> dict[str, tuple[int, int]]:
        """The weights with axes for the batch: how many others stand before these, and in all."""
        words = {name: weight.shape.split() for name, weight in self.weights}
        return {name: (w.index("..."), len(w) - 1) for name, w in words.items() if "..." in w}

    def step(self, p: CellNode, s: State, u: Array, recur: Recur) -> State:
        """One time step; `u` is `(*batch, gates, hidden)`, as is what `recur` gives."""
        raise NotImplementedError


def shape_of(words: str, dims: Mapping[str, int]) -> tuple[int, ...]:
    """A shape from its words; the batch axes, `...`, are left out."""
    known = [word for word in words.split() if word != "..."]
    return tuple(int(word) if word.isdigit() else dims[word] for word in known)


def _option(name: str, value: object, default: Option) -> Option:
    """An option in canonical form: hashable, and equal to any other with the same meaning.

    Lists become tuples, NumPy and JAX scalars become Python numbers, and integers become floats
    where the default is a float.
    """
    if isinstance(default, bool):
        return flag(name, value)
    plain = _plain(value)
    hashable(f"the option `{name}`", plain)
    is_whole = isinstance(plain, int) and not isinstance(plain, bool)
    return float(plain) if is_whole and isinstance(default, float) else plain


def _plain(value: PyTree) -> PyTree:
    if isinstance(value, list | tuple):
        return tuple(map(_plain, value))
    return plain(value)


def _alike(a: Option, b: Option) -> bool:
    """Whether two options are equal; `True` does not equal 1."""
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def _by_name(module: str, name: str) -> Cell | None:
    """The cell of this name, None if something else has it."""
    found: object = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found if isinstance(found, Cell) else None


def unpickled(
    module: str,
    name: str,
    options: tuple[tuple[str, Option], ...],
    gates: str | None = None,
    recurrent: str | None = None,
) -> Cell:
    """The cell that was pickled by this name; its gates must be the same as then."""
    try:
        cell = _by_name(module, name)
    except (ImportError, AttributeError):
        cell = None
    if cell is None:
        raise pickle.UnpicklingError(
            f"a cell was pickled by its name, `{module}.{name}`, which refers to no cell here. "
            "Import or define it first, under the same name."
        )
    had, has = (gates, recurrent), (cell.gates, cell.recurrent)
    if gates is not None and had != has:
        raise pickle.UnpicklingError(
            f"a cell was pickled by its name, `{module}.{name}`, which is another cell here: "
            f"its gates were {gates!r} ({recurrent!r} of them recurrent), and are {cell.gates!r} "
            f"({cell.recurrent!r}) now."
        )
    return dataclasses.replace(cell, options=())(**dict(options))


class General(Cell):
    """A cell whose equations call the recurrent product themselves."""

    arguments = ("s", "u", "recur")

    def step(self, p: CellNode, s: State, u: Array, recur: Recur) -> State:
        def product(h: Array, gates: str = self.recurrent) -> Array:
            check_product(self, h, gates, s)
            return mark(gates_first(recur(h, gates)), "v", gates)

        u = mark(gates_first(u), "u", self.gates)
        keywords = self.keywords(p, u.ndim - 2)
        return check_returned(self, self.equations(s, u, product, **keywords), s)


class Gated(Cell):
    """A cell that has one recurrent product, `v = h r`."""

    arguments = ("s", "u", "v")

    def step(self, p: CellNode, s: State, u: Array, recur: Recur) -> State:
        v = mark(gates_first(recur(s[0], self.recurrent)), "v", self.recurrent)
        u = mark(gates_first(u), "u", self.gates)
        keywords = self.keywords(p, u.ndim - 2)
        return check_returned(self, self.equations(s, u, v, **keywords), s)


Read: TypeAlias = Callable[..., Array] | None  # memories -> output


class Linear(Cell):
    """A cell that is linear in its memory, so parallel in time."""

    arguments = ("u",)

    def step(self, p: CellNode, s: State, u: Array, recur: Recur) -> State:
        a, b, read = self.coefficients(p, mark(gates_first(u), "u", self.gates))
        memory = [*zip(a, self.memory(s), b, strict=True)]
        check_memories(self, memory)
        new = self.remember(s, tuple(a * c + b for a, c, b in memory), read)
        return check_returned(self, new, s)

    def coefficients(
        self, p: CellNode, u: Array
    ) -> tuple[tuple[Array, ...], tuple[Array, ...], Read]:
        """`(a, b, read)` of `c' = a * c + b` for each memory; gates come first."""
        a, b, read = check_coefficients(self, self.equations(u, **self.keywords(p, u.ndim - 2)))
        # A weight among them has one row; as a product its rows are shared out as those of `u`.
        ones = jnp.ones_like(u[0, ..., 0])
        words = [[w for w in m.split() if w not in ("complex", "...")] for m in self.memories()]
        each = lambda xs: [_with_rows(x, ones, len(m)) for x, m in zip(xs, words, strict=True)]
        a = tuple(x * of_rows(ones, x).astype(x.dtype) for x in each(a))
        return a, tuple(each(b)), read

    def memories(self) -> tuple[str, ...]:
        """The shapes of the memories, in words: those of the state, without its output if read."""
        return (self.sizes or ("hidden",) * len(self.state._fields))[
            -max(1, len(self.state._fields) - 1) :
        ]

    def memory(self, s: State) -> tuple[Array, ...]:
        """The fields that obey `c' = a * c + b`: the state, without its output if read."""
        words = self.memories()
        return tuple(
            complex_of(c[..., 0, :], c[..., 1, :]) if "complex" in word else c
            for word, c in zip(words, s[-len(words) :], strict=True)
        )

    def remember(self, s: State, memory: tuple[Array, ...], read: Read) -> State:
        """The state of these memories, in the dtypes of the state `s`."""
        flat = [jnp.stack([c.real, c.imag], -2) if jnp.iscomplexobj(c) else c for c in memory]
        new = [*flat] if read is None else [read(*memory), *flat]
        return self.state(*[a.astype(b.dtype) for a, b in zip(new, s, strict=True)])


def _with_rows(x: Array, rows: Array, axes: int) -> Array:
    """An array with axes for the rows: a constant has those of the units alone."""
    return x.reshape((1,) * rows.ndim + x.shape) if x.ndim == axes else x


def complex_of(re: Array, im: Array) -> Array:
    """A complex number from its parts; none is narrower than two of float32."""
    wide = re.dtype if re.dtype.itemsize >= 4 else jnp.float32
    return jax.lax.complex(re.astype(wide), im.astype(wide))


Biases: TypeAlias = Mapping[str, float] | Literal[False] | None
Made = TypeVar("Made", bound=Cell)


def _decorator(
    kind: type[Made],
    gates: str,
    state: type[Fields],
    recurrent: str | None,
    recurrent_bias: bool,
    bias: Biases,
    weights: Mapping[str, Weight] | None,
    sizes: Sequence[str],
) -> Callable[[Equations], Made]:
    initial = tuple((gate, plain(value)) for gate, value in (bias or {}).items())
    return lambda equations: kind(
        equations, gates, state,
        recurrent=gates if recurrent is None else recurrent,
        recurrent_bias=recurrent_bias,
        bias=None if bias is False else initial,
        weights=tuple((weights or {}).items()),
        sizes=tuple(sizes),
    )  # fmt: skip


def linear_cell(
    gates: str,
    state: type[Fields] = HiddenState,
    *,
    bias: Biases = None,
    weights: Mapping[str, Weight] | None = None,
    sizes: Sequence[str] = (),
) -> Callable[[Equations], Linear]:
    """Makes a cell of `equations(u) -> (a, b)`, meaning `h' = a * h + b`.

    `gates` names the rows of `u`, one letter each.  `bias` maps gates to initial biases that are
    not zero, or is False for a cell without biases; `weights` declares additional weights, which
    the equations take by keyword; `sizes` gives the shapes of the state's fields, in words.

    If the output is a function of the memories, the equations return `(a, b, read)`: the
    memories are the fields of the state after its first, `c' = a * c + b`, and the first is
    `read(c')`.  With several memories `a` and `b` are tuples.

    ```python
    @jaxlstm.linear_cell("zn")
    def average(u):
        z, n = u
        z = jax.nn.sigmoid(z)
        return 1 - z, z * n
    ```
    """
    return _decorator(Linear, gates, state, "", False, bias, weights, sizes)


def gated_cell(
    gates: str,
    state: type[Fields],
    *,
    recurrent: str | None = None,
    recurrent_bias: bool = False,
    bias: Biases = None,
    weights: Mapping[str, Weight] | None = None,
    sizes: Sequence[str] = (),
) -> Callable[[Equations], Gated]:
    """Makes a cell of `equations(s, u, v) -> s'`, where `v = h r` is its only product.

    `gates` names the rows of `u`, `recurrent` those of `v` (by default the same);
    `recurrent_bias` adds a bias to `v`.  The rest is as for `linear_cell`.

    ```python
    @jaxlstm.gated_cell("h", jaxlstm.HiddenState)
    def elman(s, u, v):
        (z,) = u + v
        return (jnp.tanh(z),)
    ```
    """
    return _decorator(Gated, gates, state, recurrent, recurrent_bias, bias, weights, sizes)


def general_cell(
    gates: str,
    state: type[Fields],
    *,
    recurrent: str | None = None,
    recurrent_bias: bool = False,
    bias: Biases = None,
    weights: Mapping[str, Weight] | None = None,
    sizes: Sequence[str] = (),
) -> Callable[[Equations], General]:
    """Makes a cell of `equations(s, u, recur) -> s'`.

    `recur(h, "rz")` is the recurrent product of the gates `r` and `z`; the rest is as for
    `gated_cell`.

    ```python
    @jaxlstm.general_cell("rn", jaxlstm.HiddenState)
    def reset_before(s, u, recur):
        r, n = u
        (v,) = recur(s.h, "r")
        (v,) = recur(jax.nn.sigmoid(r + v) * s.h, "n")
        return (jnp.tanh(n + v),)
    ```
    """
    return _decorator(General, gates, state, recurrent, recurrent_bias, bias, weights, sizes)
