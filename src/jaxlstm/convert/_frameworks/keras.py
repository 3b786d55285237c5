"""Keras: columns; a GRU that resets after the product has its two biases in one array."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import PyTree

from ... import _arguments
from ..._cell import Cell, Layer
from ...cells import gru, gru_reset_before, lstm, rnn, rnn_relu
from .._arrays import array
from .names import Component, Framework, Keys, Level, Side, Where, check_mapping, counter, ending
from .network import filled, named, network, one_prefix
from .table import Part, Table


def _table(cell: Cell, gates: str, bias: str = "b", inside: str = "") -> Table:
    parts = (
        Part("kernel", "w", gates),
        Part("recurrent_kernel", "r", gates),
        Part("bias", bias, gates),
    )
    return Table(cell, parts, inside=inside, free=True)


TABLES = (
    _table(lstm, "ifgo"),
    _table(gru, "zrn", "bd", inside="n"),
    _table(gru_reset_before, "zrn"),
    _table(rnn, "h"),
    _table(rnn_relu, "h"),
    _table(lstm, "ifgo", "bd")._replace(flat=True, always=True),  # CuDNNLSTM
    _table(gru, "zrn", "bd", inside="n")._replace(flat=True, always=True),  # CuDNNGRU
)
VARS = {"0": "kernel", "1": "recurrent_kernel", "2": "bias"}


def _place(path: list[str]) -> list[Component]:
    """What the names of layers say: a `Bidirectional` holds two, `StackedRNNCells` a stack.

    Keras numbers layers as they are made, which says nothing of the order in which they run.
    """
    found: list[Component] = []
    for above, part in zip(["", *path], path):
        match = re.match(r"(forward|backward)_", part)
        stacked = re.fullmatch(r"stacked_rnn_cells(_\d+)?|cells", above)
        if match is not None:
            half = part.endswith("_layer") or re.match(r"bidirectional(_\d+)?$", above) is not None
            found.append(Side(part, part[match.end() :], match[1] == "backward", half))
        elif stacked is not None:
            found.append(Level(part, *counter(part), counted=True))
        else:
            found.append(part)
    return found


_by_name = ending(TABLES, _place)


def _read(parts: list[str]) -> tuple[Sequence[Component], str] | None:
    """`lstm/lstm_cell/kernel`, in Keras 2 `kernel:0`; in Keras 3's files `lstm/cell/vars/0`."""
    if parts[-2:-1] == ["vars"]:
        cell = parts[-3:-2] == ["cell"] or parts[-4:-3] == ["cells"]
        leaf = VARS.get(parts[-1])
        return (_place(parts[:-2]), leaf) if cell and leaf else None
    return _by_name([*parts[:-1], re.sub(r":\d+$", "", parts[-1])]) if parts else None


KERAS = Framework(
    "Keras",
    TABLES,
    _read,
    ignored=r"(^|/)seed_generator(_\d+)?/|^optimizer(_weights)?/",
    unclear=(gru, gru_reset_before),
)


def from_keras(
    weights: Mapping[str, PyTree] | Sequence[PyTree],
    *,
    prefix: str | Sequence[str] = "",
    cell: Cell | None = None,
    bidirectional: bool | None = None,
) -> PyTree:
    """The network of Keras layers: `SimpleRNN`, `LSTM`, `GRU`, `Bidirectional`, `RNN` of cells.

    Args:
        weights: the list of `layer.get_weights()`, or a mapping of weight names to arrays,
            `{w.path: w.numpy() for w in layer.weights}`, both in Keras's order; or an HDF5 file
            of Keras 2 or 3 as h5py opens it.  The states of seeds and of an optimizer are
            ignored.
        prefix: the prefix of the names to convert, such as `"sequential/lstm"`, in whole
            components. A list of prefixes, in the order in which the layers feed each other, gives
            a `Stack`. Without a prefix several layers are refused, since their names do not say
            that order.
        cell: the cell, where the weights do not say it: `jaxlstm.rnn_relu` for
            `activation="relu"`; a variant for other activations, such as
            `jaxlstm.cells.lstm_variant(candidate="softsign", output="softsign")` (the
            `hard_sigmoid` of Keras 3 is `("hard_sigmoid", 1 / 6, 0.5)`); and
            `jaxlstm.gru_reset_before` for a GRU without biases if `reset_after=False`.
        bidirectional: for a list, whether forward and backward layers alternate in it; pass False
            for a stack where a list could be either.  In a mapping, the names say it.
            `Bidirectional` must concatenate its outputs (`merge_mode="concat"`).

    Returns:
        A `Layer`, a `Bidirectional` or a `Stack`.

    Raises:
        TypeError: the argument is not a mapping but, for example, a module or a file; a name is
            not a string; or the dtype of an array is not floating, not that of the others, or one
            that JAX would truncate.
        ValueError: the names, shapes or arrangement are not those of recurrent layers.

    ```python
    params = jaxlstm.init(jax.random.key(0), jaxlstm.gru, 3, 5)
    kernel, recurrent_kernel, bias = convert.to_keras(params)
    assert bias.shape == (2, 3 * 5)  # gates z r n, as Keras has them
    ```
    """
    check_mapping(weights)
    bare = not isinstance(weights, Mapping) and not any(isinstance(w, Mapping) for w in weights)
    groups = _grouped([*weights]) if bare else []
    if groups and bidirectional is None:
        _check_meaning(groups)
    return network(
        KERAS, groups or weights, cell=cell, prefix=prefix, bidirectional=bool(bidirectional)
    )


