"""A network as an ONNX model: one true recurrent node for every layer."""

import os
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Literal

import jax
import numpy as np
from jaxtyping import ArrayLike, PyTree

from ..._cell import Layer
from ..._containers import Bidirectional, Reverse, Stack
from ..._node import Node
from ..._options import flag
from .._arrays import array, concrete
from .._extra import extra
from .._files.file import replace
from .._frameworks.network import stacked
from .._frameworks.table import encode
from .cells import LETTERS, PEEPHOLES, Spec, attributes_of, spec_of, table

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

OPSET, IR = 14, 8  # the opset that gave the recurrent operators their layout


def to_onnx(
    params: PyTree,
    path: str | os.PathLike[str] | None = None,
    *,
    lengths: bool = False,
    state: bool = False,
    embedding: ArrayLike | None = None,
    pooling: Literal["mean", "last"] | None = None,
    readout: ArrayLike | tuple[ArrayLike, ...] | list[ArrayLike] | None = None,
) -> "ModelProto":
    """The ONNX model that computes `params`, with a node RNN, GRU or LSTM for every layer.

    Its input `xs (time, batch, input)` and output `ys (time, batch, output)` are those of
    `apply`, with time and batch of any size.  Further outputs are the last states of every
    layer, `state.0.h (directions, batch, hidden)` and for an LSTM `state.0.c`.  It computes what
    `apply` computes without a key, so it does not include the dropout of a `Stack`.

    It can also be a whole model: with `embedding` the input is `tokens (time, batch)` of int64, and
    with `pooling` or `readout` the first output is `logits`, computed from `ys`.

    Args:
        params: what `init` returns.
        path: a file to write; it is written completely or not at all.
        lengths: whether the model has an input `lengths (batch,)` of int32.
        state: whether the model has the inputs `initial.0.h`, `initial.0.c`, and so on.
        embedding: a table `(tokens, input)`: the network runs over `embedding[tokens]`.
        pooling: how a sequence becomes one vector: `"mean"` is the mean of the outputs over its
            steps (zero for an empty sequence), `"last"` the last hidden states of the last layer,
            forward first.  Without it there is an output for every step.
        readout: `(w, b)` with `w (output, logits)` and `b (logits,)`, or only `w`, for
            `ys @ w + b`.

    Returns:
        The `onnx.ModelProto`.

    Raises:
        ValueError, TypeError: ONNX has no operator for a cell or a node, or cannot represent a
            number or a dtype; or `params` are not the weights of a network.
        ImportError: onnx is missing: `pip install 'jaxlstm[onnx]'`.

    ```python
    params = jaxlstm.init(jax.random.key(0), jaxlstm.lstm, 8, 16, layers=2, bidirectional=True)
    model = {"embed": jnp.ones((100, 8)), "w": jnp.ones((32, 5)), "b": jnp.zeros(5)}
    convert.to_onnx(
        params,
        "model.onnx",
        lengths=True,
        embedding=model["embed"],
        pooling="mean",
        readout=(model["w"], model["b"]),
    )
    ```
    """
    onnx = extra("onnx", "onnx")
    build = _Builder(onnx, flag("lengths", lengths), flag("state", state))
    levels = params.layers if isinstance(params, Stack) else (params,)
    _check(levels)
    parts = _whole(levels, embedding, pooling, readout)
    if "embedding" in parts:
        build.constant("embedding", parts["embedding"])
        build.add("Gather", ["embedding", "tokens"], ["xs"])
    name = "xs"
    for k, level in enumerate(levels):
        last = k == len(levels) - 1
        name = build.level(k, level, name, "ys" if last else f"ys.{k}")
    if pooling is not None or readout is not None:
        build.head(levels, pooling, parts)
    model = build.model(levels, parts, pooling)
    onnx.checker.check_model(model, full_check=True)
    if path is not None:
        replace(path, model.SerializeToString())
    return model


