"""ONNX: a node RNN, GRU or LSTM as a network."""

import itertools
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, PyTree

from ..._apply import apply
from ..._cell import Layer
from ..._containers import Bidirectional, BidirectionalState, Reverse
from ..._init import lengths_to_mask
from ..._node import Node, State
from ..._options import flag
from .._extra import extra
from .._frameworks.network import stacked
from .._frameworks.table import array, decode, device
from .cells import DIRECTIONS, LETTERS, PEEPHOLES, Spec, activations, cell_of, checked, table
from .graph import Model
from .nodes import Node as Recurrent, chain

if TYPE_CHECKING:
    from onnx import ModelProto


class Operator(NamedTuple):
    """An operator with its weights, run in the shapes of ONNX."""

    params: Node
    layout: int

    def __call__(
        self,
        x: ArrayLike,
        lengths: ArrayLike | None = None,
        h: ArrayLike | None = None,
        c: ArrayLike | None = None,
    ) -> tuple[jax.Array, ...]:
        """`(Y, Y_h)`, of an LSTM `(Y, Y_h, Y_c)`."""
        xs = jnp.asarray(x)
        state = None if h is None and c is None else self.state(xs.shape[1 - self.layout], h, c)
        mask = None
        if lengths is not None:
            time = xs.shape[self.layout]
            mask = lengths_to_mask(np.asarray(lengths, int), time, axis=self.layout)
        ys, last = apply(self.params, xs, state, mask=mask, axis=self.layout)
        sides = 2 if isinstance(self.params, Bidirectional) else 1
        y = ys.reshape(*ys.shape[:-1], sides, -1)
        y = y if self.layout else jnp.moveaxis(y, 2, 1)
        ends = last if sides == 2 else (last,)
        stacked = [jnp.stack(field, self.layout) for field in zip(*ends, strict=True)]
        return (y, *stacked)

    def state(self, batch: int, h: ArrayLike | None, c: ArrayLike | None) -> State:
        """The state of `apply`, from `initial_h` and `initial_c`."""
        zeros = self.params.initial_state((batch,))
        sides = [*zeros] if isinstance(self.params, Bidirectional) else [zeros]
        for k, side in enumerate(sides):
            rows = [
                z if a is None else jnp.broadcast_to(jnp.take(a, k, axis=self.layout), z.shape)
                for z, a in zip(side, (h, c))
            ]
            sides[k] = type(side)(*rows)
        return BidirectionalState(*sides) if isinstance(self.params, Bidirectional) else sides[0]


def operator(
    kind: str,
    attributes: Mapping[str, PyTree],
    weights: Mapping[str, PyTree],
    name: str,
    sum_biases: bool = True,
    tensors: Mapping[str, str] | None = None,
    version: int = 22,
) -> Operator:
    """The operator with these attributes and with the inputs `W`, `R`, `B`, `P`.

    `tensors` are the names of those inputs; `version` is that of the operator set in which the
    attributes are written.
    """
    settings = checked(kind, attributes, name, version)
    names = {k: f"{name}.{k}" for k in weights} | dict(tensors or {})
    arrays = {k: array(names[k], a) for k, a in weights.items() if a is not None}
    for role in ("W", "R"):
        if role not in arrays:
            raise ValueError(f"`{name}`: the input `{role}` of {kind} is missing.")
    for role, a in arrays.items():
        device(names[role], a.ravel()[:0])  # refuses what JAX would truncate
    sides = DIRECTIONS[settings["direction"]]
    _check_shapes(kind, arrays, sides, settings.get("hidden_size"), name, names)
    coupled, after = bool(settings.get("input_forget")), bool(settings.get("linear_before_reset"))
    layers: list[Layer] = []
    for k, functions in enumerate(activations(kind, settings, sides, name)):
        spec = Spec(kind, functions, settings.get("clip"), after, coupled)
        side = {role: a[k] for role, a in arrays.items()}
        layers.append(_layer(spec, side, names, sum_biases))
    if sides == 2:
        return Operator(Bidirectional(*layers), settings["layout"])
    return Operator(
        Reverse(layers[0]) if settings["direction"] == "reverse" else layers[0], settings["layout"]
    )


