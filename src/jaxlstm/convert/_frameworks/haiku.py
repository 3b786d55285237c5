"""Haiku: one matrix for `[x, h]`, a forget bias of 1 added at run time, `z` the other way."""

from collections.abc import Mapping, Sequence

from jaxtyping import PyTree

from ..._cell import Cell, Layer
from ...cells import gru, gru_reset_before, lstm, rnn, rnn_relu
from .names import Component, Framework, Keys, Where, ending
from .network import filled, named, network, one_prefix
from .table import PLAIN, Part, Table

_VANILLA = (
    Part("linear/w", "w", "h"),
    Part("linear/b", "b", "h"),
    Part("linear_1/w", "r", "h"),
    Part("linear_1/b", "d", "h"),
)
_GRU = (Part("w_i", "w", "zrn"), Part("w_h", "r", "zrn"), Part("b", "b", "zrn"))
_LSTM = (Part("linear/w", "wr", "igfo"), Part("linear/b", "b", "igfo"))

TABLES = (
    Table(lstm, _LSTM, added=(("f", 1.0),), always=True, hint="lstm"),
    Table(gru_reset_before, _GRU, negated="z", always=True),
    Table(rnn_relu, _VANILLA, always=True, hint="rnn"),
    Table(rnn_relu, _VANILLA[:3], always=True, hint="rnn"),  # `double_bias=False`
)


def _place(path: list[str]) -> list[Component]:
    """Haiku numbers modules as they are made, which says nothing of the order of running."""
    return [*path]


HAIKU = Framework(
    "Haiku",
    TABLES,
    ending(TABLES, _place),
    lacks=(
        (gru, "its GRU resets before the recurrent product, which no weights undo"),
        (rnn, "its simple RNN has a rectifier"),
    ),
)


def from_haiku(
    params: Mapping[str, PyTree],
    *,
    prefix: str | Sequence[str] = "",
    cell: Cell | None = None,
    bidirectional: bool = False,
    sum_biases: bool = True,
) -> PyTree:
    """The network of Haiku's `LSTM`, `GRU` or `VanillaRNN`, alone or in a `DeepRNN`.

    Args:
        params: the arrays by module name and name, as `transform(f).init` returns them.
        prefix: the prefix of the names to convert, such as `"encoder/lstm"`, in whole components. A
            list of prefixes, in the order in which the modules feed each other, gives a `Stack`.
            Without a prefix several modules are refused, since their names do not say that order.
        cell: one of `lstm`, `gru_reset_before` and `rnn_relu`, to require this one.
        bidirectional: whether forward and backward cores alternate, as `lstm` and `lstm_1`.
        sum_biases: Haiku's LSTM adds 1 to the forget gate when it runs.  True adds it to the
            bias, which rounds a small bias once; False keeps it separate, in `recurrent_bias`,
            so that `to_haiku` returns every bit.

    Returns:
        A `Layer`, a `Bidirectional` or a `Stack`.

    Raises:
        TypeError: the argument is not a mapping but, for example, a module or a file; a name is
            not a string; or the dtype of an array is not floating, not that of the others, or one
            that JAX would truncate.
        ValueError: the names, shapes or arrangement are not those of recurrent layers.

    ```python
    params = jaxlstm.init(jax.random.key(0), jaxlstm.lstm, 3, 5)
    weights = convert.to_haiku(params)
    assert weights["lstm/linear"]["w"].shape == (3 + 5, 4 * 5)  # gates i g f o
    ```
    """
    return network(
        HAIKU, params, cell=cell, bidirectional=bidirectional, prefix=prefix, sums=sum_biases
    )


def to_haiku(
    params: PyTree, *, prefix: str | Sequence[str] = "", like: Mapping[str, PyTree] | None = None
) -> PyTree:
    """The parameters of the Haiku core that computes `params`.

    Names are those of a single core or of a `DeepRNN`: `lstm/linear`, `lstm_1/linear`.  With
    `like`, the parameters of a larger function, returns a copy of it with the arrays below
    `prefix` replaced.

    Raises:
        TypeError: `params` has several dtypes, or nodes that other frameworks do not have.
        ValueError: Haiku has no such core (its GRU resets before the product, and its
            simple RNN uses a ReLU), or `like` has other names or shapes.
    """
    if like is not None:
        return filled(HAIKU, params, like, prefix)
    seen: dict[str, list[Where]] = {}
    start = HAIKU.parts(one_prefix(prefix))

    def place(where: Where, layer: Layer, name: str) -> Keys:
        stems: dict[Cell, str] = {lstm: "lstm", gru_reset_before: "gru", rnn_relu: "vanilla_rnn"}
        stem = stems[PLAIN.get(layer.cell, layer.cell)]
        cores = seen.setdefault(stem, [])
        if where not in cores:
            cores.append(where)
        k = cores.index(where)
        *inner, last = name.split("/")
        return "/".join([*start, f"{stem}_{k}" if k else stem, *inner]), last

    return named(HAIKU, params, place)
