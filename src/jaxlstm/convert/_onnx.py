"""ONNX: a node RNN, GRU or LSTM as a network."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._apply import apply
from .._cell import Layer
from .._init import lengths_to_mask
from .._nodes import Bidirectional, Reverse
from ._extra import extra
from ._network import stacked
from ._onnx_cells import LETTERS, PEEPHOLES, Said, activations, cell_of, table
from ._onnx_graph import Node, recurrent_nodes
from ._table import array, decode, device

DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}
KNOWN = {"activation_alpha", "activation_beta", "activations", "clip", "direction"}
KNOWN |= {"hidden_size", "input_forget", "layout", "linear_before_reset"}


class Operator(NamedTuple):
    """An operator with its weights, run in the shapes of ONNX."""

    params: Any
    layout: int

    def __call__(
        self, x: Any, lengths: Any = None, h: Any = None, c: Any = None
    ) -> tuple[jax.Array, ...]:
        """`(Y, Y_h)`, of an LSTM `(Y, Y_h, Y_c)`."""
        x = jnp.asarray(x)
        state = None if h is None and c is None else self.state(x.shape[1 - self.layout], h, c)
        mask = None
        if lengths is not None:
            time = x.shape[self.layout]
            mask = lengths_to_mask(np.asarray(lengths, int), time, axis=self.layout)
        ys, last = apply(self.params, x, state, mask=mask, axis=self.layout)
        sides = 2 if isinstance(self.params, Bidirectional) else 1
        y = ys.reshape(*ys.shape[:-1], sides, -1)
        y = y if self.layout else jnp.moveaxis(y, 2, 1)
        ends = last if sides == 2 else (last,)
        stacked = [jnp.stack(field, self.layout) for field in zip(*ends, strict=True)]
        return (y, *stacked)

    def state(self, batch: int, h: Any, c: Any) -> Any:
        """The state of `apply`, from `initial_h` and `initial_c`."""
        zeros = self.params.zeros((batch,))
        sides = [*zeros] if isinstance(self.params, Bidirectional) else [zeros]
        for k, side in enumerate(sides):
            rows = [z if a is None else jnp.asarray(a) for z, a in zip(side, (h, c))]
            rows = [r if r.ndim == 2 else jnp.take(r, k, axis=self.layout) for r in rows]
            sides[k] = type(side)(*rows)
        return tuple(sides) if isinstance(self.params, Bidirectional) else sides[0]


def operator(
    kind: str,
    attributes: Mapping[str, Any],
    weights: Mapping[str, Any],
    name: str,
    sum_biases: bool = True,
) -> Operator:
    """The operator with these attributes and with the inputs `W`, `R`, `B`, `P`."""
    unknown = attributes.keys() - KNOWN
    direction, layout = attributes.get("direction", "forward"), attributes.get("layout", 0)
    if unknown or direction not in DIRECTIONS or layout not in (0, 1):
        raise ValueError(
            f"`{name}`: a {kind} has the attributes {sorted(KNOWN)}, a direction of "
            f"{list(DIRECTIONS)} and a layout of 0 or 1; got {dict(attributes)}."
        )
    sides = DIRECTIONS[direction]
    arrays = {k: array(f"{name}.{k}", a) for k, a in weights.items() if a is not None}
    _check_shapes(kind, arrays, sides, attributes.get("hidden_size"), name)
    coupled = bool(attributes.get("input_forget", 0))
    after = bool(attributes.get("linear_before_reset", 0))
    layers = []
    for k, told in enumerate(activations(kind, attributes, sides)):
        said = Said(kind, told, attributes.get("clip"), after, coupled)
        layers.append(_layer(said, {r: a[k] for r, a in arrays.items()}, name, sum_biases))
    if sides == 2:
        return Operator(Bidirectional(*layers), layout)
    return Operator(Reverse(layers[0]) if direction == "reverse" else layers[0], layout)


def _check_shapes(
    kind: str, arrays: Mapping[str, np.ndarray], sides: int, told: int | None, name: str
) -> None:
    hidden = arrays["R"].shape[-1]
    rows, inputs = len(LETTERS[kind]) * hidden, arrays["W"].shape[-1]
    shapes = {"W": (rows, inputs), "R": (rows, hidden), "B": (2 * rows,), "P": (3 * hidden,)}
    for role, a in arrays.items():
        expected = (sides, *shapes[role])
        if a.shape != expected:
            raise ValueError(f"`{name}`: `{role}` must have shape {expected}; got {a.shape}.")
    if told not in (None, hidden):
        raise ValueError(f"`{name}`: `hidden_size` is {told}, and `R` has {hidden} units.")


def _layer(said: Said, arrays: Mapping[str, np.ndarray], name: str, sums: bool) -> Layer:
    """One direction."""
    cell = cell_of(said, "P" in arrays)
    parts = {"W": arrays["W"], "R": arrays["R"]}
    if "B" in arrays:
        parts["Wb"], parts["Rb"] = np.split(arrays["B"], 2)
    layer = decode(table(said, cell), parts, {k: f"{name}.{k}" for k in parts}, sums)
    if "P" not in arrays:
        return layer
    peepholes = dict(zip(PEEPHOLES, np.split(arrays["P"], 3)))
    kept = {k: device(f"{name}.P", a) for k, a in peepholes.items() if k in cell.drawn()}
    return layer._replace(weights=kept)


def from_onnx(
    source: str | os.PathLike[str] | bytes | Any,
    *,
    node: str | Sequence[str] | None = None,
    state: bool = False,
    sum_biases: bool = True,
) -> Any:
    """The network of the nodes RNN, GRU and LSTM of an ONNX model.

    Nodes that feed each other become a `Stack`; `direction="reverse"` a `Reverse`.  Options
    become those of the cell: peepholes, clip, activations with alpha and beta,
    `input_forget`, `linear_before_reset`.  What belongs to a call stays there: the layout is
    `axis`, sequence lengths are a `mask`, and an initial state is `state`.

    Args:
        source: a path, the bytes of a model, or an `onnx.ModelProto`.
        node: the name of a node, or the names of several that make a stack; without it, all
            that there are, if they are a chain.  A node without a name has that of its first
            output; nodes of subgraphs (`If`, `Loop`) count.
        state: whether to return `(params, state)`, with the initial state that the model
            holds as constants, for one row of a batch or for all; None where it holds none.
        sum_biases: as for `from_torch`.

    Raises:
        ValueError, TypeError: no such node, nodes that are no chain, weights that are no
            constants, an attribute that no cell has, or a constant state or lengths that
            would be lost.
        ImportError: onnx is missing: `pip install 'jaxlstm[onnx]'`.
    """
    onnx, _ = extra("onnx", "onnx"), extra("onnx.reference", "onnx")
    nodes = recurrent_nodes(onnx, source, node)
    operators = [_operator(one, sum_biases) for one in nodes]
    params = [one.params for one in operators]
    whole = stacked(params)
    starts = [_start(one, made, state) for one, made in zip(nodes, operators)]
    if not state:
        return whole
    given = [start for start in starts if start is not None]
    if given and len(given) < len(starts):
        raise ValueError("some nodes have an initial state and some none: take them one by one.")
    return whole, (None if not given else given[0] if len(starts) == 1 else tuple(given))


def _operator(node: Node, sums: bool) -> Operator:
    weights = {role: node.constant(role) for role in ("W", "R", "B", "P")}
    return operator(node.kind, node.attributes, weights, node.name, sums)


def _start(node: Node, made: Operator, wanted: bool) -> Any:
    """The initial state that a model holds as constants."""
    h, c = (node.maybe(role) for role in ("initial_h", "initial_c"))
    if node.maybe("sequence_lens") is not None:
        raise ValueError(
            f"`{node.name}` has sequence lengths as constants, which are no part of a network: "
            "remove them from the model and pass `mask=` to `apply`."
        )
    if all(a is None or not a.any() for a in (h, c)):
        return None
    if not wanted:
        raise ValueError(
            f"`{node.name}` starts from constants that are not zero, which are no part of "
            "`params`. `from_onnx(..., state=True)` returns `(params, state)`."
        )
    batch = next(a.shape[1 - made.layout] for a in (h, c) if a is not None)
    return made.state(batch, h, c)
