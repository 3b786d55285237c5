"""PyTorch: gates are rows, and every gate has two biases."""

import importlib
import re
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import PyTree

from ..._cell import Cell, Layer
from ...cells import gru, gru_reset_before, lstm, projected_lstm, rnn, rnn_relu
from .names import Component, Framework, Keys, Level, Side, Where, number
from .network import filled, layers, named, network, one_prefix
from .table import PLAIN, Part, Table


def _table(cell: Cell, gates: str, *more: Part, **data: PyTree) -> Table:
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


LEAVES = {name for table in TABLES for name in table.names}
LEVEL = re.compile(r"(.*)_l([0-9]{1,9})(_reverse)?", re.DOTALL)


def _read(parts: list[str]) -> tuple[Sequence[Component], str] | None:
    """`weight_ih_l0_reverse` is `weight_ih` of layer 0 backwards; a cell has no such ending."""
    if not parts:
        return None
    *path, last = parts
    if last in LEAVES:
        return path, last
    match = LEVEL.fullmatch(last)
    if match is None or match[1] not in LEAVES or (k := number(match[2])) is None:
        return None
    level = Level(f"l{match[2]}", "l", k, alike=True)
    side = Side("backward", "", True, True) if match[3] else Side("forward", "", False, False)
    return [*path, level, side], match[1]


WEIGHT = r"((?:weight_ih|weight_hh|weight_hr|bias_ih|bias_hh|bias_hr)(?:_l\d+)?(?:_reverse)?)"
NORMED = (
    "`{name}` is weight-normed: its value is computed when it runs. Store it as it is, and take "
    "the state dict then: `torch.nn.utils.remove_weight_norm(module, {weight!r})`."
)
SPECTRAL = (
    "`{name}` is spectral-normed: its value is computed when it runs. Store it as it is, and take "
    "the state dict then: `torch.nn.utils.remove_spectral_norm(module, {weight!r})`."
)
PRUNED = (
    "`{name}` is pruned: its value is computed when it runs. Store it as it is, and take the "
    "state dict then: `torch.nn.utils.prune.remove(module, {weight!r})`."
)
PARAMETRIZED = (
    "`{name}` is parametrized: its value is computed when it runs. Store it as it is, and take the "
    "state dict then: `torch.nn.utils.parametrize.remove_parametrizations(module, {weight!r})`."
)
DROPPED = (
    "`{name}` is weight-dropped: this is {weight!r} without its dropout, and what the inner module "
    "holds under that name has lost some of it. Make a state dict in which {weight!r} is this "
    "array, without the `_raw`."
)
QUANTISED = (
    "`{name}` is of a dynamically quantised module, whose weights are packed. Convert the module "
    "that it was made from; or take what it computes with, of `q` the quantised `LSTM` or `GRU`: "
    "`{{k: w.dequantize() for k, w in q.get_weight().items()}} | q.get_bias()`."
)
QUANTISABLE = (
    "`{name}` is of a quantised or quantisable LSTM, which rounds between its steps. Convert the "
    "`torch.nn.LSTM` that it was made from."
)
# what a name ends in -> what was done to the module, the first that is found
ALTERED = (
    (re.compile(rf"(?:.*\.)?parametrizations\.{WEIGHT}\..*", re.DOTALL), PARAMETRIZED),
    (re.compile(rf"(?:.*\.)?{WEIGHT}_g", re.DOTALL), NORMED),
    (re.compile(rf"(?:.*\.)?{WEIGHT}_mask", re.DOTALL), PRUNED),
    (re.compile(rf"(?:.*\.)?{WEIGHT}_(?:orig|u)", re.DOTALL), SPECTRAL),
    (re.compile(rf"(?:.*\.)?{WEIGHT}_v", re.DOTALL), NORMED),
    (re.compile(rf"(?:.*\.)?{WEIGHT}_raw", re.DOTALL), DROPPED),
    (re.compile(r"(?:.*\.)?(_all_weight_values\.|_packed_weight_).*", re.DOTALL), QUANTISED),
    (re.compile(r"(?:.*\.)?([ih]gates)\..*", re.DOTALL), QUANTISABLE),
)


def _altered(names: Sequence[str]) -> str | None:
    """What a module is that has its weights under other names, and what to do."""
    for pattern, advice in ALTERED:
        for name in names:
            if match := pattern.fullmatch(name):
                return advice.format(name=name, weight=match[1])
    return None


