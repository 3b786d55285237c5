"""The graph of an ONNX model: its scopes, what makes a value, and where its recurrent nodes are."""

import collections
import dataclasses
import functools
import os
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import PyTree

from .cells import LETTERS

if TYPE_CHECKING:
    from onnx import (
        AttributeProto,
        FunctionProto,
        ModelProto,
        NodeProto,
        TensorProto,
    )

Attribute: TypeAlias = PyTree  # a number, a string, a message, or a list of these

DEPTH = 100  # of graphs inside graphs and of functions that call functions
STANDARD = ("", "ai.onnx")


def text(name: str | bytes) -> str:
    """A name, which protobuf gives as bytes where it is no UTF-8."""
    return name if isinstance(name, str) else name.decode(errors="backslashreplace")


def domain(name: str | bytes) -> str:
    return "" if text(name) in STANDARD else text(name)


class Ref(NamedTuple):
    """A value: its name, in the scope that makes it or is given it."""

    scope: "Scope"
    name: str


@dataclasses.dataclass(eq=False)
class Op:
    """A node of the protocol buffer, in one scope."""

    scope: "Scope"
    proto: "NodeProto"

    def __post_init__(self) -> None:
        self.kind, self.domain = text(self.proto.op_type), domain(self.proto.domain)
        self.inputs = [text(name) for name in self.proto.input]
        self.outputs = [text(name) for name in self.proto.output]
        named = (text(self.proto.name), *self.outputs, self.kind)
        self.name = next(name for name in (*named, "a node of no kind") if name)

    @property
    def version(self) -> int:
        """Of the operator set that the node is written in."""
        return self.scope.opsets.get(self.domain, 1)

    @property
    def recurrent(self) -> bool:
        return self.kind in LETTERS and not self.domain and not self.scope.model.function(self)

    @functools.cached_property
    def attributes(self) -> dict[str, Attribute]:
        """As Python values; tensors and graphs as they are."""
        values = {text(a.name): self._attribute(a) for a in self.proto.attribute}
        return {k: v for k, v in values.items() if v is not None}

    def _attribute(self, a: "AttributeProto") -> Attribute:
        if a.ref_attr_name:  # the name of an attribute of the function that the node is in
            return self.scope.attributes.get(text(a.ref_attr_name))
        return value_of(self.scope.model.onnx, a, self.name)

    def ref(self, k: int) -> Ref | None:
        """What feeds an input, if anything does."""
        name = self.inputs[k] if k < len(self.inputs) else ""
        return self.scope.resolve(name) if name and self.scope.sees(name) else None

    @functools.cached_property
    def graphs(self) -> list["Scope"]:
        """The graphs inside the node, such as the branches of an `If`."""
        inner = []
        for value in self.attributes.values():
            several = value if isinstance(value, list) else [value]
            inner += [v for v in several if isinstance(v, self.scope.model.onnx.GraphProto)]
        return [Scope(self.scope.model, graph, outer=self.scope) for graph in inner]


def value_of(onnx: ModuleType, a: "AttributeProto", name: str) -> Attribute:
    """An attribute; a float32 as the shortest decimal that rounds to it, 0.3 as 0.3."""
    kind = onnx.AttributeProto
    if a.type == kind.FLOAT:
        return float(str(np.float32(a.f)))
    if a.type == kind.FLOATS:
        return [float(str(np.float32(v))) for v in a.floats]
    if a.type == kind.STRING:
        return a.s.decode(errors="backslashreplace")
    if a.type == kind.STRINGS:
        return [v.decode(errors="backslashreplace") for v in a.strings]
    plain = {kind.INT: "i", kind.TENSOR: "t", kind.GRAPH: "g", kind.SPARSE_TENSOR: "sparse_tensor"}
    lists = {kind.INTS: "ints", kind.TENSORS: "tensors", kind.GRAPHS: "graphs"}
    if a.type in plain:
        return getattr(a, plain[a.type])
    if a.type in lists:
        return list(getattr(a, lists[a.type]))
    raise ValueError(f"the attribute `{text(a.name)}` of `{name}` has no value that can be read.")


