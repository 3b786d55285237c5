"""Names: which arrays of a mapping make a layer, and what the names say of its place."""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from .._cell import Cell
from ._table import Table

DEEPEST = 64  # levels of nesting; deeper ones are a mapping that holds itself, or no model


class Level(NamedTuple):
    """A component of a path that says where in a stack a layer stands."""

    said: str
    stem: str
    number: int
    counted: bool = False  # a count of what was made, which may start anywhere, not a position
    alike: bool = False  # all of its layers have the same directions


class Side(NamedTuple):
    """A component of a path that says which direction a layer runs in."""

    said: str
    stem: str
    backward: bool
    half: bool  # it is never alone


Component: TypeAlias = str | Level | Side


def said(part: Component) -> str:
    return part if isinstance(part, str) else part.said


class Entry(NamedTuple):
    """The arrays of one layer: where they lie in the mapping, by the names of a table."""

    path: tuple[Component, ...]  # of the layer, below the prefix
    keys: dict[str, tuple[Any, ...]]  # the table's name -> the keys that lead to the array


class Chain(NamedTuple):
    """Layers that feed each other, the first first."""

    levels: "tuple[Arranged, ...]"


class Pair(NamedTuple):
    """The two directions of a bidirectional layer."""

    forward: "Arranged"
    backward: "Arranged"


Arranged: TypeAlias = Entry | Chain | Pair


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

    def said(self, keys: Sequence[Any]) -> str:
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


