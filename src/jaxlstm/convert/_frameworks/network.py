"""Networks: layers with names to nodes that hold them, and back."""

import copy
import itertools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import PyTree

from ..._cell import Cell, Layer, shape_of
from ..._containers import Bidirectional, Reverse, Stack
from ..._node import Node
from ..._options import flag
from .._arrays import array, concrete, floating, one_dtype
from .arrange import Arranged, Chain, Pair, arranged
from .names import Entry, Framework, Keys, Where, choose, text_of
from .table import PLAIN, Table, decode, encode

Place: TypeAlias = Callable[[Where, Layer, str], Keys]  # (where, layer, name) -> keys


def network(
    of: Framework,
    tree: PyTree,
    *,
    cell: Cell | None,
    prefix: str | Sequence[str],
    sums: bool = True,
    bidirectional: bool = False,
) -> Node:
    """The network that a framework's mapping holds."""
    if cell is not None and not isinstance(cell, Cell):
        raise TypeError(f"`cell` must be a cell such as `jaxlstm.lstm`; got {cell!r}.")
    sums, bidirectional = flag("sum_biases", sums), flag("bidirectional", bidirectional)
    found, arrays = arranged(of, tree, prefix, lambda entry, all: choose(entry, all, of, cell))
    given: dict[str, np.ndarray] = {}

    def layer(entry: Entry) -> Layer:
        table = choose(entry, arrays, of, cell)
        names = {k: of.name_of(keys) for k, keys in entry.keys.items()}
        values = {k: array(names[k], arrays[keys]) for k, keys in entry.keys.items()}
        given.update({names[k]: a for k, a in values.items()})
        return decode(table, values, names, sums)

    levels = [node for one in found for node in _levels(one, layer)]
    one_dtype(given)
    return stacked(_paired(levels) if bidirectional else levels)


def _levels(one: Arranged, layer: Callable[[Entry], Layer]) -> list[Node]:
    """The nodes of one arrangement, those that feed each other side by side."""
    if isinstance(one, Chain):
        return [node for level in one.levels for node in _levels(level, layer)]
    if isinstance(one, Pair):
        forward, backward = (stacked(_levels(side, layer)) for side in one)
        return [_both(forward, backward)]
    return [layer(one)]


def _both(forward: Node, backward: Node) -> Bidirectional:
    sizes = forward.input_size, backward.input_size
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"both directions of a layer take the same inputs; the forward one takes {sizes[0]} "
            f"and the backward one {sizes[1]}."
        )
    return Bidirectional(forward, backward)


def _paired(levels: Sequence[Node]) -> list[Node]:
    """Layers of which forward and backward ones alternate, unless their names say so."""
    known = sum(isinstance(node, Bidirectional) for node in levels)
    if known == len(levels):
        return [*levels]
    if known or len(levels) % 2:
        of_both = f", of which {known} have two directions already" if known else ""
        raise ValueError(
            f"`bidirectional` takes layers in pairs; got {len(levels)} of them{of_both}."
        )
    return [_both(*pair) for pair in zip(levels[::2], levels[1::2])]


_MERGED = (
    " Here two directions are joined. A layer that sums, averages or multiplies them (Keras's "
    "`merge_mode`, Flax's `merge_fn`) has no node: convert the directions one by one, and combine "
    "what `apply(forward, xs)` and `apply(backward, xs, reverse=True)` give."
)


def stacked(levels: Sequence[Node]) -> Node:
    """Nodes that feed each other as one network."""
    widths = [(_width(node), after.input_size) for node, after in itertools.pairwise(levels)]
    for k, (output, taken) in enumerate(widths):
        if output != taken:
            merged = isinstance(levels[k], Bidirectional) and output == 2 * taken
            raise ValueError(
                f"layer {k} gives {output} outputs and layer {k + 1} takes {taken} inputs: they "
                "are no stack. Convert each by a call of its own." + (_MERGED if merged else "")
            )
    return levels[0] if len(levels) == 1 else Stack(tuple(levels))


def _width(node: PyTree) -> int:
    if isinstance(node, Bidirectional):
        return _width(node.forward) + _width(node.backward)
    if isinstance(node, Stack):
        return _width(node.layers[-1])
    if isinstance(node, Reverse):
        return _width(node.node)
    return node.cell.output_size(node.w.shape[-1])


def layers(node: object, where: Where = ()) -> Iterator[tuple[Where, Layer]]:
    """`(where, layer)` in the order of running; `where` is made of levels and directions."""
    if isinstance(node, Layer):
        _check_layer(node, where)
        yield where, node
    elif isinstance(node, Stack):
        if not isinstance(node.layers, (list, tuple)):
            kind = type(node.layers).__name__
            raise TypeError(f"a `Stack` must hold a tuple of layers; got a `{kind}`.")
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