def _check_shapes(
    kind: str,
    arrays: Mapping[str, np.ndarray],
    sides: int,
    declared: int | None,
    name: str,
    names: Mapping[str, str],
) -> None:
    for role in ("W", "R"):
        if arrays[role].ndim != 3:
            raise ValueError(f"`{names[role]}` must have 3 axes; got shape {arrays[role].shape}.")
    hidden = arrays["R"].shape[-1]
    rows, inputs = len(LETTERS[kind]) * hidden, arrays["W"].shape[-1]
    shapes = {"W": (rows, inputs), "R": (rows, hidden), "B": (2 * rows,), "P": (3 * hidden,)}
    for role, a in arrays.items():
        expected = (sides, *shapes[role])
        if a.shape != expected:
            raise ValueError(
                f"`{name}`: `{names[role]}` must have shape {expected} as the input `{role}` of a "
                f"{kind} of {hidden} units; got {a.shape}."
            )
    if declared not in (None, hidden):
        raise ValueError(f"`{name}`: `hidden_size` is {declared}, and `R` has {hidden} units.")


def _layer(
    spec: Spec, arrays: Mapping[str, np.ndarray], names: Mapping[str, str], sums: bool
) -> Layer:
    """One direction."""
    cell = cell_of(spec, "P" in arrays)
    parts = {"W": arrays["W"], "R": arrays["R"]}
    names = {**names, **dict.fromkeys(("Wb", "Rb"), names["B"])}
    if "B" in arrays:
        parts["Wb"], parts["Rb"] = np.split(arrays["B"], 2)
    layer = decode(table(spec, cell), parts, {k: names[k] for k in parts}, sums)
    if "P" not in arrays:
        return layer
    if arrays["P"].dtype != layer.w.dtype:
        raise TypeError(
            f"the weights of a layer must be of one dtype; `{names['P']}` is {arrays['P'].dtype} "
            f"and `{names['W']}` is {layer.w.dtype}."
        )
    peepholes = dict(zip(PEEPHOLES, np.split(arrays["P"], 3)))
    kept = {k: device(names["P"], a) for k, a in peepholes.items() if k in cell.own_weights()}
    return layer._replace(weights=kept)


