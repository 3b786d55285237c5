"""PyTorch: gates are rows, and every gate has two biases."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from .._cell import Cell, Layer
from ..cells import gru, gru_reset_before, lstm, projected_lstm, rnn, rnn_relu
from ._names import Framework
from ._network import filled, layers, named, network
from ._table import Part, Table


def _table(cell: Cell, gates: str, *more: Part, **data: Any) -> Table:
    parts = (
        Part("weight_ih", "w", gates),
        Part("weight_hh", "r", gates),
        Part("bias_ih", "b", gates),
        Part("bias_hh", "d", gates),
        *more,
    )
    return Table(cell, parts, rows=True, **data)


TABLES = (
    _table(lstm, "ifgo"),
    _table(projected_lstm, "ifgo", Part("weight_hr", "q"), sized=("projection",)),
    _table(gru, "rzn", inside="n"),
    _table(rnn, "h"),
    _table(rnn_relu, "h"),
)


_LACKS = ((gru_reset_before, "its GRU resets after the recurrent product, which no weights undo"),)

LEVEL = r"(.*)_l(\d+)(_reverse)?"


def _framework(names: Iterable[str] = (), prefix: str = "") -> Framework:
    """How these names are read: what is not `_reverse` is forward, if some of them are."""
    both = any(name.startswith(prefix) and name.endswith("_reverse") for name in names)

    def parts(name: str) -> list[str]:
        *path, last = name.split(".")
        match = re.fullmatch(LEVEL, last)
        if match is None:
            return [*path, last]
        side = ["backward" if match[3] else "forward"] if both else []
        return [*path, f"l{match[2]}", *side, match[1]]

    return Framework("PyTorch", TABLES, parts, join=".", lacks=_LACKS)


def from_torch(
    state_dict: Mapping[str, Any],
    *,
    prefix: str = "",
    cell: Cell | None = None,
    sum_biases: bool = True,
) -> Any:
    """The network of a `torch.nn.LSTM`, `GRU` or `RNN`, or of one of their cells.

    Args:
        state_dict: names to arrays, as `module.state_dict()` has them; tensors will do, of
            bfloat16 and with gradients too.
        prefix: of the names that are meant, such as `"encoder.rnn."`.
        cell: what the weights do not say: `jaxlstm.rnn_relu` for `nonlinearity="relu"`.
            Without it, one gate is `rnn`, three are `gru` and four `lstm`.
        sum_biases: PyTorch has two biases for every gate, of which the sum is all that counts
            except in the candidate of a GRU.  False keeps both: the second is `recurrent_bias`.

    Returns:
        A `Layer`, a `Bidirectional` or a `Stack`.  Dropout is no weight: it is
        `params._replace(dropout=Static(p))` on a `Stack`.

    Raises:
        TypeError, ValueError: the names or shapes are not those of a recurrent module, or
            the dtype is one that JAX would truncate.

    ```python
    params = jaxlstm.init(jax.random.key(0), jaxlstm.lstm, 3, 5, layers=2, bidirectional=True)
    state_dict = convert.to_torch(params)
    assert state_dict["weight_hh_l1_reverse"].shape == (4 * 5, 5)
    again = convert.from_torch(state_dict)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), params, again))
    ```
    """
    names = state_dict if isinstance(state_dict, Mapping) else ()
    of = _framework(names, prefix)
    _check_levels(names, prefix)
    return network(of, state_dict, cell=cell, prefix=prefix, sums=sum_biases)


def to_torch(params: Any, *, prefix: str = "", like: Mapping[str, Any] | None = None) -> Any:
    """The `state_dict` of the PyTorch module that computes `params`, as NumPy arrays.

    `module.load_state_dict({k: torch.from_numpy(a) for k, a in to_torch(params).items()})`.
    `prefix` is put before every name.  With `like`, a state dict of a larger module, a copy
    of it comes back with the arrays below `prefix` replaced.  A bias of a layer that has only one
    becomes `bias_ih`, with a `bias_hh` of zeros.  PyTorch reads no NumPy array of bfloat16:
    give it `a.astype("float32")`, which `load_state_dict` casts back and loses nothing.

    Raises:
        TypeError, ValueError: PyTorch has no such layer: a GRU that resets before the product,
            a layer of its own width in the midst of a stack, directions that are stacks of
            their own, a wrapper.
    """
    if like is not None:
        return filled(_framework(like, prefix), params, like, prefix)
    stem = prefix if not prefix or prefix.endswith(".") else prefix + "."

    seen: list[tuple[Any, ...]] = []

    def place(where: tuple[Any, ...], layer: Layer, name: str) -> tuple[Any, ...]:
        level = tuple(w for w in where if isinstance(w, int))
        if level not in seen:
            seen.append(level)
        side = "_reverse" if "backward" in where else ""
        return (f"{stem}{name}_l{seen.index(level)}{side}",)

    _check_uniform(params)
    return named(_framework(), params, place)


def _check_levels(names: Iterable[str], prefix: str) -> None:
    """PyTorch counts its layers from 0; one that is missing is not passed over."""
    found: dict[str, set[int]] = {}
    for name in names:
        if name.startswith(prefix) and (match := re.fullmatch(LEVEL, name)):
            stem = name[: name.rfind(".") + 1]
            found.setdefault(stem, set()).add(int(match[2]))
    for stem, levels in found.items():
        if missing := sorted(set(range(max(levels))) - levels):
            raise ValueError(f"the weights of the layers {missing} are missing below {stem!r}.")


def _check_uniform(params: Any) -> None:
    """One PyTorch module has one kind of layer."""
    kinds = {
        "cells": {repr(layer.cell) for _, layer in layers(params)},
        "widths": {layer.w.shape[-1] for _, layer in layers(params)},
        "directions": {isinstance(path[-1], str) for path, _ in layers(params) if path},
        "biases": {layer.b is None for _, layer in layers(params)},
    }
    where = [where for where, _ in layers(params)]
    if any(isinstance(a, str) for path in where for a in path[:-1]):
        raise ValueError(
            "PyTorch joins both directions behind every layer: a `Bidirectional` must hold "
            "layers; got one that holds stacks. Convert each direction by a call of its own."
        )
    for what, kind in kinds.items():
        if len(kind) > 1:
            raise ValueError(
                f"the layers of one PyTorch module have the same {what}; got {sorted(kind)}. "
                "Convert each layer by a call of its own."
            )
