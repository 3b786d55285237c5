"""An architecture as plain data: cells by name from a closed list, nodes from a closed table."""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from typing import TypeGuard, get_origin

import jax
import numpy as np
from jaxtyping import PyTree

from ... import __version__, _containers, cells as _cells, wrappers
from ..._apply import apply
from ..._cell import Cell, Layer, shape_of
from ..._conv import ConvLayer
from ..._types import Fields, Shape
from ...wrappers._step import innermost
from .header import DTYPES, FileError, Json, short
from .leaves import IMPLEMENTATIONS, VALUES, implementation, is_key, is_value, keys_like

NODES: dict[str, type[Fields]] = {
    "Layer": Layer,
    "ConvLayer": ConvLayer,
    "Stack": _containers.Stack,
    "Bidirectional": _containers.Bidirectional,
    "Reverse": _containers.Reverse,
    **{name: node for name, node in vars(wrappers).items() if isinstance(node, type)},
}
STATES: dict[str, type[Fields]] = {
    "BidirectionalState": _containers.BidirectionalState,
    **{c.state.__name__: c.state for c in vars(_cells).values() if isinstance(c, Cell)},
}
DEPTH = 32
PARTS = 4096  # nodes of a network; each takes milliseconds to check
REPEATS = 1024  # of what cells may do several times in one step; each takes a millisecond too
EMPTY = 2**20  # elements that an array without any may claim by its other sizes
ARRAYS = {str(dtype) for dtype in DTYPES.values()}
FLOATING = {str(dtype) for name, dtype in DTYPES.items() if "F" in name}


def _number(value: object) -> TypeGuard[int | float]:
    return type(value) in (int, float)


def _rate(value: object) -> bool:
    return _number(value) and 0 <= value < 1


# the static fields of nodes: what they hold, in words and as a test
STATICS: dict[str, tuple[str, Callable[[PyTree], bool]]] = {
    "dropout": ("a probability below 1", _rate),
    "rate": ("a probability below 1", _rate),
    "rates": (
        "two probabilities below 1",
        lambda v: isinstance(v, tuple) and len(v) == 2 and all(map(_rate, v)),
    ),
    "limit": ("a positive number", lambda v: _number(v) and v > 0),
    "epsilon": ("a positive number", lambda v: _number(v) and v > 0),
    "before": ("true or false", lambda v: isinstance(v, bool)),
    "std": ("a number, 0 or more", lambda v: _number(v) and 0 <= v < math.inf),
    "gate": ("the letter of a gate", lambda v: isinstance(v, str)),
}


def known_cells(more: Mapping[str, Cell] | None) -> dict[str, Cell]:
    """The cells of this library by name, and the caller's own."""
    own = {k: v for k, v in vars(_cells).items() if isinstance(v, Cell)}
    if not isinstance(more, Mapping | None):
        raise TypeError(f"`cells` must map names to cells; got a {type(more).__name__}.")
    for name, cell in (more or {}).items():
        if not isinstance(name, str) or not isinstance(cell, Cell):
            raise TypeError(f"`cells` must map names to cells; it maps {name!r} to {cell!r}.")
        if name in own and own[name] != cell:
            raise ValueError(f"`cells` has `{name}`, which is a name of the library's own cells.")
    return {**own, **(more or {})}


def with_options(cell: Cell, options: Mapping[str, object]) -> Cell:
    """The cell with these options and no others, whatever options it has itself."""
    return cell.with_options({**cell.defaults(), **options})


def named_types(known: Mapping[str, Cell]) -> dict[str, type[Fields]]:
    """Nodes and states by name, those of the caller's own cells among them."""
    return {**{c.state.__name__: c.state for c in known.values()}, **STATES, **NODES}


