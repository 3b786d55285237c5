"""Names: which arrays of a mapping make a layer, and what the names say of its place."""

import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import PyTree

from ..._cell import Cell
from ..._types import Shape
from .table import Table

Keys: TypeAlias = tuple[Hashable, ...]  # that lead to an array in a nested mapping
Where: TypeAlias = tuple[int | str, ...]  # a layer stands in a network: levels, directions

DEEPEST = 64  # levels of nesting; deeper ones are a mapping that holds itself, or no model


class Level(NamedTuple):
    """A component of a path that says where in a stack a layer stands."""

    text: str
    stem: str
    number: int
    counted: bool = False  # a count of what was made, which may start anywhere, not a position
    alike: bool = False  # all of its layers have the same directions


class Side(NamedTuple):
    """A component of a path that says which direction a layer runs in."""

    text: str
    stem: str
    backward: bool
    half: bool  # it is never alone


Component: TypeAlias = str | Level | Side


def text_of(part: Component) -> str:
    return part if isinstance(part, str) else part.text


class Entry(NamedTuple):
    """The arrays of one layer: where they lie in the mapping, by the names of a table."""

    path: tuple[Component, ...]  # of the layer, below the prefix
    keys: dict[str, Keys]  # the table's name -> the keys that lead to the array


class Framework(NamedTuple):
    """How a framework names what it stores.

    `read` takes the components of a name to the path of the layer and the table's name of the
    array; None where it is no array of a recurrent layer.
    """

    name: str
    tables: tuple[Table, ...]
    read: Callable[[list[str]], tuple[Sequence[Component], str] | None]
    join: str = "/"  # what joins the keys of a nested mapping to one name
    ignored: str = r"(?!)"  # a pattern of the names that lie beside weights and are none
    altered: Callable[[Sequence[str]], str | None] = lambda names: None  # of unread names, advice
    unclear: tuple[Cell, ...] = ()  # cells that the arrays of a layer without biases may all be
    lacks: tuple[tuple[Cell, str], ...] = ()  # the cells that it has not, and why

    def name_of(self, keys: Keys) -> str:
        return self.join.join(map(str, keys))

    def parts(self, name: str) -> list[str]:
        return [part for part in name.split(self.join) if part]


def ending(
    tables: Sequence[Table], place: Callable[[list[str]], list[Component]]
) -> Callable[[list[str]], tuple[Sequence[Component], str] | None]:
    """Reads names that end in a table's name; `place` says what the path before it means."""
    leaves = {name for table in tables for name in table.names}
    longest = max(name.count("/") + 1 for name in leaves)

    def read(parts: list[str]) -> tuple[Sequence[Component], str] | None:
        for n in range(min(longest, len(parts)), 0, -1):
            if (leaf := "/".join(parts[-n:])) in leaves:
                return place(parts[:-n]), leaf
        return None

    return read


def flatten(tree: PyTree, keys: Keys = ()) -> Iterator[tuple[Keys, PyTree]]:
    """`(keys, array)` for every array of a nested mapping."""
    if len(keys) > DEEPEST:
        raise ValueError(f"the weights are nested deeper than {DEEPEST} levels: {keys[:3]}...")
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from flatten(value, (*keys, key))
    elif isinstance(tree, (list, tuple)):
        for key, value in enumerate(tree):
            yield from flatten(value, (*keys, key))
    elif tree is not None:
        yield keys, tree


# attributes that only such an object has -> what it is, and what to take of it
OBJECTS = {
    ("state_dict", "load_state_dict"): ("a PyTorch module", "`module.state_dict()`"),
    ("get_weights", "weights"): (
        "a Keras layer or model",
        "`{w.path: w.numpy() for w in layer.weights}` or `layer.get_weights()`",
    ),
    ("init", "apply"): ("a module or a transformed function", "the parameters that `init` returns"),
}
PACKAGES = {
    "flax.nnx": ("an nnx module", "`nnx.to_pure_dict(nnx.state(module))`"),
    "haiku": ("a Haiku module", "the parameters that `hk.transform(f).init` returns"),
}


