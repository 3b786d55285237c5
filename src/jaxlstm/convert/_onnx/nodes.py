"""The recurrent nodes of an ONNX model: which are meant, what feeds them, and how they join."""

import collections
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from .cells import LETTERS, checked
from .graph import Model, Op, Ref
from .known import Known, Length, Size
from .values import Values

INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")


def roles(kind: str) -> tuple[str, ...]:
    """The inputs that an operator has."""
    return INPUTS if kind == "LSTM" else INPUTS[:6]


class Node(NamedTuple):
    """A recurrent node, and what is known of the values around it."""

    name: str
    op: Op
    values: Values

    @property
    def kind(self) -> str:
        return self.op.kind

    def feeds(self, role: str) -> Ref | None:
        if role not in roles(self.kind):
            return None
        return self.op.ref(INPUTS.index(role))

    def tensor(self, role: str) -> str:
        """The user's name for what feeds an input."""
        at = INPUTS.index(role)
        return self.op.inputs[at] if at < len(self.op.inputs) else role

    def label(self, role: str) -> str:
        return f"`{self.tensor(role)}`, the input `{role}` of `{self.name}`,"

    def known(self, ref: Ref) -> Known:
        return self.values.ask("value", ref)

    def weight(self, role: str) -> np.ndarray | None:
        """The array of an input that must be made of constants, if it is there."""
        ref = self.feeds(role)
        if ref is None:
            return None
        if cause := self.values.ask("cause", ref):
            raise ValueError(
                f"the input `{role}` of `{self.name}` must be a constant of the model, or computed "
                f"from constants; it is `{self.tensor(role)}`, which depends on {cause}."
            )
        found = self.known(ref)
        if found.array.shape != found.shape:
            raise ValueError(f"{self.label(role)} has a size that only the data say.")
        return found.array

    def initial(self, role: str) -> np.ndarray | Literal["given"] | None:
        """An initial state: None for no input, an array of constants, or "given"."""
        ref = self.feeds(role)
        if ref is None:
            return None
        if (cause := self.values.ask("cause", ref)) is None:
            found = self.known(ref)
            at = 0 if self.op.attributes.get("layout") == 1 else 1
            sizes = [n for n, size in enumerate(found.shape) if isinstance(size, Size)]
            if sizes not in ([], [at]) or found.array.dtype == object:
                raise ValueError(f"{self.label(role)} has sizes that only the data say.")
            return found.array
        if not self._is_given(ref):
            raise ValueError(
                f"{self.label(role)} depends on {cause}: an initial state that the graph computes "
                "from its data is no part of a network. Take the node out of its model "
                f"(`node.input[{INPUTS.index(role)}] = ''`), compute that state yourself, and "
                "give it to `apply` as `state`."
            )
        return "given"

    def check_lengths(self, layout: int) -> None:
        """Sequence lengths are an input of the model, or all as long as the sequence."""
        ref = self.feeds("sequence_lens")
        if ref is None:
            return
        label = self.label("sequence_lens")
        if cause := self.values.ask("cause", ref):
            if not self._is_given(ref):
                raise ValueError(
                    f"{label} depends on {cause}: sequence lengths that the graph computes are no "
                    "part of a network. Remove that input of the node, and pass `mask=` to `apply`."
                )
            return
        x = self.feeds("X")
        lengths = None if x is None else self._lengths(x)
        time = lengths[layout] if lengths is not None and len(lengths) == 3 else None
        found = self.known(ref).array
        if time is None or any(n is not time and n != time for n in found.flat):
            length = "unknown" if time is None or isinstance(time, Size) else time
            raise ValueError(
                f"{label} has sequence lengths as constants, which are no part of a network: "
                f"{found.tolist() if found.size < 9 else '...'}, where the sequence has length "
                f"{length}. Remove that input of the node, and pass `mask=` to `apply`."
            )

    def _lengths(self, x: Ref) -> tuple[Length, ...]:
        if self.values.ask("cause", x) is None:
            return self.known(x).shape
        found = self.values.ask("lengths", x)
        if found is None:  # it has three axes, whatever makes it
            source = self.values.ask("axes", x).source
            return tuple(self.values.size(source, axis) for axis in range(3))
        return found

    def _is_given(self, ref: Ref) -> bool:
        """Whether this is a part of an input of the model that no data come from."""
        given = self.values.ask("given", ref)
        x = self.feeds("X")
        return given is not None and x is not None and given not in self.values.inputs(x)

    def check_follows(self, before: "Node") -> None:
        """The output of one node is the input of the next, and nothing else happens to it."""
        why = self._join(before)
        if why:
            raise ValueError(
                f"the input of `{self.name}` is not just the output of `{before.name}`, all "
                f"directions side by side: {why}. Take each node by a call of its own, "
                "`from_onnx(..., node=)`, and do by yourself what the model does between them."
            )

    def _join(self, before: "Node") -> str | None:
        x = self.feeds("X")
        if x is None or not before.op.outputs or not before.op.outputs[0]:
            return "it has no input, or that no output"
        if self.op.scope.unit is not before.op.scope.unit:
            return "one of them stands in a graph inside the graph of the other"
        axes = self.values.ask("axes", x)
        if axes.source != before.op.scope.resolve(before.op.outputs[0]):
            scope, name = axes.source
            kind = scope.makers[name][0].kind if name in scope.makers else None
            return f"it comes from `{name}`" + (f", an output of a node `{kind}`" if kind else "")
        layouts = [one.op.attributes.get("layout", 0) for one in (before, self)]
        time, batch = ([1], [0]) if layouts[0] else ([0], [1])
        sides, units = (2, 3) if layouts[0] else (1, 3)
        batch = batch if layouts[0] else [2]
        plain = [*((batch, time) if layouts[1] else (time, batch)), [sides, units]]
        size = self.values.size
        kept = tuple(tuple(n for n in group if size(axes.source, n) != 1) for group in plain)
        if axes.groups == kept:
            return None
        names = {time[0]: "time", batch[0]: "batch", sides: "direction", units: "unit"}
        reached = axes.groups and [[names[n] for n in group] for group in axes.groups]
        return f"the axes of the one reach the other as {reached}"