def described(value: PyTree, known: Mapping[str, Cell]) -> Json:
    """A tree as data that JSON can hold; arrays leave their shape and dtype.

    Around nodes stand dicts, lists and tuples of arrays, keys, numbers and strings.
    """
    types = {node: name for name, node in named_types(known).items()}

    def describe(value: PyTree, depth: int, inside: bool = False) -> Json:
        inner = lambda value: describe(value, depth + 1, inside)
        if value is None:
            return None
        if depth > DEPTH:
            raise ValueError(f"a file can describe a network of at most {DEPTH} levels; got more.")
        if isinstance(value, Cell):
            return _cell(value, known)
        if isinstance(value, _containers.Static):
            return {"static": _plain(value.value)}
        if type(value) in types:
            fields = zip(value._fields, value, strict=True)
            return {
                "node": types[type(value)],
                "fields": {k: describe(v, depth + 1, True) for k, v in fields},
            }
        if is_key(value) and not inside:
            return {"key": implementation("a leaf", value), "shape": list(value.shape)}
        if is_value(value) and not inside:
            return {"value": type(value).__name__}
        if hasattr(value, "dtype") and hasattr(value, "shape"):
            return {"array": str(value.dtype), "shape": list(value.shape)}
        if type(value) is dict and all(isinstance(k, str) for k in value):
            return {"dict": {k: inner(v) for k, v in value.items()}}
        if type(value) is dict and all(type(k) is int for k in value):
            return {"numbered": [[k, inner(v)] for k, v in value.items()]}
        if type(value) in (tuple, list):
            return {type(value).__name__: [inner(v) for v in value]}
        if type(value) is dict:
            raise ValueError(
                "the keys of a dict in a file must all be strings, or all whole numbers; got "
                f"{short([*value])}. Save the leaves alone, `architecture=False`, and load them "
                "with `load(path, like=...)`."
            )
        raise ValueError(
            f"a `{type(value).__name__}` is nothing that a file can describe, which is a node of "
            f"{sorted(NODES)}, or a dict, list or tuple of nodes, arrays, keys, numbers and "
            "strings. Save the leaves alone, `architecture=False`, and load them with "
            "`load(path, like=...)`."
        )

    return describe(value, 0)


def _cell(value: Cell, known: Mapping[str, Cell]) -> Json:
    for name, cell in known.items():
        same = cell.equations is value.equations  # else options need not be those it has
        if same and with_options(cell, dict(value.options)) == value:
            options = [[k, _plain(v)] for k, v in value.options]
            return {"cell": name, "options": options, "gates": value.gates}
    raise ValueError(
        f"the cell `{value!r}` is none of jaxlstm's own, so that a file cannot name it. Give it a "
        "name here and in `load`, `cells={'name': cell}`; or save the weights alone, "
        "`architecture=False`, and load them into a network: `load(path, like=...)`."
    )


def _plain(value: object, depth: int = 0) -> Json:
    """Options as JSON has them; a tuple is a list there."""
    if depth <= DEPTH and isinstance(value, tuple):
        return [_plain(v, depth + 1) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, bool | float | str):
        return value
    if isinstance(value, int) and value.bit_length() <= 1024:
        return value
    raise ValueError(
        f"an option must be a number, a string, None, or a tuple of them; got {short(value)}."
    )


def _whole(value: object) -> Iterator[int]:
    """The whole numbers of an option."""
    if isinstance(value, tuple):
        for v in value:
            yield from _whole(v)
    elif type(value) is int:
        yield abs(value)


def _repeats(cell: Cell) -> int:
    """How often a cell may do a thing in one step, so far as its options tell.

    Those that are sizes of arrays cost nothing more for being large, except the first axis of
    a weight, which is a list of weights: `depth`.
    """
    words = [weight.shape.split() for _, weight in cell.weights]
    sizes = {word for shape in words for word in shape[1:]} | {"heads"}
    sizes |= {word for shape in cell.sizes for word in shape.split()}
    return sum(n for name, v in cell.options if name not in sizes for n in _whole(v))


