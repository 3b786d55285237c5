"""Checks of a cell: its declaration when it is made, its equations by tracing them once.

Errors name the cell, the offending part, what was passed and what to do.  Nothing here computes.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ._dtypes import wide
from ._options import count, describe, real, short_repr
from ._types import DType, Shape, State

if TYPE_CHECKING:
    from ._cell import Cell, Linear, Read
    from ._layer import Layer

WORDS = ("input", "hidden", "output", "gates", "head", "complex")  # of a shape; options too


def check_declaration(cell: "Cell") -> None:
    """The fields of a declaration must agree with each other and with the equations' signature."""
    if not callable(cell.equations) or isinstance(cell.equations, type):
        raise TypeError(
            f"a cell must be made from its equations, a function; got {describe(cell.equations)}. "
            'Write `@jaxlstm.gated_cell("zn", jaxlstm.HiddenState)` above a `def`.'
        )
    _letters(cell, "gates", cell.gates)
    if not cell.gates:
        raise ValueError(f"the cell {cell.name} must have a gate; got `gates={cell.gates!r}`.")
    _letters(cell, "recurrent", cell.recurrent)
    for letter, value in cell.bias or ():
        if letter not in [*cell.gates]:
            raise ValueError(
                f"`bias` of the cell {cell.name} must have gates of {cell.gates!r}; got {letter!r}."
            )
        if real(value) is None:
            raise TypeError(
                f"`bias` of the cell {cell.name} must map each gate to its initial value; "
                f"got {short_repr(value)} for {letter!r}."
            )
    fields = getattr(cell.state, "_fields", None)
    if not isinstance(cell.state, type) or not fields:
        raise TypeError(
            f"the state of the cell {cell.name} must be a NamedTuple of arrays, the output first, "
            f"such as `jaxlstm.HiddenState`; got {short_repr(cell.state)}."
        )
    if cell.sizes and len(cell.sizes) != len(fields):
        raise ValueError(
            f"`sizes` of the cell {cell.name} must have one entry for each field of its state, "
            f"{fields}; got {cell.sizes}."
        )
    options = cell.defaults()
    for shape in cell.sizes:
        _shape(cell, "`sizes`", shape, options)
    for name, weight in cell.weights:
        shape = getattr(weight, "shape", None)
        if not isinstance(shape, str) or not callable(getattr(weight, "init", None)):
            raise TypeError(
                f"the weight `{name}` of the cell {cell.name} must be a `jaxlstm.Weight`, such as "
                f'`Weight("... hidden", zeros)`; got {short_repr(weight)}.'
            )
        _shape(cell, f"the weight `{name}`", shape, options)
        if weight.when is not None and weight.when not in options:
            raise ValueError(
                f"`when` of the weight `{name}` of the cell {cell.name} must be one of the options "
                f"{sorted(options) or 'none'}; got {weight.when!r}."
            )
    _signature(cell)


def _letters(cell: "Cell", role: str, letters: object) -> None:
    if not isinstance(letters, str) or not all(letter.isalpha() for letter in letters):
        raise TypeError(
            f"`{role}` of the cell {cell.name} must be a string with one letter for each gate, "
            f"such as 'ifgo'; got {short_repr(letters)}."
        )
    twice = sorted({letter for letter in letters if letters.count(letter) > 1})
    if twice:
        raise ValueError(
            f"`{role}` of the cell {cell.name} must have a letter of its own for each "
            f"gate; got {letters!r}, with {twice} more than once."
        )


def _shape(cell: "Cell", owner: str, shape: object, options: Mapping[str, object]) -> None:
    words = shape.split() if isinstance(shape, str) else [shape]
    known = lambda word: word in WORDS or word in options or word == "..." or word.isdigit()
    unknown = [word for word in words if not isinstance(word, str) or not known(word)]
    if unknown or words.count("...") > 1:
        raise ValueError(
            f"{owner} of the cell {cell.name} has a shape in words: numbers, one `...` and "
            f"{sorted({*WORDS, *options})}; got {shape!r}."
        )


