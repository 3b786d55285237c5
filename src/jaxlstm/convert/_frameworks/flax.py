"""Flax: linen keeps every gate apart, nnx joins them, and only linen's GRU has a bias `hn`."""

import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Literal

from jaxtyping import PyTree

from ..._cell import Cell, Layer
from ...cells import gru, gru_reset_before, lstm, mgu_reset_after, rnn, rnn_relu, ugrnn
from .names import Component, Framework, Keys, Level, Side, Where, counter, ending, number
from .network import filled, named, network, one_prefix
from .table import Part, Table, each

_LINEN_LSTM = (
    *each("i{}/kernel", "w", "ifgo"),
    *each("h{}/kernel", "r", "ifgo"),
    *each("h{}/bias", "b", "ifgo"),
)
_LINEN_GRU = (
    *each("i{}/kernel", "w", "rzn"),
    *each("h{}/kernel", "r", "rzn"),
    *each("i{}/bias", "b", "rzn"),
    Part("hn/bias", "d", "n"),
)
_LINEN_MGU = (
    *each("i{}/kernel", "w", "fn"),
    *each("h{}/kernel", "r", "fn"),
    *each("i{}/bias", "b", "fn"),
    Part("hn/bias", "d", "n"),
)
# `MGUCell(reset_gate=False)`, which has no bias `hn`: its gate `f` is the update gate `g`.
_LINEN_UPDATE = (
    Part("if/kernel", "w", "g"),
    Part("in/kernel", "w", "n"),
    Part("hf/kernel", "r", "g"),
    Part("hn/kernel", "r", "n"),
    Part("if/bias", "b", "g"),
    Part("in/bias", "b", "n"),
)
_LINEN_SIMPLE = (Part("i/kernel", "w", "h"), Part("h/kernel", "r", "h"), Part("i/bias", "b", "h"))


def _joined(gates: str, bias: str) -> tuple[Part, ...]:
    return (
        Part("dense_i/kernel", "w", gates),
        Part("dense_h/kernel", "r", gates),
        Part(f"{bias}/bias", "b", gates),
    )


# Python keeps the name `if` to itself, so nnx has `if_`.
_NNX_LSTM = tuple(part._replace(name=part.name.replace("if/", "if_/")) for part in _LINEN_LSTM)

LINEN = (
    Table(lstm, _LINEN_LSTM, always=True, free=True),
    Table(gru, _LINEN_GRU, inside="n", always=True, free=True),
    Table(mgu_reset_after, _LINEN_MGU, inside="n", always=True, free=True),
    Table(ugrnn, _LINEN_UPDATE, always=True, free=True),
    Table(rnn, _LINEN_SIMPLE, always=True, free=True),
    Table(rnn_relu, _LINEN_SIMPLE, always=True, free=True),
)
NNX = (
    Table(lstm, _joined("ifgo", "dense_h"), always=True, free=True),
    Table(lstm, _NNX_LSTM, always=True, free=True),
    Table(gru, _joined("rzn", "dense_i"), inside="n", always=True, free=True),
    Table(rnn, _joined("h", "dense_i"), always=True, free=True),
    Table(rnn_relu, _joined("h", "dense_i"), always=True, free=True),
)


def _place(path: list[str]) -> list[Component]:
    """What the names of modules say: a `Sequential` counts `layers`, `Bidirectional` holds two."""
    found: list[Component] = []
    for above, part in zip(["", *path], path):
        match = re.fullmatch(r"(forward|backward)_rnn", part)
        stem, k = counter(part)
        if match is not None:
            found.append(Side(part, "rnn", match[1] == "backward", True))
        elif stem == "layers" and stem != part:
            found.append(Level(part, stem, k))
        elif above == "layers" and (at := number(part)) is not None:
            found.append(Level(part, "", at))
        else:
            found.append(part)
    return found


def _altered(names: Sequence[str]) -> str | None:
    for name in names:
        if match := re.search(r"(WeightNorm|SpectralNorm)_\d+", name):
            return (
                f"`{name}` is of a `{match[1]}`, which computes the weights when it runs. Multiply "
                "them out first, and give the parameters of the module without it."
            )
    return None


