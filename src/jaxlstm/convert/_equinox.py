"""Equinox: PyTorch's rows with one bias, and the GRU's candidate bias apart."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from .._cell import Cell, Layer
from ..cells import gru, gru_reset_before, lstm
from ._names import Framework
from ._network import filled, named, network
from ._table import Part, Table


def _parts(gates: str) -> tuple[Part, ...]:
    return (
        Part("weight_ih", "w", gates),
        Part("weight_hh", "r", gates),
        Part("bias", "b", gates),
    )


EQUINOX = Framework(
    "Equinox",
    (
        Table(lstm, _parts("ifgo"), rows=True),
        Table(gru, (*_parts("rzn"), Part("bias_n", "d", "n")), rows=True, inside="n"),
    ),
    ignored=("input_size", "hidden_size", "use_bias"),
    lacks=(
        (gru_reset_before, "its GRU resets after the recurrent product, which no weights undo"),
    ),
)


def _plain(tree: Any) -> Any:
    """Modules, which are dataclasses, as mappings of their fields."""
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        return {f.name: _plain(getattr(tree, f.name)) for f in dataclasses.fields(tree)}
    if isinstance(tree, Mapping):
        return {key: _plain(value) for key, value in tree.items()}
    return [_plain(value) for value in tree] if isinstance(tree, (list, tuple)) else tree


def from_equinox(
    cell_or_weights: Any,
    *,
    prefix: str = "",
    cell: Cell | None = None,
    bidirectional: bool = False,
) -> Any:
    """The network of Equinox's `LSTMCell` or `GRUCell`, of a list of them, or of a module.

    Args:
        cell_or_weights: names to arrays, as the cell's attributes are named, or the cell; a
            list, or a module that holds cells, becomes a `Stack`.
        prefix: of the fields that are meant, such as `"encoder/cells"`.
        cell: to insist on one of `lstm` and `gru`, which these are.
        bidirectional: that forward and backward cells alternate.

    Returns:
        A `Layer`, a `Bidirectional` or a `Stack`.

    Raises:
        TypeError, ValueError: the names or shapes are not those of a recurrent cell, or the
            dtype is one that JAX would truncate.

    ```python
    params = jaxlstm.init(jax.random.key(0), jaxlstm.gru, 3, 5)
    weights = convert.to_equinox(params)
    assert weights["bias_n"].shape == (5,)
    ```
    """
    tree = _plain(cell_or_weights)
    return network(EQUINOX, tree, cell=cell, prefix=prefix, bidirectional=bidirectional)


def to_equinox(
    params: Any, *, prefix: str = "", like: Mapping[str, Any] | Sequence[Any] | Any = None
) -> Any:
    """The arrays of the Equinox cell that computes `params`, by attribute.

    A `Stack` becomes a mapping from the number of a layer, a `Bidirectional` one from
    `forward` and `backward`.  Put them into a cell by `equinox.tree_at`.  With `like`, a cell
    or what holds cells, its fields come back as mappings, those below `prefix` replaced.
    Equinox has no second bias for the gates `r` and `z`: theirs are summed.

    Raises:
        TypeError, ValueError: Equinox has no such cell, or `like` is of another shape.
    """
    if like is not None:
        return filled(EQUINOX, params, _plain(like), prefix)

    def place(where: tuple[Any, ...], layer: Layer, name: str) -> tuple[Any, ...]:
        return (*filter(None, prefix.split("/")), *where, name)

    return named(EQUINOX, params, place)
