"""Keras: columns; a GRU that resets after the product has its two biases in one array."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .._cell import Cell, Layer
from ..cells import gru, gru_reset_before, lstm, rnn, rnn_relu
from ._names import Framework
from ._network import filled, named, network
from ._table import Part, Table


def _table(cell: Cell, gates: str, bias: str = "b", inside: str = "") -> Table:
    parts = (
        Part("kernel", "w", gates),
        Part("recurrent_kernel", "r", gates),
        Part("bias", bias, gates),
    )
    return Table(cell, parts, inside=inside, free=True)


KERAS = Framework(
    "Keras",
    (
        _table(lstm, "ifgo"),
        _table(gru, "zrn", "bd", inside="n"),
        _table(gru_reset_before, "zrn"),
        _table(rnn, "h"),
        _table(rnn_relu, "h"),
    ),
    in_order=True,
)


def from_keras(
    weights: Mapping[str, Any] | Sequence[Any],
    *,
    prefix: str = "",
    cell: Cell | None = None,
    bidirectional: bool = False,
) -> Any:
    """The network of Keras layers: `SimpleRNN`, `LSTM`, `GRU`, `Bidirectional`, `RNN` of cells.

    Args:
        weights: the list of `layer.get_weights()`, or a mapping of weight names to arrays,
            `{w.path: w.numpy() for w in layer.weights}`, both in Keras's order.
        prefix: of the names that are meant, such as `"sequential/lstm"`.
        cell: what the weights do not say: `jaxlstm.rnn_relu` for `activation="relu"`, such as
            `jaxlstm.cells.lstm_variant(candidate="softsign", output="softsign")` for other
            activations (Keras 3 calls `("hard_sigmoid", 1 / 6, 0.5)` by the name
            `hard_sigmoid`), and for a GRU without biases `jaxlstm.gru_reset_before` if
            `reset_after=False`.
        bidirectional: of a list, that forward and backward layers alternate in it.  Names say
            so themselves.  `Bidirectional` must join its outputs (`merge_mode="concat"`).

    Returns:
        A `Layer`, a `Bidirectional` or a `Stack`.

    Raises:
        TypeError, ValueError: the arrays are not those of recurrent layers, or the dtype is
            one that JAX would truncate.

    ```python
    params = jaxlstm.init(jax.random.key(0), jaxlstm.gru, 3, 5)
    kernel, recurrent_kernel, bias = convert.to_keras(params)
    assert bias.shape == (2, 3 * 5)  # gates z r n, as Keras has them
    ```
    """
    tree = weights if isinstance(weights, Mapping) else _grouped(weights)
    return network(KERAS, tree, cell=cell, prefix=prefix, bidirectional=bidirectional)


def _grouped(weights: Sequence[Any]) -> list[dict[str, np.ndarray]]:
    """A list of arrays as layers: kernel, recurrent kernel and, if there is one, bias."""
    arrays = [np.asarray(a) for a in weights]
    names = ("kernel", "recurrent_kernel", "bias")
    found = []
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
    shapes = ((total,), (2, total))
    return total in (hidden, 3 * hidden, 4 * hidden) and (bias is None or bias.shape in shapes)


def to_keras(
    params: Any, *, prefix: str = "", like: Mapping[str, Any] | None = None
) -> list[np.ndarray] | dict[str, Any]:
    """The weights as Keras has them: a list for `layer.set_weights(to_keras(params))`.

    With `like`, a mapping of weight names such as `{w.path: w for w in layer.weights}`, a
    copy of it comes back with the weights below `prefix` replaced.

    Raises:
        TypeError, ValueError: Keras has no such layer, or `like` is of another shape.
    """
    if like is not None:
        return filled(KERAS, params, like, prefix)

    def place(where: tuple[Any, ...], layer: Layer, name: str) -> tuple[Any, ...]:
        return ("/".join(map(str, (*where, name))),)

    return list(named(KERAS, params, place).values())