def check_mapping(tree: object) -> None:
    """What is given must hold arrays by name; a module holds more than that."""
    found = [what for names, what in OBJECTS.items() if all(hasattr(tree, n) for n in names)]
    if isinstance(tree, Mapping) or (isinstance(tree, (list, tuple)) and not found):
        return
    homes = [base.__module__ or "" for base in type(tree).__mro__]
    found += [what for home, what in PACKAGES.items() if any(h.startswith(home) for h in homes)]
    kind = type(tree).__name__
    if found:
        what, take = found[0]
        raise TypeError(f"the weights must be a mapping; got {what}, a `{kind}`: pass {take}.")
    raise TypeError(f"the weights must be a mapping of names to arrays; got a {kind}.")


def choose(entry: Entry, arrays: Mapping[Keys, PyTree], of: Framework, cell: Cell | None) -> Table:
    """The first table that these names and shapes fit."""
    names = set(entry.keys)
    whole = fit = [t for t in of.tables if names in (t.required, t.names)]
    fit = [t for t in fit if cell is None or t.fits(cell)]
    fit = [t for t in fit if _gates_fit(t, {k: np.shape(arrays[v]) for k, v in entry.keys.items()})]
    fit.sort(key=lambda t: not t.flat)  # whose bias has a length of its own
    shapes = {of.name_of(v): tuple(np.shape(arrays[v])) for v in entry.keys.values()}
    if not fit:
        known = sorted({repr(t.cell) for t in of.tables})
        target = f"`{cell!r}`" if cell is not None else f"any of {known}"
        larger = (sorted(t.names - names) for t in of.tables if names < t.names)
        missing = None if whole else min(larger, key=len, default=None)
        raise ValueError(
            f"these are not the weights that {of.name} has for {target}: {shapes}"
            f"{f'; missing {missing}' if missing else ''}. Of a larger model, name the recurrent "
            "layers with `prefix=`."
        )
    unbiased = names == fit[0].required
    if cell is None and unbiased and len({t.cell for t in fit} & set(of.unclear)) > 1:
        raise ValueError(
            f"without biases, {shapes} may be the weights of {[*map(repr, of.unclear)]}: say "
            "which with `cell=`."
        )
    if cell is None and fit[0].hint:
        _check_hint(entry, of, fit[0])
    return fit[0]._replace(cell=cell) if cell is not None and fit[0].free else fit[0]


def _check_hint(entry: Entry, of: Framework, table: Table) -> None:
    """A linear map of these shapes is a layer where its name, the prefix or `cell` says so."""
    leaf, keys = next(iter(entry.keys.items()))
    path = of.join.join(of.parts(of.name_of(keys))[: -len(leaf.split("/"))])
    named = bool(path) and not entry.path  # by the prefix
    if not named and not re.search(table.hint, text_of(entry.path[-1]) if entry.path else ""):
        by_prefix = f"name it with `prefix={path!r}`, or " if path else ""
        raise ValueError(
            f"`{of.name_of(keys)}` is of a linear map, which need not be a layer `{table.cell!r}`: "
            f"{by_prefix}say `cell=jaxlstm.{table.cell.name}`."
        )


def _gates_fit(table: Table, shapes: Mapping[str, Shape]) -> bool:
    """The recurrent weights hold as many gates as the table says, and a bias its axes."""
    if table.flat and table.names != shapes.keys():
        return False
    for part in table.parts:
        shape = shapes.get(part.name)
        if shape is None:
            continue
        if table.flat and part.roles == "bd":
            kernel = next(shapes[p.name] for p in table.parts if p.roles == "w")
            if not kernel or shape != (2 * kernel[-1],):
                return False
        elif part.roles in ("b", "bd", "d") and len(shape) != len(part.roles):
            return False
        if part.roles == "r" and len(shape) == 2 and not table.sized:
            width, total = shape[::-1] if table.rows else shape
            if total != len(part.gates) * width:
                return False
        if part.roles == "wr" and len(shape) == 2:  # rows of the inputs, then a row for each unit
            width, odd = divmod(shape[1], len(part.gates))
            if odd or shape[0] <= width:
                return False
    return True


def number(digits: str) -> int | None:
    """The number that is written so, and nothing else; no model has more than nine digits."""
    written = digits.isascii() and digits.isdigit() and len(digits) < 10
    return int(digits) if written and digits == str(int(digits)) else None


def counter(part: str) -> tuple[str, int]:
    """`lstm_cell_2` as `("lstm_cell", 2)`; the first of its kind has no number."""
    stem, _, digits = part.rpartition("_")
    k = number(digits)
    return (part, 0) if k is None else (stem, k)