def _check_meaning(groups: Sequence[Mapping[str, np.ndarray]]) -> None:
    """A list is refused that may be a stack, or two directions, each of which is a half of it.

    Such a half gives as much as it takes.  Two bidirectional layers that sum their outputs are such
    a list too.
    """
    sizes = [(*group["kernel"].shape, len(group["recurrent_kernel"])) for group in groups]
    half, odd = divmod(len(sizes), 2)
    if odd or sizes[:half] != sizes[half:] or sizes[0][0] != sizes[half - 1][2]:
        return
    kernels = [shape[:2] for shape in sizes]
    directions = (
        "`bidirectional=True`"
        if half == 1
        else "for two directions weights by name, `{w.path: w.numpy() for w in layer.weights}`"
    )
    raise ValueError(
        f"a list of {len(sizes)} layers with kernels of {_arguments.short_repr(kernels)} may be a "
        f"stack or two directions. Say which: `bidirectional=False`, or {directions}."
    )


def _grouped(weights: Sequence[object]) -> list[dict[str, np.ndarray]]:
    """A list of arrays as layers: kernel, recurrent kernel and, if there is one, bias."""
    arrays = [array(f"weights[{k}]", a) for k, a in enumerate(weights)]
    names = ("kernel", "recurrent_kernel", "bias")
    found: list[list[list[np.ndarray]]] = []
    for n in (3, 2):
        groups = [arrays[k : k + n] for k in range(0, len(arrays), n)]
        if arrays and all(_layer_like(*group) for group in groups if len(group) == n):
            found += [groups] if len(groups[-1]) == n else []
    if len(found) != 1:
        raise ValueError(
            "a list of Keras weights must hold kernel, recurrent kernel and bias of one layer "
            "after the other, or no bias in any; got the shapes "
            f"{[a.shape for a in arrays][:12]}{', which can be either' if found else ''}. Weights "
            "by name say more: `{w.path: w.numpy() for w in layer.weights}`."
        )
    return [dict(zip(names, group)) for group in found[0]]


def _layer_like(kernel: np.ndarray, recurrent: np.ndarray, bias: np.ndarray | None = None) -> bool:
    if kernel.ndim != 2 or recurrent.ndim != 2 or kernel.shape[1] != recurrent.shape[1]:
        return False
    hidden, total = recurrent.shape
    shapes = ((total,), (2, total), (2 * total,))
    return total in (hidden, 3 * hidden, 4 * hidden) and (bias is None or bias.shape in shapes)


def to_keras(
    params: PyTree, *, prefix: str | Sequence[str] = "", like: Mapping[str, PyTree] | None = None
) -> list[np.ndarray] | dict[str, PyTree]:
    """The weights as Keras has them: a list for `layer.set_weights(to_keras(params))`.

    With `like`, a mapping of weight names such as `{w.path: w for w in layer.weights}`, returns
    a copy of it with the weights below `prefix` replaced.

    Raises:
        TypeError: `params` has several dtypes, or nodes that other frameworks do not have.
        ValueError: Keras has no such layer, or `like` has other names or shapes.
    """
    if like is not None:
        return filled(KERAS, params, like, prefix)

    one_prefix(prefix)

    def place(where: Where, layer: Layer, name: str) -> Keys:
        return ("/".join(map(str, (*where, name))),)

    return list(named(KERAS, params, place).values())