class _Builder:
    """Collects the nodes, constants, inputs and outputs of a graph."""

    def __init__(self, onnx: ModuleType, lengths: bool, state: bool) -> None:
        self.onnx, self.lengths, self.state = onnx, lengths, state
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self.inputs: list[ValueInfoProto] = []
        self.outputs: list[ValueInfoProto] = []

    def level(self, k: int, level: Node, xs: str, ys: str) -> str:
        """Adds the nodes of one level; returns the name of its output."""
        direction, layers = _sides(level)
        specs = [spec_of(layer.cell) for layer in layers]
        kinds = {one._replace(activations=()) for one in specs}
        shapes = {(layer.w.shape[0], layer.w.shape[2], str(layer.w.dtype)) for layer in layers}
        if len(kinds) > 1 or len(shapes) > 1:
            raise ValueError(
                "both directions of a level must be one operator of ONNX, with one clip, one "
                f"size and one dtype; got {[layer.cell for layer in layers]} of {sorted(shapes)}."
            )
        _check_numbers(layers[0], attributes_of(specs))
        arrays = _arrays(layers, specs)
        kind, width = specs[0].operator, layers[0].w.shape[-1]
        fields = ("h", "c") if kind == "LSTM" else ("h",)
        names = ["", "", ""]
        if self.lengths:
            names[0] = "lengths"
        if self.state:
            for n, field in enumerate(fields):
                names[1 + n] = f"initial.{k}.{field}"
                self.inputs.append(self.value(names[1 + n], [len(layers), "batch", width], layers))
        for field in fields:
            shape = [len(layers), "batch", width]
            self.outputs.append(self.value(f"state.{k}.{field}", shape, layers))
        stored = {role: f"layers.{k}.{role}" for role in arrays}
        for role, a in arrays.items():
            self.constant(stored[role], a)
        inputs = [xs, stored["W"], stored["R"], stored.get("B", ""), *names, stored.get("P", "")]
        while not inputs[-1] or (kind != "LSTM" and len(inputs) > 6):
            inputs.pop()
        outputs = [f"y.{k}", *(f"state.{k}.{field}" for field in fields)]
        attributes = {"hidden_size": width, "direction": direction, **attributes_of(specs)}
        self.add(kind, inputs, outputs, name=f"layers.{k}", **attributes)
        self.constant(f"shape.{k}", np.asarray([0, 0, len(layers) * width]))
        self.add("Transpose", [f"y.{k}"], [f"rows.{k}"], perm=[0, 2, 1, 3])
        self.add("Reshape", [f"rows.{k}", f"shape.{k}"], [ys])
        return ys

    def add(
        self, kind: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: PyTree
    ) -> None:
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, outputs, **attributes))

    def constant(self, name: str, a: np.ndarray) -> None:
        self.constants.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(a), name))

    def value(
        self, name: str, shape: Sequence[int | str], layers: Sequence[Layer]
    ) -> "ValueInfoProto":
        kind = self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(layers[0].w.dtype))
        return self.onnx.helper.make_tensor_value_info(name, kind, shape)

    def head(
        self, levels: Sequence[Node], pooling: str | None, parts: Mapping[str, np.ndarray]
    ) -> None:
        """Adds what pools `ys` and reads it out: the nodes from there to `logits`."""
        layers = _sides(levels[-1])[1]
        name = "ys"
        if pooling == "last":
            self.constant("rows", np.asarray([0, width_of(levels[-1])]))
            h = f"state.{len(levels) - 1}.h"
            self.add("Transpose", [h], ["last"], perm=[1, 0, 2])
            self.add("Reshape", ["last", "rows"], ["pooled"])
        elif pooling == "mean" and self.lengths:
            one, axis = np.ones((), layers[0].w.dtype), np.asarray([0])
            self.constant("first", axis)
            self.constant("one", one)
            kind = self.onnx.helper.np_dtype_to_tensor_dtype(one.dtype)
            self.add("Cast", ["lengths"], ["counts"], to=kind)
            self.add("Max", ["counts", "one"], ["some"])
            self.constant("second", np.asarray([1]))
            self.add("Unsqueeze", ["some", "second"], ["divisor"])
            self.add("ReduceSum", ["ys", "first"], ["sums"], keepdims=0)
            self.add("Div", ["sums", "divisor"], ["pooled"])
        elif pooling == "mean":
            self.add("ReduceMean", ["ys"], ["pooled"], axes=[0], keepdims=0)
        name = "pooled" if pooling else name
        last = [key for key in ("readout.w", "readout.b") if key in parts][-1:]
        for kind, key in (("MatMul", "readout.w"), ("Add", "readout.b")):
            if key in parts:
                self.constant(key, parts[key])
                out = "logits" if [key] == last else "products"
                self.add(kind, [name, key], [out])
                name = out
        if not last:
            self.add("Identity", [name], ["logits"])

    def model(
        self, levels: Sequence[Node], parts: Mapping[str, np.ndarray], pooling: str | None
    ) -> "ModelProto":
        helper = self.onnx.helper
        first, last = _sides(levels[0])[1], _sides(levels[-1])[1]
        width = width_of(levels[-1])
        xs = self.value("xs", ["time", "batch", first[0].w.shape[0]], first)
        if "embedding" in parts:
            kind = self.onnx.TensorProto.INT64
            xs = helper.make_tensor_value_info("tokens", kind, ["time", "batch"])
        ys = [self.value("ys", ["time", "batch", width], last)]
        if pooling is not None or "readout.w" in parts:
            rows = ["batch"] if pooling is not None else ["time", "batch"]
            wide = parts["readout.w"].shape[-1] if "readout.w" in parts else width
            ys.insert(0, self.value("logits", [*rows, wide], last))
        kind = self.onnx.TensorProto.INT32
        ends = [helper.make_tensor_value_info("lengths", kind, ["batch"])] if self.lengths else []
        inputs, outputs = [xs, *ends, *self.inputs], [*ys, *self.outputs]
        graph = helper.make_graph(self.nodes, "jaxlstm", inputs, outputs, self.constants)
        opset = helper.make_opsetid("", OPSET)
        return helper.make_model(
            graph, opset_imports=[opset], ir_version=IR, producer_name="jaxlstm"
        )