class Scope:
    """The names that a graph can see: its own, then those of the graphs around it.

    A function's body sees what its call gives it, so that a call is as if it were written out.
    """

    def __init__(
        self,
        model: "Model",
        graph: PyTree,
        *,
        outer: "Scope | None" = None,
        caller: "Scope | None" = None,
        bound: Mapping[str, Ref | None] | None = None,
        attributes: Mapping[str, Attribute] | None = None,
    ) -> None:
        self.model, self.outer = model, outer
        above = outer or caller
        self.depth = 0 if above is None else above.depth + 1
        if self.depth > DEPTH:
            raise ValueError(f"graphs and functions lie in each other more than {DEPTH} deep.")
        model.count(len(graph.node))
        # What runs or not as a whole: a function with its caller, a branch of an `If` by itself.
        self.unit = self if caller is None else caller.unit
        self.attributes = attributes or (outer.attributes if outer else {})
        imports = graph.opset_import if caller else (() if outer else model.proto.opset_import)
        self.opsets = {domain(o.domain): o.version for o in imports}
        self.opsets = outer.opsets if outer else self.opsets
        self.bound = bound or {}
        self.tensors = {} if caller else {text(t.name): t for t in graph.initializer}
        self.sparse = set() if caller else {text(t.values.name) for t in graph.sparse_initializer}
        self.given = {} if caller else {text(v.name): v for v in graph.input}
        self.results = [text(v if caller else v.name) for v in graph.output]
        self.declared = {text(v.name): v for v in graph.value_info}
        self.ops = [Op(self, node) for node in graph.node]
        self.makers: dict[str, tuple[Op, int]] = {}
        made = collections.Counter({*self.tensors, *self.given, *self.bound})
        for op in self.ops:
            self.makers |= {name: (op, k) for k, name in enumerate(op.outputs) if name}
            made.update(name for name in op.outputs if name)
        if several := [name for name, n in made.items() if n > 1]:
            raise ValueError(f"one graph of the model makes {several[:4]} more than once.")

    def resolve(self, name: str) -> Ref:
        """The value of a name, through the functions that it is handed into and out of."""
        scope: Scope = self
        seen: set[tuple[Scope, str]] = set()
        while (scope, name) not in seen:
            seen.add((scope, name))
            if name in scope.tensors or name in scope.sparse:
                return Ref(scope, name)
            if name in scope.makers:
                op, k = scope.makers[name]
                function = self.model.function(op)
                if function is None:
                    return Ref(scope, name)
                scope = self.model.body(op)
                if k >= len(scope.results):
                    raise ValueError(f"`{op.name}` has more outputs than its function gives.")
                name = scope.results[k]
            elif name in scope.bound:
                found = scope.bound[name]
                if found is None:
                    raise ValueError(f"the input `{name}` of a function is read and not given.")
                scope, name = found
            elif name in scope.given:
                return Ref(scope, name)
            elif scope.outer is not None:
                scope = scope.outer
            else:
                raise ValueError(f"`{name}` is read, and nothing in the model makes it.")
        raise ValueError(f"`{name}` is made from itself: the graph has a cycle.")

    def sees(self, name: str) -> bool:
        """Whether a name is more than an input of a function that its call leaves out."""
        scope: Scope | None = self
        while scope is not None and name not in scope.makers and name not in scope.bound:
            scope = scope.outer
        return scope is None or name in scope.makers or scope.bound[name] is not None

    def walk(self) -> Iterator[Op]:
        """The nodes of the graph, of the graphs inside it, and of the functions, in order."""
        for op in self.ops:
            if self.model.function(op) is None:
                yield op
            else:
                yield from self.model.body(op).walk()
            for inner in op.graphs:
                yield from inner.walk()


class TooMuch(ValueError):
    """Constants that would take more than a model of this size can need."""