TORCH = Framework(
    "PyTorch",
    TABLES,
    _read,
    join=".",
    altered=_altered,
    lacks=(
        (gru_reset_before, "its GRU resets after the recurrent product, which no weights undo"),
    ),
)


def from_torch(
    state_dict: Mapping[str, PyTree],
    *,
    prefix: str | Sequence[str] = "",
    cell: Cell | None = None,
    sum_biases: bool = True,
) -> PyTree:
    """The network of a `torch.nn.LSTM`, `GRU` or `RNN`, or of one of their cells.

    Args:
        state_dict: a mapping of names to arrays, such as `module.state_dict()`; the values may be
            tensors, including those of bfloat16 and those that require gradients.
        prefix: the prefix of the names to convert, such as `"encoder.rnn."`, in whole components. A
            list of prefixes, in the order in which the modules feed each other, gives a `Stack`.
            Without a prefix several modules are refused, since their names do not say that order.
        cell: the cell, where the weights do not say it: `jaxlstm.rnn_relu` for
            `nonlinearity="relu"`.  By default one gate is `rnn`, three are `gru` and four `lstm`.
        sum_biases: PyTorch has two biases for every gate, of which only the sum matters, except
            in the candidate of a GRU.  False keeps both: the second is `recurrent_bias`.

    Returns:
        A `Layer`, a `Bidirectional` or a `Stack`.  The rate of dropout is not among the weights:
        set it with `params._replace(dropout=Static(p))` on a `Stack`.

    Raises:
        TypeError: the argument is not a mapping but, for example, a module or a file; a name is
            not a string; or the dtype of an array is not floating, not that of the others, or one
            that JAX would truncate.
        ValueError: the names, shapes or arrangement are not those of recurrent layers.

    ```python
    params = jaxlstm.init(jax.random.key(0), jaxlstm.lstm, 3, 5, layers=2, bidirectional=True)
    state_dict = convert.to_torch(params)
    assert state_dict["weight_hh_l1_reverse"].shape == (4 * 5, 5)
    again = convert.from_torch(state_dict)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), params, again))
    ```
    """
    return network(TORCH, state_dict, cell=cell, prefix=prefix, sums=sum_biases)


def to_torch(
    params: PyTree, *, prefix: str | Sequence[str] = "", like: Mapping[str, PyTree] | None = None
) -> PyTree:
    """The `state_dict` of the PyTorch module that computes `params`, as NumPy arrays.

    To load what it returns: `module.load_state_dict({k: torch.tensor(a) for k, a in
    arrays.items()})`.  `prefix` is put before every name.  With `like`, the state dict of a larger
    module, returns a copy of it with the arrays below `prefix` replaced, by tensors where it holds
    tensors, so that `load_state_dict` takes it; they keep the dtype of `params`.  If a layer has
    only one bias, it becomes `bias_ih`, and `bias_hh` is zero.  PyTorch cannot read NumPy arrays of
    bfloat16: without `like`, pass it `a.astype("float32")`, which `load_state_dict` casts back
    without loss.

    Raises:
        TypeError: `params` has several dtypes, or nodes that other frameworks do not have.
        ValueError: PyTorch has no such layer: a GRU that resets before the product, layers of
            different widths in a stack, directions that are stacks of their own, a wrapper.
    """
    if like is not None:
        return filled(TORCH, params, like, prefix, _like_tensor)
    stem = "".join(f"{part}." for part in TORCH.parts(one_prefix(prefix)))

    seen: list[Where] = []

    def place(where: Where, layer: Layer, name: str) -> Keys:
        level = tuple(w for w in where if isinstance(w, int))
        if level not in seen:
            seen.append(level)
        side = "_reverse" if "backward" in where else ""
        return (f"{stem}{name}_l{seen.index(level)}{side}",)

    _check_uniform(params)
    return named(TORCH, params, place)


def _like_tensor(new: np.ndarray, old: PyTree) -> PyTree:
    """A tensor where `like` has one, which `load_state_dict` insists on; of the same device."""
    if not hasattr(old, "detach"):
        return new
    torch = importlib.import_module("torch")  # which made the tensor
    wide = new.astype("float32") if new.dtype.name == "bfloat16" else new
    return torch.tensor(wide, dtype=getattr(torch, new.dtype.name), device=old.device)


def _check_uniform(params: object) -> None:
    """One PyTorch module has one kind of layer."""
    kinds = {
        "cells": {repr(PLAIN.get(layer.cell, layer.cell)) for _, layer in layers(params)},
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