def width_of(level: Node) -> int:
    """The width of the output of a level."""
    return sum(layer.w.shape[-1] for layer in _sides(level)[1])


def _whole(
    levels: Sequence[Node],
    embedding: ArrayLike | None,
    pooling: str | None,
    readout: ArrayLike | tuple[ArrayLike, ...] | list[ArrayLike] | None,
) -> dict[str, np.ndarray]:
    """The arrays around a network, which must fit it: their shapes, and its dtype."""
    if pooling not in (None, "mean", "last"):
        raise ValueError(f"`pooling` must be 'mean', 'last' or None; got {pooling!r}.")
    layer = _sides(levels[0])[1][0]
    given: dict[str, tuple[ArrayLike, tuple[int | str, ...]]] = {}
    if embedding is not None:
        given["embedding"] = embedding, ("tokens", layer.w.shape[0])
    if readout is not None:
        pair = readout if isinstance(readout, tuple | list) else (readout,)
        if len(pair) not in (1, 2):
            raise ValueError(f"`readout` must be `(w, b)` or `w`; got {len(pair)} values.")
        given["readout.w"] = pair[0], (width_of(levels[-1]), "logits")
        if len(pair) == 2:
            given["readout.b"] = pair[1], (np.shape(pair[0])[-1:] or ("logits",))
    found: dict[str, np.ndarray] = {}
    for name, (a, shape) in given.items():
        a = found[name] = array(name, a)
        fits = len(a.shape) == len(shape) and all(
            isinstance(n, str) or n == m for n, m in zip(shape, a.shape)
        )
        if not fits or a.dtype != layer.w.dtype:
            words = ", ".join(map(str, shape))
            raise ValueError(
                f"`{name}` must be {layer.w.dtype} of shape ({words}), as the network is; got "
                f"{a.dtype} of shape {a.shape}."
            )
    return found


