"""Arrangement: what the names of layers say of their order and their directions."""

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from jaxtyping import PyTree

from .names import (
    DEEPEST,
    Component,
    Entry,
    Framework,
    Keys,
    Level,
    Side,
    check_mapping,
    flatten,
    text_of,
)


class Chain(NamedTuple):
    """Layers that feed each other, the first first."""

    levels: "tuple[Arranged, ...]"


class Pair(NamedTuple):
    """The two directions of a bidirectional layer."""

    forward: "Arranged"
    backward: "Arranged"


Arranged: TypeAlias = Entry | Chain | Pair


def prefixes(of: Framework, tree: PyTree, prefix: str | Sequence[str]) -> list[str]:
    """The modules that are meant, in the order of running; a list of weights is such an order."""
    order = [prefix] if isinstance(prefix, str) else prefix
    if not isinstance(order, (list, tuple)) or not all(isinstance(p, str) for p in order):
        raise TypeError(f"`prefix` must be a name or a list of names; got {prefix!r}.")
    if not order:
        raise ValueError("`prefix` must name a module; got an empty list.")
    if len(order) == 1 and not of.parts(order[0]) and isinstance(tree, (list, tuple)) and tree:
        return [str(k) for k in range(len(tree))]
    return [*order]


def arranged(
    of: Framework,
    tree: PyTree,
    prefix: str | Sequence[str],
    check: Callable[[Entry, Mapping[Keys, PyTree]], object] = lambda entry, arrays: None,
) -> tuple[list[Arranged], dict[Keys, PyTree]]:
    """The layers below each prefix in their arrangement, and every array of the mapping.

    What is no layer fails its `check` before it is asked where it stands.
    """
    check_mapping(tree)
    arrays = dict(flatten(tree))
    names: dict[tuple[str, ...], Keys] = {}
    for keys in arrays:
        parts = tuple(of.parts(of.name_of(keys)))
        if len(parts) > DEEPEST:
            raise ValueError(f"the name {parts[:3]}... has more than {DEEPEST} components.")
        if parts in names:
            raise ValueError(f"two arrays have the one name `{of.name_of(keys)}`.")
        names[parts] = keys
    order = prefixes(of, tree, prefix)
    found = [_below(of, names, one) for one in order]
    for entry in itertools.chain.from_iterable(found):
        for keys in entry.keys.values():
            if not hasattr(arrays[keys], "shape"):
                what = type(arrays[keys]).__name__
                hint = ": take it out of its box first" if hasattr(arrays[keys], "unbox") else ""
                raise TypeError(f"`{of.name_of(keys)}` must be an array; got a {what}{hint}.")
        check(entry, arrays)
    seen = [keys for entries in found for entry in entries for keys in entry.keys.values()]
    if len(set(seen)) < len(seen):
        raise ValueError(f"the prefixes {order} name some arrays twice.")
    return [_arrange(of, one, entries) for one, entries in zip(order, found)], arrays


def _below(of: Framework, names: Mapping[tuple[str, ...], Keys], prefix: str) -> list[Entry]:
    """The layers of which the names begin with the components of the prefix."""
    start = of.parts(prefix)
    found: dict[tuple[Component, ...], dict[str, Keys]] = {}
    unread: list[str] = []
    beside: list[str] = []
    for parts, keys in names.items():
        inside = [*parts[: len(start)]] == start
        if not inside:
            beside += [of.name_of(keys)] if [*parts[:-1]] == start[: len(parts) - 1] else []
            continue
        for key in keys:
            if not isinstance(key, (str, int)) or isinstance(key, bool):
                raise TypeError(
                    f"the names must be strings; got the key {key!r} in {keys}. A nested mapping "
                    f"has one string a level, a flat one `{of.join}` between them."
                )
        read = of.read([*parts])
        if read is None or len(read[0]) < len(start):
            unread.append(of.name_of(keys))
        else:
            layer = found.setdefault(tuple(read[0][len(start) :]), {})
            if read[1] in layer:
                both = [of.name_of(keys), of.name_of(layer[read[1]])]
                raise ValueError(f"the names {both} are of the one array `{read[1]}`.")
            layer[read[1]] = keys
    if (advice := of.altered(unread + beside)) is not None:
        raise ValueError(advice)
    unread = [name for name in unread if not re.search(of.ignored, name)]
    below = f" below the prefix {prefix!r}" if prefix else ""
    if not found:
        some = [of.name_of(keys) for keys in [*names.values()][:12]]
        raise ValueError(f"there are no recurrent weights{below}; the names are {some}.")
    if unread:
        raise ValueError(
            f"{unread[:8]}{below} belong to no recurrent layer of {of.name}. Name the layers "
            "with `prefix=`, so that nothing is omitted silently."
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
        path = of.join.join([*of.parts(prefix), *map(text_of, entries[0].path[:depth])])
        if len(parts) > 1:
            break
        (part,) = parts
        if isinstance(part, Side) and part.half:
            other = "forward" if part.backward else "backward"
            where = path or part.text
            raise ValueError(f"the layer `{where}` has one direction and no {other} one.")
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
            where = of.join.join([*filter(None, [path]), one.text])
            raise ValueError(f"the layer `{where}` has one direction and no backward one.")
        rising = all(one.number < two.number for one, two in itertools.pairwise(levels))
        if rising or not ordered[0].counted:  # a count is believed where the mapping agrees
            return Chain(tuple(inner[part] for part in ordered))
    if len(sides) == len(parts) == 2 and len({part.stem for part in sides}) == 1:
        forward, backward = sorted(sides, key=lambda part: part.backward)
        return Pair(inner[forward], inner[backward])
    some = [of.join.join(filter(None, [path, text_of(part or "")])) for part in parts[:8]]
    advice = "Give each a mapping of its own"
    if all(part is not None and not getattr(part, "alike", False) for part in parts):
        advice = f"A list says it, the first layer first: `prefix={some}` makes a stack"
    raise ValueError(
        f"the names {some} do not say which layer comes first, nor that they feed each other. "
        f"{advice}. Or convert each by a call of its own; two directions make a "
        "`jaxlstm.Bidirectional(forward, backward)`."
    )


def _check_numbers(levels: Sequence[Level], path: str) -> None:
    """Positions are counted from 0, and one that is missing is not passed over."""
    for k, level in enumerate(levels):
        if level.number != k and not level.counted:
            missing = [*range(k, min(level.number, k + 8))]
            raise ValueError(f"the weights of the layers {missing} are missing below {path!r}.")