def _signature(cell: "Cell") -> None:
    """Positional arguments are those of the kind of cell; all others are options and weights."""
    parameters = inspect.signature(cell.equations).parameters.values()
    weights = dict(cell.weights)
    by_position = [
        p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        and p.default is p.empty and p.name not in weights
    ]  # fmt: skip
    any_position = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    expected = cell.arguments
    if len(by_position) != len(expected) and not any_position:
        raise TypeError(
            f"the equations of the cell {cell.name} take `({', '.join(expected)})`, then options "
            f"and weights by keyword; got `({', '.join(p.name for p in by_position)})`."
        )
    keywords = [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    undeclared = [p.name for p in keywords if p.name not in weights]
    if undeclared:
        raise TypeError(
            f"the equations of the cell {cell.name} take {undeclared} by keyword, which is neither "
            f"a weight ({sorted(weights) or 'none'}) nor an option: declare it in `weights`, or "
            "give it a default."
        )
    names = {p.name for p in parameters}
    unused = [name for name in weights if name not in names]
    if unused and not any(p.kind is p.VAR_KEYWORD for p in parameters):
        raise TypeError(
            f"the cell {cell.name} declares the weights {unused}, which its equations do not take: "
            f"add `*, {', '.join(unused)}` to their arguments."
        )


def check_options(cell: "Cell") -> None:
    """Traces the equations with these options, so that invalid ones raise when they are set.

    Uses the smallest sizes, to be fast for any options.
    """
    small = {name: min(count(name, n), 2) for name, n in cell.size_options().items()}
    cell = cell.with_options({**dict(cell.options), **small})
    check_equations(cell, 1, small.get("heads", 1))


def check_equations(cell: "Cell", input_size: int, hidden_size: int) -> None:
    """Traces one step of a layer, so that invalid equations raise before weights are used."""
    layer = cell.abstract_layer(input_size, hidden_size)

    def step(layer: "Layer", u: Array) -> State:
        return layer.step(layer.initial_state(()), u, layer.recur, None)

    u = jax.ShapeDtypeStruct((len(cell.gates), hidden_size), layer.w.dtype)
    try:
        jax.eval_shape(step, layer, u)
    except Exception as e:
        e.add_note(f"Raised by the equations of the cell {cell}, traced for one step.")
        raise


def check_returned(cell: "Cell", outs: object, s: State) -> State:
    """The values that the equations returned, as a state like `s`."""
    fields = cell.state._fields
    if not isinstance(outs, tuple) or len(outs) != len(fields):
        actual = f"{len(outs)} values" if isinstance(outs, tuple) else describe(outs)
        first, *more = fields
        expected = ", ".join(fields) if more else f"({first},)"
        raise TypeError(
            f"the equations of the cell {cell} must return its new state, `return {expected}`; got "
            f"{actual}."
        )
    for name, new, old in zip(fields, outs, s, strict=True):
        shape, dtype = jnp.shape(new), jnp.result_type(new)
        if shape != old.shape:
            raise ValueError(
                f"the equations of the cell {cell} must return `{name}` of shape {old.shape}; got "
                f"{shape}.{_row(shape, old.shape)}"
            )
        if dtype != old.dtype:
            raise TypeError(
                f"the equations of the cell {cell} must return `{name}` of dtype {old.dtype}; got "
                f"{dtype}. Python scalars adopt the dtype of arrays; NumPy scalars do not."
            )
    return cell.state(*outs)


def check_product(cell: "Cell", h: Array, gates: str, s: State) -> None:
    """The arguments of the recurrent product in the equations of a general cell."""
    unknown = not isinstance(gates, str) or not gates or set(gates) - set(cell.recurrent)
    if unknown or len(set(gates)) < len(gates):
        raise ValueError(
            f"`recur` of the cell {cell} takes gates of {cell.recurrent!r}, each once; got "
            f"{gates!r}."
        )
    if jnp.shape(h) != s[0].shape:
        raise ValueError(
            f"`recur` of the cell {cell} takes an array of the shape of the output, "
            f"{s[0].shape}; got {jnp.shape(h)}."
        )


def check_coefficients(
    cell: "Linear", outs: PyTree
) -> tuple[tuple[Array, ...], tuple[Array, ...], "Read"]:
    """The values that a linear cell returned as `(a, b, read)`, with `a` and `b` as tuples."""
    reads = len(cell.state._fields) > 1
    expected = "a, b, read" if reads else "a, b"
    if not isinstance(outs, tuple) or len(outs) != 2 + reads:
        actual = f"{len(outs)} values" if isinstance(outs, tuple) else describe(outs)
        raise TypeError(
            f"the equations of the cell {cell} must return `{expected}`, meaning "
            f"`c' = a * c + b` for each memory{' and the output `read(c)`' if reads else ''}; got "
            f"{actual}."
        )
    a, b = (x if isinstance(x, tuple) else (x,) for x in outs[:2])
    read: Read = outs[2] if reads else None
    n = len(cell.memories())
    if len(a) != n or len(b) != n:
        raise TypeError(
            f"the equations of the cell {cell} must return an `a` and a `b` for each of {n} "
            f"memories; got {len(a)} and {len(b)}."
        )
    for letter, values in (("a", a), ("b", b)):
        for name, x in zip(cell.state._fields[-n:], values, strict=True):
            if not getattr(x, "ndim", 0):  # a Python number, a NumPy scalar, None
                raise ValueError(
                    f"the equations of the cell {cell} must return `{letter}` of the shape of its "
                    f"memory `{name}`; got {describe(x)}. A constant is "
                    "`jnp.full_like(u[0], 0.9)`."
                )
    if reads and not callable(outs[2]):
        raise TypeError(
            f"the equations of the cell {cell} must return `read`, a function from the new "
            f"memories to the output; got {describe(outs[2])}."
        )
    return a, b, read


def check_memories(cell: "Cell", memories: Sequence[tuple[Array, Array, Array]]) -> None:
    """`(a, c, b)` of each memory of a linear cell."""
    for name, (a, c, b) in zip(cell.state._fields[-len(memories) :], memories, strict=True):
        for letter, value in (("a", a), ("b", b)):
            shape = jnp.shape(value)
            if len(shape) != c.ndim or jnp.broadcast_shapes(shape, c.shape) != c.shape:
                raise ValueError(
                    f"the equations of the cell {cell} must return `{letter}` of the shape of its "
                    f"memory `{name}`, {c.shape}; got {shape}.{_row(shape, c.shape)}"
                )


def _row(shape: Shape, expected: Shape) -> str:
    """The likely cause of a superfluous first axis."""
    if shape[1:] != expected:
        return ""
    if shape[0] == 1:
        return " With one gate, `u` and `u + v` have one row: unpack it, `(z,) = u + v`."
    return " It has a row for each gate: unpack them, as `i, f, g, o = u + v`."


def check_weight(cell: "Cell", name: str, a: Array, shape: Sequence[int], dtype: DType) -> Array:
    """The array that an initializer returned, of the right shape and dtype."""
    if getattr(a, "shape", None) != tuple(shape) or a.dtype != wide(dtype):
        raise ValueError(
            f"the initializer of the weight `{name}` of the cell {cell} must return "
            f"{dtype}{list(shape)}; got {describe(a)}."
        )
    return a
