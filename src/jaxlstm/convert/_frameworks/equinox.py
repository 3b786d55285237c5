"""Equinox: PyTorch's rows with one bias, and the GRU's candidate bias apart."""

import dataclasses
from collections.abc import Mapping, Sequence

from jaxtyping import PyTree

from ..._cell import Cell, Layer
from ...cells import gru, gru_reset_before, lstm
from .names import (
    DEEPEST,
    Component,
    Framework,
    Keys,
    Level,
    Side,
    Where,
    check_mapping,
    ending,
    number,
)
from .network import filled, named, network, one_prefix
from .table import Part, Table


def _parts(gates: str) -> tuple[Part, ...]:
    return (
        Part("weight_ih", "w", gates),
        Part("weight_hh", "r", gates),
        Part("bias", "b", gates),
    )


CELLS = ("LSTMCell", "GRUCell")
TABLES = (
    Table(lstm, _parts("ifgo"), rows=True),
    Table(gru, (*_parts("rzn"), Part("bias_n", "d", "n")), rows=True, inside="n"),
)


def _place(path: list[str]) -> list[Component]:
    """Equinox has cells alone; a list of them and two directions are as `to_equinox` names them."""
    found: list[Component] = [*path]
    for k, part in enumerate(path):
        at = number(part)
        if at is not None and all(isinstance(p, Level) for p in found[:k]):
            found[k] = Level(part, "", at)
        if part in ("forward", "backward"):
            found[k] = Side(part, "", part == "backward", True)
    return found


EQUINOX = Framework(
    "Equinox",
    TABLES,
    ending(TABLES, _place),
    ignored=r"(^|/)(input_size|hidden_size|use_bias)$",
    lacks=(
        (gru_reset_before, "its GRU resets after the recurrent product, which no weights undo"),
    ),
)


def _plain(tree: PyTree, depth: int = 0) -> PyTree:
    """Modules, which are dataclasses, as mappings of their fields."""
    if depth > DEEPEST:
        raise ValueError(f"the module is nested deeper than {DEEPEST} levels.")
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        kind = type(tree)
        fields = {f.name: getattr(tree, f.name) for f in dataclasses.fields(tree)}
        known = kind.__module__.startswith("equinox.") and kind.__name__ in CELLS
        if not known and {"weight_ih", "weight_hh"} <= fields.keys():
            raise TypeError(
                f"a cell must be Equinox's `LSTMCell` or `GRUCell`, whose equations are known; got "
                f"a `{kind.__module__}.{kind.__name__}`. If it computes the same, give its arrays, "
                "`{name: array}`."
            )
        return {name: _plain(value, depth + 1) for name, value in fields.items()}
    if isinstance(tree, Mapping):
        return {key: _plain(value, depth + 1) for key, value in tree.items()}
    return [_plain(v, depth + 1) for v in tree] if isinstance(tree, (list, tuple)) else tree


def _tree(given: PyTree) -> PyTree:
    """What is given, with its modules as mappings; a module of another framework is told so."""
    homes = {base.__module__.partition(".")[0] for base in type(given).__mro__}
    if not (dataclasses.is_dataclass(given) and "equinox" in homes):
        check_mapping(given)
    return _plain(given)


def from_equinox(
    cell_or_weights: PyTree,
    *,
    prefix: str | Sequence[str] = "",
    cell: Cell | None = None,
    bidirectional: bool = False,
) -> PyTree:
    """The network of Equinox's `LSTMCell` or `GRUCell`, of a list of them, or of a module.

    Args:
        cell_or_weights: a mapping of the cell's attribute names to arrays, or the cell itself; a
            list of cells becomes a `Stack`.
        prefix: the prefix of the names to convert, such as `"encoder/cell"`, in whole components. A
            list of prefixes, in the order in which the modules feed each other, gives a `Stack`.
            Without a prefix several modules are refused, since their names do not say that order.
        cell: `lstm` or `gru`, to require this one.
        bidirectional: whether forward and backward cells alternate.

    Returns:
        A `Layer`, a `Bidirectional` or a `Stack`.

    Raises:
        TypeError: the argument is not a mapping but, for example, a module or a file; a name is
            not a string; or the dtype of an array is not floating, not that of the others, or one
            that JAX would truncate.
        ValueError: the names, shapes or arrangement are not those of recurrent layers.

    ```python
    params = jaxlstm.init(jax.random.key(0), jaxlstm.gru, 3, 5)
    weights = convert.to_equinox(params)
    assert weights["bias_n"].shape == (5,)
    ```
    """
    tree = _tree(cell_or_weights)
    return network(EQUINOX, tree, cell=cell, prefix=prefix, bidirectional=bidirectional)


def to_equinox(params: PyTree, *, prefix: str | Sequence[str] = "", like: PyTree = None) -> PyTree:
    """The arrays of the Equinox cell that computes `params`, by attribute.

    A `Stack` becomes a mapping from the number of each layer, a `Bidirectional` one from
    `forward` and `backward`.  Put the arrays into a cell with `equinox.tree_at`.  With `like`, a
    cell or something that holds cells, returns its fields as mappings, with those below `prefix`
    replaced.  Equinox has no second bias for the gates `r` and `z`, so their two are summed.

    Raises:
        TypeError: `params` has several dtypes, or nodes that other frameworks do not have.
        ValueError: Equinox has no such cell, or `like` has other names or shapes.
    """
    if like is not None:
        return filled(EQUINOX, params, _tree(like), prefix)
    start = EQUINOX.parts(one_prefix(prefix))

    def place(where: Where, layer: Layer, name: str) -> Keys:
        return (*start, *where, name)

    return named(EQUINOX, params, place)
