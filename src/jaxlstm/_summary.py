"""How networks are shown: `repr` in a line or a few, and `summary` with every weight."""

import math
import textwrap
from typing import TYPE_CHECKING

import jax
import numpy as np
from jaxtyping import PyTree

from ._options import outline

if TYPE_CHECKING:
    from ._layer import CellNode


def node_repr(node: PyTree) -> str:
    """A node by its name and its parts: `Stack(lstm 28 -> 64, lstm 64 -> 64, dropout=0.2)`."""
    parts = [
        part
        for name, value in zip(node._fields, node, strict=True)
        if not _default(node, name, value)
        for part in _parts(name, value)
    ]
    line = f"{type(node).__name__}({', '.join(parts)})"
    if len(line) <= 88:
        return line
    inside = textwrap.indent(",\n".join(parts), "  ")
    return f"{type(node).__name__}(\n{inside},\n)"


def layer_repr(layer: "CellNode") -> str:
    """A layer of weights by its cell and its sizes: `lstm 28 -> 64`."""
    shape = getattr(layer.w, "shape", ())
    if len(shape) < 3:  # a tree of something else, such as a mask of an optimiser
        fields = zip(layer._fields, layer, strict=True)
        return f"{type(layer).__name__}({', '.join(f'{k}={v!r}' for k, v in fields)})"
    *before, n, _, hidden = shape
    kind = "" if type(layer).__name__ == "Layer" else f"{type(layer).__name__} "
    dtype = "" if layer.w.dtype == np.float32 else f" {layer.w.dtype}"
    more = f" {(*before,)}" if before else ""
    return f"{kind}{layer.cell!r} {n} -> {layer.cell.output_size(hidden)}{more}{dtype}"


def _default(node: PyTree, name: str, value: PyTree) -> bool:
    static = hasattr(value, "value")
    return value is None or (static and getattr(node, "_field_defaults", {}).get(name) == value)


def _parts(name: str, value: PyTree) -> list[str]:
    if type(value) is tuple:
        return [part for v in value for part in _parts("", v)]
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        text = f"{value.dtype}{list(value.shape)}"
    elif type(value).__name__ == "Static":
        text = repr(value.value)
    elif hasattr(value, "run"):
        return [repr(value)]
    else:
        text = outline(value) if hasattr(value, "_fields") else repr(value)
    return [f"{name}={text}" if name else text]


def summary(params: PyTree) -> str:
    """Every weight of a network, with its shape, its dtype and how many numbers it has.

    `params` may be any tree that holds networks: a dict of an embedding, a network and a readout.

    ```python
    params = jaxlstm.init(jax.random.key(0), jaxlstm.gru, 3, 5, layers=2)
    print(jaxlstm.summary(params))
    # Stack(gru 3 -> 5, gru 5 -> 5)
    # .layers[0].w               (3, 3, 5)  float32   45
    # ...
    # total                                       330
    ```
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    rows = [
        (jax.tree_util.keystr(path), str(np.shape(a)), str(getattr(a, "dtype", type(a).__name__)),
         f"{math.prod(np.shape(a)):,}")
        for path, a in leaves
    ]  # fmt: skip
    total = sum(math.prod(np.shape(a)) for _, a in leaves)
    rows.append(("total", "", "", f"{total:,}"))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = [
        "  ".join([*(cell.ljust(w) for cell, w in zip(row[:3], widths)), row[3].rjust(widths[3])])
        for row in rows
    ]
    head = [repr(params)] if hasattr(params, "_fields") else []
    return "\n".join([*head, *lines])
