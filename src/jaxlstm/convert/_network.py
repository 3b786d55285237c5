"""Networks: layers with names to nodes that hold them, and back."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from .._cell import Cell, Layer
from .._nodes import Bidirectional, Reverse, Stack
from ._names import DIRECTION, Framework, choose, entries
from ._table import Table, array, decode, encode


def network(
    of: Framework,
    tree: Any,
    *,
    cell: Cell | None,
    prefix: str,
    sums: bool = True,
    bidirectional: bool = False,
) -> Any:
    """The network that a framework's mapping holds."""
    if cell is not None and not isinstance(cell, Cell):
        raise TypeError(f"`cell` must be a cell such as `jaxlstm.lstm`; got {cell!r}.")
    found, arrays = entries(of, tree, prefix)
    pairs = []
    for entry in found:
        table = choose(entry, arrays, of, cell)
        said = {k: of.said(keys) for k, keys in entry.keys.items()}
        values = {k: array(said[k], arrays[keys]) for k, keys in entry.keys.items()}
        pairs.append((entry.path, decode(table, values, said, sums)))
    return assemble(pairs, bidirectional)


def assemble(pairs: Sequence[tuple[tuple[str, ...], Any]], bidirectional: bool = False) -> Any:
    """Layers by path as one network: a name with a direction in it is half of a pair."""
    nodes: dict[tuple[str, ...], Any] = {}
    for path, layer in pairs:
        at = next((k for k, part in enumerate(path) if DIRECTION.match(part)), None)
        if at is None:
            nodes[path] = layer
        else:
            match = DIRECTION.match(path[at])
            assert match is not None
            sides = nodes.setdefault(path[:at], {"forward": [], "backward": []})
            sides[match[1]].append((path[at + 1 :], layer))
    levels = [
        Bidirectional(*(_side(node[side], path, side) for side in ("forward", "backward")))
        if isinstance(node, dict)
        else node
        for path, node in nodes.items()
    ]
    if bidirectional and not any(isinstance(node, Bidirectional) for node in levels):
        if len(levels) % 2:
            raise ValueError(f"`bidirectional` takes layers in pairs; got {len(levels)} of them.")
        levels = [Bidirectional(*pair) for pair in zip(levels[::2], levels[1::2])]
    return stacked(levels)


def _side(pairs: Sequence[Any], path: tuple[str, ...], side: str) -> Any:
    if not pairs:
        raise ValueError(f"the layer `{'/'.join(path)}` has one direction and no {side} one.")
    return assemble(pairs)


def stacked(levels: Sequence[Any]) -> Any:
    """Nodes that feed each other as one network."""
    widths = [(_width(node), after.input_size) for node, after in itertools.pairwise(levels)]
    for k, (output, taken) in enumerate(widths):
        if output != taken:
            raise ValueError(
                f"layer {k} gives {output} outputs and layer {k + 1} takes {taken} inputs: they "
                "are no stack. Convert each by a call of its own."
            )
    return levels[0] if len(levels) == 1 else Stack(tuple(levels))


def _width(node: Any) -> int:
    if isinstance(node, Bidirectional):
        return _width(node.forward) + _width(node.backward)
    if isinstance(node, Stack):
        return _width(node.layers[-1])
    if isinstance(node, Reverse):
        return _width(node.node)
    return node.cell.output_size(node.w.shape[-1])


def layers(node: Any, where: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Layer]]:
    """`(where, layer)` in the order of running; `where` is made of levels and directions."""
    if isinstance(node, Layer):
        if node.w.ndim != 3:
            raise ValueError(
                f"a layer's `w` must have shape (input, gates, hidden); got {node.w.shape}."
            )
        yield where, node
    elif isinstance(node, Stack):
        for k, inner in enumerate(node.layers):
            yield from layers(inner, (*where, k))
    elif isinstance(node, Bidirectional):
        yield from layers(node.forward, (*where, "forward"))
        yield from layers(node.backward, (*where, "backward"))
    else:
        raise TypeError(
            f"a `{type(node).__name__}` has no counterpart in other frameworks; only `Layer`, "
            "`Stack` and `Bidirectional` can be converted."
        )


def table_of(of: Framework, cell: Cell) -> Table:
    for table in of.tables:
        if table.fits(cell):
            return table
    known = sorted({repr(table.cell) for table in of.tables})
    why = dict(of.lacks).get(cell, "none of them computes the same with other weights")
    raise ValueError(f"{of.name} has no `{cell!r}`: {why}. It has {known}.")


def named(of: Framework, params: Any, place: Callable[..., tuple[Any, ...]]) -> dict[Any, Any]:
    """The weights under names of the framework's own: `place(where, layer, name) -> keys`."""
    tree: dict[Any, Any] = {}
    for where, layer in layers(params):
        table = table_of(of, layer.cell)
        if layer.b is None and layer.recurrent_bias is None and not table.always:
            table = table.of(table.required)
        for name, a in encode(table, layer).items():
            *path, last = place(where, layer, name)
            inner = tree
            for key in path:
                inner = inner.setdefault(key, {})
            inner[last] = a
    return tree


def filled(of: Framework, params: Any, like: Any, prefix: str) -> Any:
    """A copy of the mapping `like` with the weights of `params` in their places."""
    found, arrays = entries(of, like, prefix)
    new = list(layers(params))
    ways = [
        [next(filter(DIRECTION.match, path), "")[:7] for path in (entry.path for entry in found)]
    ]
    ways += [[next((w for w in where if isinstance(w, str)), "")[:7] for where, _ in new]]
    if len(new) != len(found) or (any(ways[0]) and ways[0] != ways[1]):
        names = [of.join.join(entry.path) for entry in found]
        raise ValueError(
            f"`like` has the layers {names}; `params` has {len(new)}, of the directions {ways[1]}."
        )
    done: dict[tuple[Any, ...], np.ndarray] = {}
    for entry, (_, layer) in zip(found, new):
        table_of(of, layer.cell)
        table = choose(entry, arrays, of, layer.cell).of(entry.keys)
        for name, a in encode(table, layer).items():
            keys = entry.keys[name]
            shape = np.shape(arrays[keys])
            if a.shape != shape:
                raise ValueError(f"`{of.said(keys)}` must have shape {shape}; got {a.shape}.")
            done[keys] = a
    return _replaced(like, done)


def _direction(path: Sequence[Any]) -> str:
    found = (DIRECTION.match(str(part)) for part in path)
    return next((match[1] for match in found if match), "")


def _replaced(tree: Any, new: Mapping[tuple[Any, ...], Any], keys: tuple[Any, ...] = ()) -> Any:
    if isinstance(tree, Mapping):
        return {k: _replaced(v, new, (*keys, k)) for k, v in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_replaced(v, new, (*keys, k)) for k, v in enumerate(tree)]
    return new.get(keys, tree)