def recurrent(model: Model) -> tuple[dict[str, Op], list[Op]]:
    """The recurrent nodes by name, and those of other kinds that this library has not."""
    found, other = [], []
    for op in model.main.walk():
        if op.recurrent:
            found.append(op)
        elif op.domain and any(kind in op.kind.upper() for kind in LETTERS):
            other.append(op)
    counts, seen = collections.Counter(op.name for op in found), collections.Counter()
    names: dict[str, Op] = {}
    for op in found:  # a function that is called twice gives two nodes of one name
        name = op.name if counts[op.name] == 1 else f"{op.name}#{seen[op.name]}"
        seen[op.name] += 1
        names[name] = op
    return names, other


def chain(model: Model, selected: str | Sequence[str] | None) -> list[Node]:
    """The nodes that are meant, in the order in which they feed each other."""
    found, other = recurrent(model)
    names = (
        None if selected is None else [selected] if isinstance(selected, str) else list(selected)
    )
    foreign = [op for op in other if names is None or op.name in names]
    if foreign:
        op = foreign[0]
        raise ValueError(
            f"`{op.name}` is a node `{op.kind}` of `{op.domain}`, which computes something else "
            f"than the LSTM, GRU and RNN of ONNX{QUANTISED if 'uantize' in op.kind else ''}. "
            f"The other recurrent nodes of the model are {[*found]}."
        )
    if names is not None and (
        not names or any(name not in found or names.count(name) > 1 for name in names)
    ):
        raise ValueError(f"`node` must name nodes among {[*found]}, each once; got {selected!r}.")
    if not found:
        raise ValueError(
            "the model has no node RNN, GRU or LSTM. Some exporters write out every step "
            "instead; PyTorch keeps the nodes with `torch.onnx.export(..., dynamo=False)`."
        )
    values = Values(model)
    nodes = []
    for name in [*found] if names is None else names:
        op = found[name]
        if len(op.inputs) > len(roles(op.kind)):
            raise ValueError(
                f"`{name}` has {len(op.inputs)} inputs; a {op.kind} has {list(roles(op.kind))}."
            )
        for k, role in enumerate(INPUTS[:3]):
            if k >= len(op.inputs) or not op.inputs[k]:
                raise ValueError(f"`{name}`: the input `{role}` of {op.kind} is missing.")
        checked(op.kind, op.attributes, name, op.version)
        nodes.append(Node(name, op, values))
    return nodes


QUANTISED = (
    ": its weights are small integers, and so are its inputs when it runs. Convert the model "
    "that was quantised, with its floating-point weights, instead"
)