def from_onnx(
    source: "str | os.PathLike[str] | bytes | ModelProto",
    *,
    node: str | Sequence[str] | None = None,
    state: bool = False,
    sum_biases: bool = True,
) -> PyTree:
    """The network of the nodes RNN, GRU and LSTM of an ONNX model.

    Nodes that feed each other become a `Stack`; `direction="reverse"` becomes a `Reverse`.
    Attributes become options of the cell: peepholes, clip, activations with alpha and beta,
    `input_forget`, `linear_before_reset`.  What belongs to a call is passed to `apply`: the layout
    as `axis`, sequence lengths that are an input of the model as `mask`, and an initial state that
    is an input as `state`.

    Weights may be computed from constants, also in functions of the model.  Between two nodes of a
    stack there may only be operators that rearrange the outputs of one, all directions side by
    side, into the inputs of the next, and dropout, which is inactive in inference and is ignored.

    Args:
        source: a path, the bytes of a model, or an `onnx.ModelProto`.
        node: the name of a node, or the names of several in the order in which they feed each
            other; by default all of them, if they form a chain.  A node without a name has that
            of its first output.  Nodes in subgraphs (`If`, `Loop`) and in functions are included;
            if several nodes have the same name, a number is appended to it.
        state: whether to return `(params, state)`, with the initial state that the model computes
            from constants.  It has one row if all rows of a batch are the same, and is None if the
            initial state is zero or an input of the model.
        sum_biases: as for `from_torch`.

    Raises:
        ValueError, TypeError: this is not an ONNX model; there is no such node, or the nodes are
            not a chain; weights depend on inputs of the model; no cell computes an attribute, an
            activation or an operator; a state or lengths would be lost.  A model raises no other
            errors than these two.
        OSError: the file cannot be opened.
        ImportError: onnx is missing: `pip install 'jaxlstm[onnx]'`.
    """
    onnx = extra("onnx", "onnx")
    sum_biases, state = flag("sum_biases", sum_biases), flag("state", state)
    nodes = chain(Model(onnx, source), node)
    operators = [_operator(one, sum_biases) for one in nodes]
    whole = stacked([one.params for one in operators])
    for one, after in itertools.pairwise(nodes):
        after.check_follows(one)
    starts = [_start(one, made, state) for one, made in zip(nodes, operators)]
    if not state:
        return whole
    states = [start for start in starts if isinstance(start, tuple)]
    if not states:
        return whole, None
    if any(isinstance(start, str) for start in starts):
        names = [one.name for one in nodes]
        raise ValueError(
            f"of the nodes {names} some start from constants and some from an input of the "
            "model: take each by a call of its own with `node=`."
        )
    if len(nodes) == 1:
        return whole, states[0]
    rows = {a.shape[0] for start in states for a in jax.tree.leaves(start)}
    batch = max(rows)
    if rows - {1, batch}:
        raise ValueError(f"the initial states of the model are of {sorted(rows)} rows.")
    zeros = [one.params.initial_state((batch,)) for one in operators]
    full = [zero if start is None else start for zero, start in zip(zeros, starts)]
    return whole, jax.tree.map(lambda z, a: jnp.broadcast_to(a, z.shape), tuple(zeros), tuple(full))


def _operator(node: Recurrent, sums: bool) -> Operator:
    weights = {role: node.weight(role) for role in ("W", "R", "B", "P")}
    names = {role: node.tensor(role) for role in weights}
    attributes, version = node.op.attributes, node.op.version
    return operator(node.kind, attributes, weights, node.name, sums, names, version)


def _start(node: Recurrent, made: Operator, needed: bool) -> State | Literal["given"] | None:
    """The initial state that a model computes; None for zeros, "given" for an input of it."""
    node.check_lengths(made.layout)
    found = {role: node.initial(role) for role in ("initial_h", "initial_c")}
    arrays = {role: a for role, a in found.items() if isinstance(a, np.ndarray)}
    if any(isinstance(a, str) for a in found.values()):
        if any(a.any() for a in arrays.values()):
            raise ValueError(
                f"`{node.name}` starts from an input of the model and from constants that are not "
                "zero, which would be lost. Make both inputs of the model."
            )
        return "given"
    if not any(a.any() for a in arrays.values()):
        return None
    sides = 2 if isinstance(made.params, Bidirectional) else 1
    layer: PyTree = made.params
    while not isinstance(layer, Layer):
        layer = layer[0]
    hidden, dtype = layer.w.shape[-1], layer.w.dtype
    rows = {}
    for role, a in arrays.items():
        shape = a.shape if a.ndim != 3 else (a.shape[made.layout], a.shape[2])
        if shape != (sides, hidden) or a.dtype != dtype:
            raise ValueError(
                f"{node.label(role)} must be a {dtype} of {sides} directions and {hidden} units; "
                f"got {a.dtype} of shape {a.shape}."
            )
        rows[role] = a.shape[1 - made.layout]
    if not needed:
        raise ValueError(
            f"`{node.name}` starts from constants that are not zero, which are no part of "
            "`params`. `from_onnx(..., state=True)` returns `(params, state)`."
        )
    batch = max(rows.values())
    if any(n not in (1, batch) for n in rows.values()):
        raise ValueError(f"`{node.name}`: its initial states are of {rows} rows.")
    return made.state(batch, arrays.get("initial_h"), arrays.get("initial_c"))
