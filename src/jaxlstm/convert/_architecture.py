"""An architecture as plain data: cells by name from a closed list, nodes from a closed table."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from .. import _nodes, cells as _cells, wrappers
from .._apply import apply
from .._cell import Cell, Layer
from .._conv import ConvLayer
from .._value import shape_of
from ._header import DTYPES, FileError, short

NODES: dict[str, type[Any]] = {
    "Layer": Layer,
    "ConvLayer": ConvLayer,
    "Stack": _nodes.Stack,
    "Bidirectional": _nodes.Bidirectional,
    "Reverse": _nodes.Reverse,
    **{name: node for name, node in vars(wrappers).items() if isinstance(node, type)},
}
STATES = {c.state.__name__: c.state for c in vars(_cells).values() if isinstance(c, Cell)}
DEPTH = 32
PARTS = 4096  # nodes of a network; each takes milliseconds to check
FLOATING = {str(dtype) for name, dtype in DTYPES.items() if "F" in name}


def _number(value: Any) -> bool:
    return type(value) in (int, float)


def _rate(value: Any) -> bool:
    return _number(value) and 0 <= value < 1


# the static fields of nodes: what they hold, in words and as a test
STATICS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "dropout": ("a probability below 1", _rate),
    "rate": ("a probability below 1", _rate),
    "rates": (
        "two probabilities below 1",
        lambda v: isinstance(v, tuple) and len(v) == 2 and all(map(_rate, v)),
    ),
    "limit": ("a positive number", lambda v: _number(v) and v > 0),
    "epsilon": ("a positive number", lambda v: _number(v) and v > 0),
    "before": ("true or false", lambda v: isinstance(v, bool)),
    "gate": ("the letter of a gate", lambda v: isinstance(v, str)),
}


def known_cells(more: Mapping[str, Cell] | None) -> dict[str, Cell]:
    """The cells of this library by name, and the caller's own."""
    own = {k: v for k, v in vars(_cells).items() if isinstance(v, Cell)}
    for name, cell in (more or {}).items():
        if not isinstance(cell, Cell):
            raise TypeError(f"`cells` must map names to cells; `{name}` is {cell!r}.")
        if name in own and own[name].equations is not cell.equations:
            raise ValueError(f"`cells` has `{name}`, which is a name of the library's own cells.")
    return {**own, **(more or {})}


def described(value: Any, known: Mapping[str, Cell]) -> Any:
    """A network as data that JSON can hold; arrays leave their shape and dtype."""
    if isinstance(value, Cell):
        for name, cell in known.items():
            if cell.equations is value.equations:
                return {"cell": name, "options": [[k, _plain(v)] for k, v in value.options]}
        raise ValueError(
            f"the cell `{value!r}` is none of jaxlstm's own, so that a file cannot name it. "
            "Give it a name here and in `load`, `cells={'name': cell}`; or save the weights "
            "alone, `architecture=False`, and load them into a network: `load(path, like=...)`."
        )
    if isinstance(value, _nodes.Static):
        return {"static": _plain(value.value)}
    for name, node in {**STATES, **NODES}.items():
        if type(value) is node:
            fields = zip(value._fields, value, strict=True)
            return {"node": name, "fields": {k: described(v, known) for k, v in fields}}
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return {"array": str(value.dtype), "shape": list(value.shape)}
    if value is None:
        return None
    if isinstance(value, dict) and all(isinstance(k, str) for k in value):
        return {"dict": {k: described(v, known) for k, v in value.items()}}
    if isinstance(value, (tuple, list)) and not hasattr(value, "_fields"):
        return {"tuple": [described(v, known) for v in value]}
    raise ValueError(
        f"a `{type(value).__name__}` is no node that a file can describe ({sorted(NODES)}). Save "
        "the weights alone, `architecture=False`, and load them with `load(path, like=...)`."
    )


def _plain(value: Any) -> Any:
    """Options as JSON has them; a tuple is a list there."""
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise ValueError(
        f"an option must be a number, a string, None or a tuple of them; got {value!r}."
    )


