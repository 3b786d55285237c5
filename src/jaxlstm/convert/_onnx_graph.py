"""The graph of an ONNX model: where its recurrent nodes are, and what feeds them."""

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ._onnx_cells import LETTERS

INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
FOLDED = {"Concat", "Identity", "Slice", "Squeeze", "Transpose", "Unsqueeze"}  # of constants
SHAPING = {"Squeeze", "Unsqueeze", "Transpose", "Reshape", "Identity", "Dropout"}


class Scope(NamedTuple):
    """The names that a graph, or a subgraph in it, can see."""

    constants: Mapping[str, np.ndarray]
    producers: Mapping[str, Any]  # the node that makes a value


class Node(NamedTuple):
    """A recurrent node with its attributes as Python values."""

    name: str
    kind: str
    attributes: dict[str, Any]
    inputs: dict[str, str]
    outputs: list[str]
    scope: Scope

    def maybe(self, role: str) -> np.ndarray | None:
        """The constant that feeds an input, if it is fed by one."""
        return self.scope.constants.get(self.inputs.get(role, ""))

    def constant(self, role: str) -> np.ndarray | None:
        """The same of an input that must be a constant, if it is there."""
        name = self.inputs.get(role, "")
        if name and name not in self.scope.constants:
            raise ValueError(
                f"the input `{role}` of `{self.name}` must be a constant of the model; it is "
                f"`{name}`, which is computed or given when the model runs."
            )
        return self.scope.constants.get(name)


def parsed(onnx: Any, node: Any, scope: Scope) -> Node:
    """A node of the protocol buffer."""
    attributes = {}
    for a in node.attribute:
        value = onnx.helper.get_attribute_value(a)
        several = isinstance(value, (list, tuple)) or hasattr(value, "extend")
        attributes[a.name] = [_value(v) for v in value] if several else _value(value)
    inputs = {role: name for role, name in zip(INPUTS, node.input) if name}
    outputs = list(node.output)
    name = node.name or next((out for out in outputs if out), node.op_type)
    return Node(name, node.op_type, attributes, inputs, outputs, scope)


def _value(v: Any) -> Any:
    """Text as `str`; a float32 as the shortest decimal that rounds to it, 0.3 as 0.3."""
    if isinstance(v, bytes):
        return v.decode()
    return float(str(np.float32(v))) if isinstance(v, float) else v


def walk(onnx: Any, graph: Any, outer: Scope) -> Iterator[Node]:
    """The recurrent nodes of a graph and of the graphs inside it, in order."""
    constants = dict(outer.constants)
    constants |= {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    producers = dict(outer.producers)
    scope = Scope(constants, producers)
    for node in graph.node:
        producers.update({name: node for name in node.output if name})
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
        if node.op_type in FOLDED and all(name in constants for name in node.input if name):
            given = {name: constants[name] for name in node.input if name}
            (constants[node.output[0]],) = onnx.reference.ReferenceEvaluator(node).run(None, given)
        if node.op_type in LETTERS and node.domain in ("", "ai.onnx"):
            yield parsed(onnx, node, scope)
        for attribute in node.attribute:
            inner = [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else []
            for graph_inside in [*inner, *attribute.graphs]:
                yield from walk(onnx, graph_inside, scope)


def model_of(onnx: Any, source: str | os.PathLike[str] | bytes | Any) -> Any:
    """A model from a path, from bytes, or as it is."""
    if isinstance(source, (str, os.PathLike)):
        return onnx.load(os.fspath(source))
    if isinstance(source, bytes):
        return onnx.load_model_from_string(source)
    if not hasattr(source, "graph"):
        raise TypeError(
            f"`source` must be a path, bytes or a model; got a {type(source).__name__}."
        )
    return source


def recurrent_nodes(onnx: Any, source: Any, told: str | Sequence[str] | None) -> list[Node]:
    """The nodes that are meant, in the order in which they feed each other."""
    found = list(walk(onnx, model_of(onnx, source).graph, Scope({}, {})))
    names = [node.name for node in found]
    if told is not None:
        asked = [told] if isinstance(told, str) else list(told)
        if not asked or any(names.count(n) != 1 or asked.count(n) > 1 for n in asked):
            raise ValueError(f"`node` must name nodes among {names}, each once; got {told!r}.")
        return [found[names.index(name)] for name in asked]
    if not found:
        raise ValueError("the model has no node RNN, GRU or LSTM.")
    for one, two in itertools.pairwise(found):
        if not one.outputs or _source(two) != one.outputs[0] or not one.outputs[0]:
            raise ValueError(
                f"the recurrent nodes {names} do not simply feed each other. Say with `node=` "
                "which is meant, or which make a stack."
            )
    return found


def _source(node: Node) -> str:
    """The value that feeds a node, before it was shaped."""
    name = node.inputs["X"]
    while (maker := node.scope.producers.get(name)) is not None and maker.op_type in SHAPING:
        name = maker.input[0]
    return name