def flatten(tree: Any, keys: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
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


def check_mapping(tree: Any) -> None:
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


def prefixes(of: Framework, tree: Any, prefix: str | Sequence[str]) -> list[str]:
    """The modules that are meant, in the order of running; a list of weights is such an order."""
    told = [prefix] if isinstance(prefix, str) else prefix
    if not isinstance(told, (list, tuple)) or not all(isinstance(p, str) for p in told):
        raise TypeError(f"`prefix` must be a name or a list of names; got {prefix!r}.")
    if not told:
        raise ValueError("`prefix` must name a module; got an empty list.")
    if len(told) == 1 and not of.parts(told[0]) and isinstance(tree, (list, tuple)) and tree:
        return [str(k) for k in range(len(tree))]
    return [*told]


def arranged(
    of: Framework,
    tree: Any,
    prefix: str | Sequence[str],
    check: Callable[[Entry, Mapping[Any, Any]], Any] = lambda entry, arrays: None,
) -> tuple[list[Arranged], dict[tuple[Any, ...], Any]]:
    """The layers below each prefix in their arrangement, and every array of the mapping.

    What is no layer fails its `check` before it is asked where it stands.
    """
    check_mapping(tree)
    arrays = dict(flatten(tree))
    names: dict[tuple[str, ...], tuple[Any, ...]] = {}
    for keys in arrays:
        parts = tuple(of.parts(of.said(keys)))
        if len(parts) > DEEPEST:
            raise ValueError(f"the name {parts[:3]}... has more than {DEEPEST} components.")
        if parts in names:
            raise ValueError(f"two arrays have the one name `{of.said(keys)}`.")
        names[parts] = keys
    told = prefixes(of, tree, prefix)
    found = [_below(of, names, one) for one in told]
    for entry in itertools.chain.from_iterable(found):
        check(entry, arrays)
    seen = [keys for entries in found for entry in entries for keys in entry.keys.values()]
    if len(set(seen)) < len(seen):
        raise ValueError(f"the prefixes {told} name some arrays twice.")
    return [_arrange(of, one, entries) for one, entries in zip(told, found)], arrays


def _below(
    of: Framework, names: Mapping[tuple[str, ...], tuple[Any, ...]], prefix: str
) -> list[Entry]:
    """The layers of which the names begin with the components of the prefix."""
    start = of.parts(prefix)
    found: dict[tuple[Component, ...], dict[str, tuple[Any, ...]]] = {}
    unread, beside = [], []
    for parts, keys in names.items():
        inside = [*parts[: len(start)]] == start
        if not inside:
            beside += [of.said(keys)] if [*parts[:-1]] == start[: len(parts) - 1] else []
            continue
        for key in keys:
            if not isinstance(key, (str, int)) or isinstance(key, bool):
                raise TypeError(
                    f"the names must be strings; got the key {key!r} in {keys}. A nested mapping "
                    f"has one string a level, a flat one `{of.join}` between them."
                )
        read = of.read([*parts])
        if read is None or len(read[0]) < len(start):
            unread.append(of.said(keys))
        else:
            layer = found.setdefault(tuple(read[0][len(start) :]), {})
            if read[1] in layer:
                both = [of.said(keys), of.said(layer[read[1]])]
                raise ValueError(f"the names {both} are of the one array `{read[1]}`.")
            layer[read[1]] = keys
    if (advice := of.altered(unread + beside)) is not None:
        raise ValueError(advice)
    unread = [name for name in unread if not re.search(of.ignored, name)]
    below = f" below the prefix {prefix!r}" if prefix else ""
    if not found:
        some = [of.said(keys) for keys in [*names.values()][:12]]
        raise ValueError(f"there are no recurrent weights{below}; the names are {some}.")
    if unread:
        raise ValueError(
            f"{unread[:8]}{below} belong to no recurrent layer of {of.name}. Name the layers "
            "with `prefix=`, so that nothing is left out in silence."
        )
    return [Entry(path, keys) for path, keys in found.items()]


def _arrange(of: Framework, prefix: str, entries: Sequence[Entry], depth: int = 0) -> Arranged:
    """What the names say of the order and the directions of layers, and nothing beyond it."""
    while True:
        groups: dict[Component | None, list[Entry]] = {}
        for entry in entries:
            part = entry.path[depth] if len(entry.path) > depth else None
            groups.setdefault(part, []).append(entry)
        parts = [*groups]
        if parts == [None]:
            return entries[0]
        path = of.join.join([*of.parts(prefix), *map(said, entries[0].path[:depth])])
        if len(parts) > 1:
            break
        (part,) = parts
        if isinstance(part, Side) and part.half:
            other = "forward" if part.backward else "backward"
            raise ValueError(f"the layer `{path}` has one direction and no {other} one.")
        if isinstance(part, Level):
            _check_numbers([part], path)
        depth += 1
    inner = {part: _arrange(of, prefix, group, depth + 1) for part, group in groups.items()}
    levels = [part for part in parts if isinstance(part, Level)]
    sides = [part for part in parts if isinstance(part, Side)]
    if len(levels) == len(parts) and len({part.stem for part in levels}) == 1:
        ordered = sorted(levels, key=lambda part: part.number)
        _check_numbers(ordered, path)
        if ordered[0].alike and len({isinstance(inner[part], Pair) for part in ordered}) > 1:
            one = next(part for part in ordered if not isinstance(inner[part], Pair))
            where = of.join.join([*filter(None, [path]), one.said])
            raise ValueError(f"the layer `{where}` has one direction and no backward one.")
        rising = all(one.number < two.number for one, two in itertools.pairwise(levels))
        if rising or not ordered[0].counted:  # a count is believed where the mapping agrees
            return Chain(tuple(inner[part] for part in ordered))
    if len(sides) == len(parts) == 2 and len({part.stem for part in sides}) == 1:
        forward, backward = sorted(sides, key=lambda part: part.backward)
        return Pair(inner[forward], inner[backward])
    some = [of.join.join(filter(None, [path, said(part or "")])) for part in parts[:8]]
    raise ValueError(
        f"the names {some} do not say which layer comes first, nor that they feed each other. "
        f"A list says it, the first layer first: `prefix={some}` makes a stack. Or convert each "
        "by a call of its own; two directions make a `jaxlstm.Bidirectional(forward, backward)`."
    )


def _check_numbers(levels: Sequence[Level], path: str) -> None:
    """Positions are counted from 0, and one that is missing is not passed over."""
    for k, level in enumerate(levels):
        if level.number != k and not level.counted:
            missing = [*range(k, min(level.number, k + 8))]
            raise ValueError(f"the weights of the layers {missing} are missing below {path!r}.")


def choose(entry: Entry, arrays: Mapping[Any, Any], of: Framework, cell: Cell | None) -> Table:
    """The first table that these names and shapes fit."""
    names = set(entry.keys)
    whole = fit = [t for t in of.tables if names in (t.required, t.names)]
    fit = [t for t in fit if cell is None or t.fits(cell)]
    fit = [t for t in fit if _gates_fit(t, {k: np.shape(arrays[v]) for k, v in entry.keys.items()})]
    fit.sort(key=lambda t: not t.flat)  # whose bias has a length of its own
    shapes = {of.said(v): tuple(np.shape(arrays[v])) for v in entry.keys.values()}
    if not fit:
        known = sorted({repr(t.cell) for t in of.tables})
        asked = f"`{cell!r}`" if cell is not None else f"any of {known}"
        larger = (sorted(t.names - names) for t in of.tables if names < t.names)
        missing = None if whole else min(larger, key=len, default=None)
        raise ValueError(
            f"these are not the weights that {of.name} has for {asked}: {shapes}"
            f"{f'; missing {missing}' if missing else ''}. Of a larger model, name the recurrent "
            "layers with `prefix=`."
        )
    if cell is None and len({t.cell for t in fit} & set(of.unclear)) > 1:
        raise ValueError(
            f"without biases, {shapes} may be the weights of {[*map(repr, of.unclear)]}: say "
            "which with `cell=`."
        )
    return fit[0]._replace(cell=cell) if cell is not None and fit[0].free else fit[0]


def _gates_fit(table: Table, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """The recurrent weights hold as many gates as the table says, and a bias its axes."""
    for part in table.parts:
        shape = shapes.get(part.name)
        if shape is None:
            continue
        if table.flat and part.roles == "bd":
            kernel = next(shapes[p.name] for p in table.parts if p.roles == "w")
            if shape != (2 * kernel[-1],):
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