class Reader:
    """Builds a network of `described` data; arrays are `jax.ShapeDtypeStruct` still."""

    def __init__(self, file: str, known: Mapping[str, Cell]) -> None:
        self.file, self.known, self.parts = file, known, 0

    def wrong(self, at: str, expected: str, found: Any) -> FileError:
        return FileError(self.file, at or None, expected, short(found))

    def build(self, data: Any, at: str = "", depth: int = 0) -> Any:
        """The value that the data describe; `at` is its key path."""
        if data is None:
            return None
        if depth > DEPTH:
            raise self.wrong(at, f"an architecture of at most {DEPTH} levels", "more")
        under = lambda key: f"{at}.{key}" if at else str(key)
        match data:
            case {"cell": str(name), "options": list(options), **rest} if not rest:
                return self.cell(at, name, options)
            case {"static": value, **rest} if not rest:
                return _nodes.Static(self.option(at, value))
            case {"array": str(dtype), "shape": list(shape), **rest} if not rest:
                return self.array(at, dtype, shape)
            case {"dict": dict(items), **rest} if not rest:
                return {k: self.build(v, under(k), depth + 1) for k, v in items.items()}
            case {"tuple": list(items), **rest} if not rest:
                return tuple(self.build(v, under(k), depth + 1) for k, v in enumerate(items))
            case {"node": str(name), "fields": dict(fields), **rest} if not rest:
                node = {**STATES, **NODES}.get(name)
                if node is None:
                    raise self.wrong(at, f"a node of {sorted(NODES)}", name)
                self.parts += 1
                if self.parts > PARTS:
                    raise self.wrong(at, f"an architecture of at most {PARTS} nodes", "more")
                if tuple(fields) != node._fields:
                    raise self.wrong(at, f"a {name} with the fields {node._fields}", tuple(fields))
                made = {k: self.build(v, under(k), depth + 1) for k, v in fields.items()}
                return self.checked(at, node(**made)) if name in NODES else node(**made)
        raise self.wrong(at, "a part of an architecture", data)

    def cell(self, at: str, name: str, options: list[Any]) -> Cell:
        if name not in self.known:
            raise self.wrong(at, "a cell of jaxlstm, or one given as `cells=`", name)
        pairs = all(isinstance(o, list) and len(o) == 2 and isinstance(o[0], str) for o in options)
        told = {o[0]: self.option(at, o[1]) for o in options} if pairs else {}
        cell = self.known[name]
        if not pairs or len(told) != len(options) or not told.keys() <= cell.defaults().keys():
            raise self.wrong(at, f"options of {name}, of {sorted(cell.defaults())}", options)
        return cell(**told)

    def option(self, at: str, value: Any) -> Any:
        if isinstance(value, list):
            return tuple(self.option(at, v) for v in value)
        if value is None or isinstance(value, (bool, int, str)):
            return value
        if isinstance(value, float) and math.isfinite(value):
            return value
        raise self.wrong(at, "an option: a finite number, a string, null or a list", value)

    def array(self, at: str, dtype: str, shape: list[Any]) -> jax.ShapeDtypeStruct:
        if not all(type(n) is int and 0 <= n < 2**63 for n in shape):
            raise self.wrong(at, "a shape", shape)
        if dtype not in FLOATING:
            raise self.wrong(at, f"weights of a dtype of {sorted(FLOATING)}", dtype)
        return jax.ShapeDtypeStruct(tuple(shape), np.dtype(dtype))

    def checked(self, at: str, node: Any) -> Any:
        """A node whose parts are of the kind that it runs with."""
        if isinstance(node, Layer):
            self.check_layer(at, node)
        parts = node.layers if isinstance(node, _nodes.Stack) else ()
        if not isinstance(parts, tuple) or not all(map(self.runs, parts)):
            raise self.wrong(at, "a Stack of nodes", type(parts).__name__)
        for name, value in zip(node._fields, node, strict=True):
            if name in ("node", "forward", "backward") and not self.runs(value):
                raise self.wrong(at, f"a node as `{name}`", type(value).__name__)
            if type(node).__annotations__[name] is _nodes.Static:
                words, allowed = STATICS[name]
                if not isinstance(value, _nodes.Static) or not allowed(value.value):
                    raise self.wrong(at, f"{words} as `{name}`", value)
        return node

    def runs(self, value: Any) -> bool:
        return type(value) in NODES.values()

    def check_layer(self, at: str, layer: Layer) -> None:
        """The shapes of a layer are those of its cell; any axes may stand before them."""
        cell, w = layer.cell, layer.w
        if not isinstance(cell, Cell) or not hasattr(w, "shape") or len(w.shape) < 3:
            raise self.wrong(at, "a Layer with a cell and `w` (input, gates, hidden)", layer)
        ens, sizes = w.shape[:-3], (w.shape[-3], w.shape[-1])
        shapes = cell.shapes(*sizes)
        shapes |= {role: None for role in ("b", "recurrent_bias") if getattr(layer, role) is None}
        extra = layer.weights or {}
        drawn = cell.drawn()
        if not isinstance(extra, dict) or extra.keys() != drawn.keys():
            raise self.wrong(at, f"the weights {sorted(drawn)} of {cell!r}", sorted(extra))
        shapes |= {name: shape_of(words, cell.dims(*sizes)) for name, (words, _) in drawn.items()}
        for name, shape in shapes.items():
            a = extra[name] if name in extra else getattr(layer, name)
            found = None if a is None else getattr(a, "shape", "something else")
            if found != (None if shape is None else (*ens, *shape)):
                where = f"{at}.{name}" if at else name
                raise self.wrong(where, f"the shape {shape} of {cell!r}", found)

    def check_run(self, network: Any) -> None:
        """One step of it can be traced, so options and sizes are such as the equations take.

        Not where axes stand before those of a layer: of an ensemble, or of a convolution.
        """
        parts = jax.tree.leaves(network, is_leaf=lambda a: hasattr(a, "w"))
        if any(hasattr(a, "w") and len(a.w.shape) != 3 for a in parts):
            return
        params = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, np.float32), network)
        try:
            xs = jax.ShapeDtypeStruct((1, params.input_size), np.float32)
            jax.eval_shape(lambda p, x: apply(p, x, implementation="scan"), params, xs)
        except Exception as e:  # equations refuse their options in any way
            raise self.wrong("", "a network that can run", str(e)) from None