class Reader:
    """Builds a tree of `described` data.

    Arrays and keys are `jax.ShapeDtypeStruct` still, values those of their types that are zero.
    """

    def __init__(self, file: str, known: Mapping[str, Cell], writer: str = __version__) -> None:
        self.file, self.known, self.parts = file, known, 0
        self.advice = ""  # for what this version does not know
        if writer != __version__:
            self.advice = (
                f" (this is jaxlstm {__version__}, and the file was written by {short(writer)}: "
                "load it with that version or a newer one)"
            )
        self.types = named_types(known)

    def wrong(self, at: str, expected: str, found: object) -> FileError:
        return FileError(self.file, at or None, expected, short(found))

    def build(self, data: Json, at: str = "", depth: int = 0, inside: bool = False) -> PyTree:
        """The value that the data describe; `at` is its key path."""
        if data is None:
            return None
        if depth > DEPTH:
            raise self.wrong(at, f"an architecture of at most {DEPTH} levels", "more")
        under = lambda key: f"{at}.{key}" if at else str(key)
        inner = lambda v, key: self.build(v, under(key), depth + 1, inside)
        match data:
            case {"cell": str(name), "options": list(options), **rest} if not rest.keys() - {
                "gates"
            }:
                return self.cell(at, name, options, rest.get("gates"))
            case {"static": value, **rest} if not rest:
                return _containers.Static(self.option(at, value))
            case {"array": str(dtype), "shape": list(shape), **rest} if not rest:
                return self.array(at, dtype, shape, inside)
            case {"key": str(name), "shape": list(shape), **rest} if not rest and not inside:
                if name not in IMPLEMENTATIONS:
                    raise self.wrong(at, f"keys of one of {IMPLEMENTATIONS}", name)
                return keys_like(name, self.shape(at, shape))
            case {"value": str(name), **rest} if not rest and not inside and name in VALUES:
                return VALUES[name]()
            case {"dict": dict(items), **rest} if not rest:
                return {k: inner(v, k) for k, v in items.items()}
            case {"numbered": list(items), **rest} if not rest:
                if not all(
                    isinstance(i, list) and len(i) == 2 and type(i[0]) is int for i in items
                ):
                    raise self.wrong(at, "pairs of a whole number and a part", items)
                return {k: inner(v, k) for k, v in items}
            case {"tuple": list(items), **rest} if not rest:
                return tuple(inner(v, k) for k, v in enumerate(items))
            case {"list": list(items), **rest} if not rest:
                return [inner(v, k) for k, v in enumerate(items)]
            case {"node": str(name), "fields": dict(fields), **rest} if not rest:
                node = self.types.get(name)
                if node is None:
                    raise self.wrong(at, f"a node of {sorted(NODES)}{self.advice}", name)
                self.parts += 1
                if self.parts > PARTS:
                    raise self.wrong(at, f"an architecture of at most {PARTS} nodes", "more")
                # A field that was added later, with a default, may be missing.
                missing = set(node._fields) - fields.keys() - node._field_defaults.keys()
                if missing or not fields.keys() <= set(node._fields):
                    expected = f"a {name} with the fields {node._fields}{self.advice}"
                    raise self.wrong(at, expected, tuple(fields))
                made = {k: self.build(v, under(k), depth + 1, True) for k, v in fields.items()}
                return self.checked(at, node(**made)) if name in NODES else node(**made)
        raise self.wrong(at, "a part of an architecture", data)

    def cell(self, at: str, name: str, options: list[Json], gates: Json) -> Cell:
        if name not in self.known:
            expected = f"a cell of jaxlstm, or one given as `cells=`{self.advice}"
            raise self.wrong(at, expected, name)
        pairs = all(isinstance(o, list) and len(o) == 2 and isinstance(o[0], str) for o in options)
        chosen = {o[0]: self.option(at, o[1]) for o in options} if pairs else {}
        cell = self.known[name]
        if not pairs or len(chosen) != len(options) or not chosen.keys() <= cell.defaults().keys():
            expected = f"options of {name}, of {sorted(cell.defaults())}{self.advice}"
            raise self.wrong(at, expected, options)
        if gates not in (None, cell.gates):  # None in files written before they had gates
            raise self.wrong(at, f"{name} with the gates {cell.gates!r}{self.advice}", gates)
        return with_options(cell, chosen)

    def option(self, at: str, value: Json, depth: int = 0) -> PyTree:
        """The inverse of `_plain`."""
        match value:
            case list() if depth <= DEPTH:
                return tuple(self.option(at, v, depth + 1) for v in value)
            case {"float": ("inf" | "-inf" | "nan") as number, **rest} if not rest:
                return float(number)
            case None | bool() | int() | str():
                return value
            case float() if math.isfinite(value):
                return value
        raise self.wrong(at, "an option: a number, a string, null or a list", value)

    def array(self, at: str, dtype: str, shape: list[Json], inside: bool) -> jax.ShapeDtypeStruct:
        found = self.shape(at, shape)
        if inside and dtype not in FLOATING:
            raise self.wrong(at, f"weights of a dtype of {sorted(FLOATING)}", dtype)
        if dtype not in ARRAYS:
            raise self.wrong(at, f"an array of a dtype of {sorted(ARRAYS)}", dtype)
        return jax.ShapeDtypeStruct(found, np.dtype(dtype))

    def shape(self, at: str, shape: list[Json]) -> tuple[int, ...]:
        if not all(type(n) is int and 0 <= n < 2**63 for n in shape):
            raise self.wrong(at, "a shape", shape)
        return tuple(shape)

    def checked(self, at: str, node: PyTree) -> PyTree:
        """A node whose parts are of the kind that it runs with."""
        if isinstance(node, Layer | ConvLayer):
            self.check_layer(at, node)
        parts = node.layers if isinstance(node, _containers.Stack) else [node]
        if not isinstance(parts, tuple | list) or not all(map(self.runs, parts)):
            raise self.wrong(at, "a Stack of nodes", type(parts).__name__)
        if not parts:
            raise self.wrong(at, "a network that can run, of one layer or more", "an empty Stack")
        fields = next(base for base in type(node).__mro__ if "_fields" in vars(base))
        kinds = inspect.get_annotations(fields)
        for name, value in zip(node._fields, node, strict=True):
            if name in ("node", "forward", "backward") and not self.runs(value):
                raise self.wrong(at, f"a node as `{name}`", type(value).__name__)
            if get_origin(kinds[name]) is _containers.Static:
                words, allowed = STATICS[name]
                if not isinstance(value, _containers.Static) or not allowed(value.value):
                    raise self.wrong(at, f"{words} as `{name}`", value)
        if isinstance(node, wrappers.RecurrentDropout):
            # A gate that does not exist would drop nothing.
            gates = getattr(getattr(innermost(node), "cell", None), "gates", "")
            gate = node._asdict()["gate"].value
            if gate not in list(gates):
                raise self.wrong(at, f"one gate of {gates!r} as `gate`", gate)
        return node

    def runs(self, value: object) -> bool:
        return type(value) in NODES.values()

    def check_layer(self, at: str, layer: Layer | ConvLayer) -> None:
        """The shapes of a layer are those of its cell.

        Axes of an ensemble may stand before all of them; before those of `w` and `r` stand,
        behind the ensemble's, the axes of a convolution's kernel, and nothing else tells how
        many of each there are.
        """
        cell, w = layer.cell, layer.w
        if not isinstance(cell, Cell) or not hasattr(w, "shape") or len(w.shape) < 3:
            raise self.wrong(at, "a Layer with a cell and `w` (input, gates, hidden)", layer)
        extra = {} if layer.weights is None else layer.weights
        own = cell.own_weights()
        if not isinstance(extra, dict) or extra.keys() != own.keys():
            raise self.wrong(at, f"the weights {sorted(own)} of {cell!r}", extra)
        ahead = w.shape[:-3]
        counts = [k for k in (1, 2, 3) if k <= len(ahead)] if isinstance(layer, ConvLayer) else [0]
        found = [self.misshapen(layer, extra, ahead, len(ahead) - k) for k in counts]
        if not found:
            raise self.wrong(at, "a ConvLayer whose `w` has one to three axes of space", w)
        if (problem := found[-1]) and all(found):
            name, expected, came = problem
            where = f"{at}.{name}" if at else name
            raise self.wrong(where, f"the shape {expected} of {cell!r}", came)

    def misshapen(
        self,
        layer: Layer | ConvLayer,
        extra: Mapping[str, PyTree],
        ahead: tuple[int, ...],
        ens: int,
    ) -> tuple[str, Shape | None, object] | None:
        """The first array of another shape than its cell has it: `(name, expected, found)`.

        Of the axes `ahead` of those of `w`, `ens` are of an ensemble, and the others of a kernel.
        """
        cell, (n, _, h) = layer.cell, layer.w.shape[-3:]
        dims = cell.dims(math.prod(ahead[ens:]) * n, h)
        arrays = {
            role: (getattr(layer, role), ahead if role in ("w", "r") else ahead[:ens], shape)
            for role, shape in cell.shapes(n, h).items()
        }
        arrays = {k: v for k, v in arrays.items() if v[0] is not None or k in ("w", "r")}
        arrays |= {
            f"weights.{name}": (extra[name], ahead[:ens], shape_of(weight.shape, dims))
            for name, weight in cell.own_weights().items()
        }
        for name, (a, first, shape) in arrays.items():
            found = None if a is None else getattr(a, "shape", "something else")
            if found != (None if shape is None else (*first, *shape)):
                return name, shape, found
        return None

    def check_empty(self, leaves: Mapping[str, jax.ShapeDtypeStruct], size: int) -> None:
        """An array without elements may claim any size at all: the file must bear it out."""
        for name, a in leaves.items():
            if 0 in a.shape and math.prod(n for n in a.shape if n) > max(size, EMPTY):
                expected = f"sizes that a file of {size} bytes can bear out"
                raise self.wrong(name, expected, list(a.shape))

    def check_run(self, tree: PyTree) -> None:
        """One step of every network in it can be traced."""
        repeats = 0
        for network in filter(self.runs, jax.tree.leaves(tree, is_leaf=self.runs)):
            parts = jax.tree.leaves(network, is_leaf=lambda a: hasattr(a, "w"))
            layers = [a for a in parts if hasattr(a, "w")]
            repeats += sum(_repeats(a.cell) for a in layers)
            if repeats > REPEATS:  # the arrays are right; enough
                return
            self.check_network(network, layers)

    def check_network(self, network: PyTree, layers: list[Layer | ConvLayer]) -> None:
        """One step can be traced, so options and sizes are such as the equations take.

        Not where axes stand before those of a layer: of an ensemble, or of a convolution.
        """
        if any(len(a.w.shape) != 3 for a in layers):
            return
        params = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, np.float32), network)
        try:
            xs = jax.ShapeDtypeStruct((1, params.input_size), np.float32)
            jax.eval_shape(lambda p, x: apply(p, x, implementation="scan"), params, xs)
        except MemoryError:
            raise
        except Exception as e:  # equations refuse their options in any way
            raise self.wrong("", "a network that can run", str(e)) from None