def _check_layer(layer: Layer, where: Where) -> None:
    """The weights must be those of the cell, or they would be cut into other gates."""
    place = "/".join(map(str, where)) or "the layer"
    if not isinstance(layer.cell, Cell):
        raise TypeError(f"{place}: `cell` must be a cell; got {layer.cell!r}.")
    if getattr(layer.w, "ndim", None) != 3:
        raise ValueError(
            "a layer's `w` must have shape (input, gates, hidden); got "
            f"{getattr(layer.w, 'shape', layer.w)}."
        )
    n, _, h = layer.w.shape
    shapes = layer.cell.shapes(n, h)
    for role, shape in shapes.items():
        a = getattr(layer, role)
        if a is None and role not in ("w", "r"):
            continue
        if getattr(a, "shape", None) != shape:
            got = getattr(a, "shape", a)
            raise ValueError(f"{place}: `{role}` of {layer.cell} must have {shape}; got {got}.")
    dims = layer.cell.dims(n, h)
    for name, weight in layer.cell.own_weights().items():
        shape, a = shape_of(weight.shape, dims), (layer.weights or {}).get(name)
        if getattr(a, "shape", None) != shape:
            got = getattr(a, "shape", a)
            raise ValueError(f"{place}: `{name}` of {layer.cell} must have {shape}; got {got}.")


def checked(params: object) -> list[tuple[Where, Layer]]:
    """The layers of a network that can run: of one dtype, each taking what the last gives."""
    found = [*layers(params)]
    if not found:
        raise ValueError("the network has no layers.")
    arrays: dict[str, PyTree] = {}
    for where, layer in found:
        fields = {role: getattr(layer, role) for role in ("w", "r", "b", "recurrent_bias")}
        for role, a in {**fields, **(layer.weights or {})}.items():
            name = "/".join(map(str, (*where, role)))
            arrays |= {} if a is None else {name: floating(name, concrete(name, a))}
    one_dtype(arrays)
    _check_widths(params)
    return found


def _check_widths(node: object) -> None:
    if isinstance(node, Stack):
        stacked(node.layers)
    if isinstance(node, Bidirectional):
        _both(*node)
    for inner in node.layers if isinstance(node, Stack) else ():
        _check_widths(inner)
    for inner in node if isinstance(node, Bidirectional) else ():
        _check_widths(inner)


def table_of(of: Framework, cell: Cell) -> Table:
    for table in of.tables:
        if table.fits(cell):
            return table
    known = sorted({repr(table.cell) for table in of.tables})
    why = dict(of.lacks).get(
        PLAIN.get(cell, cell), "none of them computes the same with other weights"
    )
    raise ValueError(f"{of.name} has no `{cell!r}`: {why}. It has {known}.")


def named(of: Framework, params: object, place: Place) -> dict[Hashable, PyTree]:
    """The weights under names of the framework's own: `place(where, layer, name) -> keys`."""
    tree: dict[Hashable, PyTree] = {}
    for where, layer in checked(params):
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


def one_prefix(prefix: object) -> str:
    """New names begin with one prefix; several say the order of what is there."""
    if not isinstance(prefix, str):
        raise TypeError(f"without `like`, `prefix` must be one name; got {prefix!r}.")
    return prefix


def _flat(
    one: Arranged, directions: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Entry]]:
    """`(directions, entry)` in the order of running."""
    if isinstance(one, Chain):
        for level in one.levels:
            yield from _flat(level, directions)
    elif isinstance(one, Pair):
        yield from _flat(one.forward, (*directions, "forward"))
        yield from _flat(one.backward, (*directions, "backward"))
    else:
        yield directions, one


def filled(
    of: Framework,
    params: object,
    like: PyTree,
    prefix: str | Sequence[str],
    convert: Callable[[np.ndarray, PyTree], PyTree] = lambda new, old: new,
) -> PyTree:
    """A copy of the mapping `like` with the weights of `params` in their places.

    `convert(new, old)` makes of an array what `like` holds in its place.
    """
    found, arrays = arranged(of, like, prefix)
    new = checked(params)
    old = [pair for one in found for pair in _flat(one)]
    there = [directions for directions, _ in old]
    here = [tuple(part for part in where if isinstance(part, str)) for where, _ in new]
    sides = ("forward", "backward")
    alternate = all(directions == (sides[k % 2],) for k, directions in enumerate(here))
    if len(new) != len(old) or (there != here and (any(there) or not alternate)):
        names = [of.join.join(map(text_of, entry.path)) for _, entry in old]
        raise ValueError(
            f"`like` has the layers {names}; `params` has {len(new)}, of the directions {here}."
        )
    done: dict[Keys, PyTree] = {}
    for (_, entry), (_, layer) in zip(old, new):
        table_of(of, layer.cell)
        table = choose(entry, arrays, of, layer.cell).of(entry.keys)
        if not table.biased and not (layer.b is None and layer.recurrent_bias is None):
            names = [of.name_of(keys) for keys in entry.keys.values()]
            raise ValueError(f"the layer of {names} has no bias, and `params` has one.")
        for name, a in encode(table, layer).items():
            keys = entry.keys[name]
            shape = np.shape(arrays[keys])
            if a.shape != shape:
                raise ValueError(f"`{of.name_of(keys)}` must have shape {shape}; got {a.shape}.")
            done[keys] = convert(a, arrays[keys])
    return _replaced(like, done)


def _replaced(tree: PyTree, new: Mapping[Keys, PyTree], keys: Keys = ()) -> PyTree:
    if isinstance(tree, Mapping):
        inner = {k: _replaced(v, new, (*keys, k)) for k, v in tree.items()}
        if not isinstance(tree, dict):
            return inner
        whole = copy.copy(tree)  # of PyTorch's kind, which has its versions in an attribute
        whole.update(inner)
        return whole
    if isinstance(tree, (list, tuple)):
        return [_replaced(v, new, (*keys, k)) for k, v in enumerate(tree)]
    return new.get(keys, tree)