FLAX = Framework(
    "Flax",
    LINEN + NNX,
    ending(LINEN + NNX, _place),
    ignored=r"(^|/)rngs(/|$)",
    altered=_altered,
    lacks=(
        (gru_reset_before, "its GRU resets after the recurrent product, which no weights undo"),
    ),
)


def from_flax(
    params: Mapping[Hashable, PyTree],
    *,
    prefix: str | Sequence[str] = "",
    cell: Cell | None = None,
    bidirectional: bool = False,
) -> PyTree:
    """The network of Flax's `LSTMCell`, `OptimizedLSTMCell`, `GRUCell`, `MGUCell` or `SimpleCell`.

    Args:
        params: in linen, what `module.init` returns; in nnx, `nnx.to_pure_dict(nnx.state(module))`.
            These may be of a module `RNN` or `Bidirectional`, of several, or of a single cell.
        prefix: the prefix of the names to convert, such as `"params/encoder"`, in whole components.
            A list of prefixes, in the order in which the modules feed each other, gives a `Stack`.
            Without a prefix several modules are refused, since their names do not say that order;
            the members of a `Sequential`, `layers_0` and so on, do.
        cell: the cell, where the weights do not say it: `jaxlstm.rnn_relu` for
            `activation_fn=relu`; a variant such as
            `jaxlstm.cells.gru_variant(candidate="softsign")` for other activations.
        bidirectional: whether forward and backward cells alternate, where the names do not say it
            (`SimpleCell_0`, `SimpleCell_1`, but not `forward_rnn`).

    Returns:
        A `Layer`, a `Bidirectional` or a `Stack`.

    Raises:
        TypeError: the argument is not a mapping but, for example, a module or a file; a name is
            not a string; or the dtype of an array is not floating, not that of the others, or one
            that JAX would truncate.
        ValueError: the names, shapes or arrangement are not those of recurrent layers.

    ```python
    params = jaxlstm.init(jax.random.key(0), jaxlstm.lstm, 3, 5)
    weights = convert.to_flax(params)
    assert weights["hf"]["kernel"].shape == (5, 5)
    ```
    """
    return network(FLAX, params, cell=cell, prefix=prefix, bidirectional=bidirectional)


def to_flax(
    params: PyTree,
    *,
    prefix: str | Sequence[str] = "",
    like: Mapping[Hashable, PyTree] | None = None,
    api: Literal["linen", "nnx"] = "linen",
) -> PyTree:
    """The parameters of the Flax module that computes `params`.

    A layer becomes the tree of its cell, and a stack that of a `Sequential` of `RNN` modules.
    With `api="nnx"` an LSTM has the names of `OptimizedLSTMCell`.  With `like`, parameters or
    a state of either, returns a copy of it with the arrays below `prefix` replaced, whatever
    its modules are called.

    The GRU of linen has a bias in the recurrent part of the candidate, as PyTorch's has.  That of
    nnx has none, so a bias there that is not zero is refused.

    Raises:
        TypeError: `params` has several dtypes, or nodes that other frameworks do not have.
        ValueError: Flax has no such cell, or `like` has other names or shapes.
    """
    if like is not None:
        return filled(FLAX, params, like, prefix)
    if api not in ("linen", "nnx"):
        raise ValueError(f"`api` must be 'linen' or 'nnx'; got {api!r}.")
    nnx, start = api == "nnx", FLAX.parts(one_prefix(prefix))

    def place(where: Where, layer: Layer, name: str) -> Keys:
        path: list[int | str] = [*start]
        for part in where:
            if isinstance(part, int):
                path += ["layers", part] if nnx else [f"layers_{part}"]
            else:
                path.append(f"{part}_rnn")
        return (*path, *(["cell"] if where else []), *name.split("/"))

    return named(FLAX._replace(tables=NNX if nnx else LINEN), params, place)