def _check(levels: Sequence[Node]) -> None:
    """The weights of a network are arrays of one dtype, that fit their cells and each other."""
    if not levels:
        raise ValueError("a `Stack` of no layers computes nothing that ONNX has an operator for.")
    layers = [layer for level in levels for layer in _sides(level)[1]]
    dtypes = set()
    for layer in layers:
        spec_of(layer.cell)
        gates, recurrent = len(layer.cell.gates), len(layer.cell.recurrent)
        inputs, hidden = layer.w.shape[0], layer.w.shape[-1]
        found: dict[str, PyTree] = {"w": layer.w, "r": layer.r, **(layer.weights or {})}
        shapes: dict[str, tuple[int, ...]] = {
            "w": (inputs, gates, hidden),
            "r": (hidden, recurrent, hidden),
        }
        shapes |= dict.fromkeys(layer.cell.own_weights(), (hidden,))
        biases = {"b": (gates, hidden), "recurrent_bias": (recurrent, hidden)}
        for name, shape in biases.items():
            if getattr(layer, name) is not None:
                found[name], shapes[name] = getattr(layer, name), shape
        for name, a in found.items():
            label = f"{name}` of `{layer.cell!r}"
            if not isinstance(concrete(label, a), (np.ndarray, jax.Array)):
                raise TypeError(f"`{label}` must be an array; got a {type(a).__name__}.")
        actual = {name: a.shape for name, a in found.items()}
        if actual != shapes:
            raise ValueError(
                f"the weights of `{layer.cell!r}` must have the shapes {shapes}; got {actual}."
            )
        dtypes |= {str(a.dtype) for a in found.values()}
    if len(dtypes) > 1 or not dtypes <= {"float16", "float32", "float64"}:
        raise TypeError(
            "ONNX's RNN, GRU and LSTM take weights of one dtype, float16, float32 or float64, no "
            f"bfloat16; got {sorted(dtypes)}: cast the network first."
        )
    stacked(levels)


def _check_numbers(layer: Layer, attributes: Mapping[str, PyTree]) -> None:
    """ONNX holds the numbers of an operator as float32."""
    numbers = [attributes[k] for k in ("clip",) if k in attributes]
    numbers += [v for k in ("activation_alpha", "activation_beta") for v in attributes.get(k, ())]
    if not attributes.get("clip", 1) > 0:
        raise ValueError(
            f"`{layer.cell!r}`: ONNX has no `clip` of {attributes['clip']}, only positive."
        )
    lost = [v for v in numbers if float(str(np.float32(v))) != v or not np.isfinite(v)]
    if lost and layer.w.dtype == "float64":
        raise ValueError(
            f"`{layer.cell!r}`: ONNX holds the numbers {lost} as float32, which would change a "
            "network of float64: cast the network to float32 first."
        )


def _sides(level: Node) -> tuple[str, list[Layer]]:
    """The direction of a level, and its layers."""
    if isinstance(level, Bidirectional):
        direction, nodes = "bidirectional", [level.forward, level.backward]
    elif isinstance(level, Reverse):
        direction, nodes = "reverse", [level.node]
    else:
        direction, nodes = "forward", [level]
    layers: list[Layer] = []
    for layer in nodes:
        if not isinstance(layer, Layer) or layer.w.ndim != 3:
            raise TypeError(
                f"ONNX has no operator for a `{type(layer).__name__}` at this place; a network "
                "must be a `Layer`, `Reverse` or `Bidirectional` of layers, or a `Stack` of them."
            )
        layers.append(layer)
    return direction, layers


def _arrays(layers: Sequence[Layer], specs: Sequence[Spec]) -> dict[str, np.ndarray]:
    """`W`, `R`, `B` and `P`, directions first."""
    sides = [_side(layer, one) for layer, one in zip(layers, specs)]
    if any("P" in side for side in sides):  # a direction without peepholes has those of zero
        zeros = np.zeros(3 * layers[0].w.shape[-1], layers[0].w.dtype)
        sides = [{"P": zeros, **side} for side in sides]
    return {role: np.stack([side[role] for side in sides]) for role in sides[0]}


def _side(layer: Layer, spec: Spec) -> dict[str, np.ndarray]:
    cell = layer.cell
    hidden, zeros = layer.w.shape[-1], np.zeros(layer.w.shape[-1], layer.w.dtype)
    whole = table(spec, cell)
    lacking = [gate for gate in LETTERS[spec.operator] if gate not in cell.gates]
    parts = tuple(
        p._replace(gates="".join(g for g in p.gates if g in cell.gates)) for p in whole.parts
    )
    raw = encode(whole._replace(parts=parts), layer)
    if lacking:  # `input_forget` reads no forget gate, and its rows must be there
        at = LETTERS[spec.operator].index(lacking[0]) * hidden
        raw = {k: np.insert(a, [at] * hidden, 0, axis=0) for k, a in raw.items()}
    found = {"W": raw["W"], "R": raw["R"], "B": np.concatenate([raw["Wb"], raw["Rb"]])}
    peepholes = {k: np.asarray(a) for k, a in (layer.weights or {}).items()}
    if peepholes:
        found["P"] = np.concatenate([peepholes.get(k, zeros) for k in PEEPHOLES])
    return found