class Model:
    """A model of the protocol buffer, with what has been found out about it."""

    def __init__(self, onnx: ModuleType, source: object) -> None:
        self.onnx = onnx
        self.proto, self.folder = read(onnx, source)
        self.size = self.proto.ByteSize()
        self.functions = {
            (domain(f.domain), text(f.name), _overload(f)): f for f in self.proto.functions
        }
        self.nodes, self.spent = 0, 0
        self.bodies: dict[Op, Scope] = {}
        self.main = Scope(self, self.proto.graph)

    def count(self, nodes: int) -> None:
        """A call is written out, and functions that call functions may be many more nodes."""
        self.nodes += nodes
        if self.nodes > 10_000 + self.size:
            raise ValueError("the functions of the model call each other too many times.")

    def spend(self, nbytes: int) -> None:
        """What is computed of constants is bounded by what the model holds."""
        self.spent += nbytes
        if self.spent > 2**26 + 32 * self.size:
            raise TooMuch(
                f"the constants that the weights are computed from take more than "
                f"{(2**26 + 32 * self.size) >> 20} MiB, in a model of {self.size} bytes."
            )

    def function(self, op: Op) -> "FunctionProto | None":
        """The function of the model that a node calls, if it calls one."""
        if not self.functions:
            return None
        return self.functions.get((op.domain, op.kind, _overload(op.proto)))

    def body(self, op: Op) -> Scope:
        """What a call runs."""
        if op not in self.bodies:
            function = self.function(op)
            assert function is not None
            names = [text(name) for name in function.input]
            bound: dict[str, Ref | None] = dict.fromkeys(names)
            for name, given in zip(names, op.inputs):
                if given and op.scope.sees(given):
                    bound[name] = Ref(op.scope, given)
            defaults = {
                text(a.name): value_of(self.onnx, a, op.name) for a in function.attribute_proto
            }
            self.bodies[op] = Scope(
                self,
                function,
                caller=op.scope,
                bound=bound,
                attributes={**defaults, **op.attributes},
            )
        return self.bodies[op]

    def tensor(self, t: "TensorProto", name: str) -> np.ndarray:
        """The array of a tensor, from the file beside the model where it stands there."""
        if t.data_location == self.onnx.TensorProto.EXTERNAL:
            where = {e.key: e.value for e in t.external_data}.get("location", "")
            if self.folder is None:
                raise ValueError(
                    f"the data of `{name}` stand in another file, {where!r}: give `from_onnx` the "
                    "path of the model, or what `onnx.load(path)` returns."
                )
            copy = self.onnx.TensorProto()
            copy.CopyFrom(t)
            try:
                helper = self.onnx.external_data_helper
                helper.load_external_data_for_tensor(copy, self.folder)
            except Exception as e:  # onnx raises its own kinds
                raise ValueError(
                    f"the data of `{name}` stand in the file {where!r} beside the model, which "
                    f"cannot be read: {e}"
                ) from None
            t = copy
            self.size += len(t.raw_data)
        try:
            if any(n < 0 for n in t.dims):
                raise ValueError(f"its shape is {list(t.dims)}")
            return self.onnx.numpy_helper.to_array(t)
        except Exception as e:  # what is broken may break in any way
            raise ValueError(f"the data of the tensor `{name}` are broken: {e}") from None


def _overload(proto: "NodeProto | FunctionProto") -> str:
    return text(getattr(proto, "overload", ""))


def read(onnx: ModuleType, source: PyTree) -> "tuple[ModelProto, str | None]":
    """A model from a path, from bytes, or as it is; and the folder of its further files."""
    if isinstance(source, onnx.ModelProto):
        return source, None
    if not isinstance(source, (str, os.PathLike, bytes, bytearray, memoryview)):
        raise TypeError(
            "`source` must be a path, bytes or a model, an `onnx.ModelProto`; got a "
            f"{type(source).__name__}."
        )
    try:
        if isinstance(source, (str, os.PathLike)):
            path = os.fspath(source)
            model = onnx.load(path, load_external_data=False)
            return model, os.path.dirname(os.path.abspath(path))
        return onnx.load_model_from_string(bytes(source)), None
    except OSError:
        raise
    except Exception as e:  # of protobuf, or of a textual format
        what = "the bytes" if isinstance(source, (bytes, bytearray, memoryview)) else f"`{source}`"
        raise ValueError(f"{what} are no model of ONNX: {e or type(e).__name__}") from None
