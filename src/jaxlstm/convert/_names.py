"""Names: which arrays of a mapping make a layer, and which layer comes first."""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .._cell import Cell
from ._table import Table

DIRECTION = re.compile(r"(forward|backward)(?=_|$)")


class Entry(NamedTuple):
    """The arrays of one layer: where they lie in the mapping, by the names of a table."""

    path: tuple[str, ...]  # of the layer, a component a level
    keys: dict[str, tuple[Any, ...]]  # the table's name -> the keys that lead to the array


def flatten(tree: Any, keys: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """`(keys, array)` for every array of a nested mapping."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from flatten(value, (*keys, key))
    elif isinstance(tree, (list, tuple)):
        for key, value in enumerate(tree):
            yield from flatten(value, (*keys, key))
    elif tree is not None:
        yield keys, tree


def slashes(name: str) -> list[str]:
    return name.split("/")


class Framework(NamedTuple):
    """How a framework names what it stores; `order` puts its layers in the order of running."""

    name: str
    tables: tuple[Table, ...]
    parts: Callable[[str], list[str]] = slashes  # of a name: the path of the layer, and the array
    join: str = "/"  # what joins the keys of a nested mapping to one name
    ignored: tuple[str, ...] = ()  # what lies beside weights and is none
    in_order: bool = False  # its mappings keep the order of the layers, if names do not say it
    lacks: tuple[tuple[Cell, str], ...] = ()  # the cells that it has not, and why

    def said(self, keys: tuple[Any, ...]) -> str:
        return self.join.join(map(str, keys))


def entries(
    of: Framework, tree: Any, prefix: str
) -> tuple[list[Entry], dict[tuple[Any, ...], Any]]:
    """The layers of a mapping below `prefix` in order, and every array that it holds."""
    if not isinstance(tree, (Mapping, list, tuple)):
        raise TypeError(
            f"the weights must be a mapping of names to arrays; got a {type(tree).__name__}."
        )
    arrays = dict(flatten(tree))
    leaves = {name for table in of.tables for name in table.names}
    start = [part for part in prefix.split(of.join) if part]
    found: dict[tuple[str, ...], dict[str, tuple[Any, ...]]] = {}
    unknown = []
    for keys in arrays:
        parts = of.parts(of.said(keys))
        if parts[: len(start)] != start or set(parts) & set(of.ignored):
            continue
        parts = parts[len(start) :]
        at = next((n for n in range(len(parts)) if "/".join(parts[n:]) in leaves), None)
        if at is None:
            unknown.append(of.said(keys))
        else:
            found.setdefault(tuple(parts[:at]), {})["/".join(parts[at:])] = keys
    below = f" below the prefix {prefix!r}" if prefix else ""
    if not found:
        names = [of.said(keys) for keys in arrays]
        raise ValueError(f"there are no recurrent weights{below}; the names are {names[:12]}.")
    if unknown:
        raise ValueError(
            f"{unknown[:8]}{below} belong to no recurrent layer of {of.name}. Name the layers "
            "with `prefix=`, so that nothing is left out in silence."
        )
    done = [Entry(path, keys) for path, keys in found.items()]
    return numbered(done, of.in_order), arrays


def choose(entry: Entry, arrays: Mapping[Any, Any], of: Framework, cell: Cell | None) -> Table:
    """The first table that these names and shapes fit."""
    names = set(entry.keys)
    whole = fit = [t for t in of.tables if names in (t.required, t.names)]
    fit = [t for t in fit if cell is None or t.fits(cell)]
    fit = [t for t in fit if _gates_fit(t, {k: np.shape(arrays[v]) for k, v in entry.keys.items()})]
    if not fit:
        known = sorted({repr(t.cell) for t in of.tables})
        asked = f"`{cell!r}`" if cell is not None else f"any of {known}"
        shapes = {of.said(v): tuple(np.shape(arrays[v])) for v in entry.keys.values()}
        larger = (sorted(t.names - names) for t in of.tables if names < t.names)
        missing = None if whole else min(larger, key=len, default=None)
        raise ValueError(
            f"these are not the weights that {of.name} has for {asked}: {shapes}"
            f"{f'; missing {missing}' if missing else ''}. Of a larger model, name the recurrent "
            "layers with `prefix=`."
        )
    return fit[0]._replace(cell=cell) if cell is not None and fit[0].free else fit[0]


def _gates_fit(table: Table, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """The recurrent weights hold as many gates as the table says, and a bias its axes."""
    for part in table.parts:
        shape = shapes.get(part.name)
        if shape is None:
            continue
        if part.roles in ("b", "bd", "d") and len(shape) != len(part.roles):
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


def numbered(items: Sequence[Entry], in_order: bool) -> list[Entry]:
    """In the order of the numbers in their names; `lstm` comes before `lstm_1`.

    Not in that of the mapping, if possible: JAX sorts the keys of a dict, and `lstm_10` comes
    before `lstm_9`.
    """

    def word(part: str) -> tuple[str, int]:
        if direction := DIRECTION.match(part):
            return "", direction[1] == "backward"
        match = re.fullmatch(r"(.*?)_?(\d*)", part)
        assert match is not None
        return match[1], int(match[2] or 0)

    def words(path: tuple[str, ...]) -> list[tuple[str, int]]:
        return [word(part) for part in path]

    done = sorted(items, key=lambda entry: words(entry.path))
    for one, two in itertools.pairwise(done):
        differ = [(a, b) for a, b in zip(words(one.path), words(two.path)) if a != b]
        a, b = differ[0] if differ else (("", 0), ("", 1))
        if a[0] != b[0] and in_order:
            return list(items)
        if a[0] != b[0]:
            names = ["/".join(entry.path) for entry in done]
            raise ValueError(
                f"the names {names} do not say which layer comes first. Convert each by a call "
                "of its own with `prefix=`, and join them: `jaxlstm.Stack((first, second))`."
            )
    return done
