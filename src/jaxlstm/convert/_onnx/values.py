"""What is known of a value in a graph of ONNX before the model runs.

Each question is a generator that yields the questions it depends on, so that no graph is too deep
for Python's stack, each is answered once, and one that comes back to itself is found out.
"""

import math
from collections.abc import Callable, Generator, Sequence

import numpy as np
from jaxtyping import PyTree

from .arithmetic import RULES
from .axes import SHAPING, Axes, shaped
from .fold import drops
from .graph import Model, Op, Ref, TooMuch
from .known import OPEN, Known, Length, Size, known, numbers

TAKING = {"Cast", "Gather", "Slice", "Split"} | SHAPING
Answer = Generator[tuple[str, Ref], PyTree, PyTree]


class Values:
    """Answers about the values of a model."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.answers: dict[tuple[str, Ref], PyTree] = {}
        self.sizes: dict[tuple[Ref, int], Length] = {}
        self.made: dict[Op, list[Known]] = {}

    def ask(self, what: str, ref: Ref) -> PyTree:
        """`cause`, `value`, `axes`, `lengths` or `given` of a value."""
        rules: dict[str, Callable[[Ref], Answer]] = {
            "cause": self._cause,
            "value": self._value,
            "axes": self._axes,
            "lengths": self._lengths,
            "given": self._given,
        }
        stack: list[tuple[tuple[str, Ref], Answer]] = [((what, ref), rules[what](ref))]
        running = {(what, ref)}
        answer: PyTree = None
        while stack:
            question, rule = stack[-1]
            try:
                needed = rule.throw(answer) if isinstance(answer, ValueError) else rule.send(answer)
            except StopIteration as done:
                answer = done.value
            except ValueError as e:  # the caller may know better
                answer = e
            except (AttributeError, IndexError, KeyError, OverflowError, TypeError) as e:
                message = f"`{question[1].name}` is made by a node that is broken: {e}."
                answer = ValueError(message)
            else:
                if needed in running:
                    answer = ValueError(f"`{needed[1].name}` is made from itself: a cycle.")
                elif needed in self.answers:
                    answer = self.answers[needed]
                else:
                    answer = None
                    running.add(needed)
                    stack.append((needed, rules[needed[0]](needed[1])))
                continue
            self.answers[question] = answer
            running.discard(question)
            stack.pop()
        if isinstance(answer, ValueError):
            raise answer
        return answer

    def _cause(self, ref: Ref) -> Answer:
        """None for what the model computes from constants; else what it depends on, in words."""
        scope, name = ref
        if name in scope.tensors:
            return None
        if name in scope.sparse:
            return f"`{name}`, a sparse tensor: write it as a dense one"
        if name not in scope.makers:
            return f"`{name}`, which is given when the model runs"
        op, _ = scope.makers[name]
        if op.kind in ("Shape", "Size") and not op.domain:
            return None
        if not folds(op):
            return f"`{name}`, which a node `{op.kind}` makes"
        for k in range(len(op.inputs)):
            one = op.ref(k)
            if one is not None and (found := (yield "cause", one)):
                return found
        return None

    def _value(self, ref: Ref) -> Answer:
        scope, name = ref
        if name in scope.tensors:
            return known(self.model.tensor(scope.tensors[name], name))
        op, k = scope.makers[name]
        if op.kind in ("Shape", "Size") and not op.domain:
            return (yield from self._sized(op))
        message = f"`{name}`, which a node `{op.kind}` makes of constants, cannot be computed"
        if op not in self.made:
            args: list[Known | None] = []
            for i in range(len(op.inputs)):
                one = op.ref(i)
                args.append(None if one is None else (yield "value", one))
            try:
                made = RULES[op.kind](op, *args)
                made = made if isinstance(made, list) else [made]
                if not all(isinstance(one, Known) for one in made):
                    raise ValueError("an input is missing")
            except (TooMuch, MemoryError):
                raise
            except Exception as e:  # what is broken may break in any way
                raise ValueError(f"{message}: {e or type(e).__name__}.") from None
            self.made[op] = made
        if k >= len(self.made[op]):
            raise ValueError(f"{message}: it has no output {k}.")
        return self.made[op][k]

    def _sized(self, op: Op) -> Answer:
        """`Shape` or `Size`."""
        ref = op.ref(0)
        if ref is None:
            raise ValueError(f"`{op.name}` has no input.")
        if (yield "cause", ref) is None:
            lengths = (yield "value", ref).shape
        else:
            lengths = yield "lengths", ref
        if op.kind == "Size":
            whole = [n for n in lengths or () if isinstance(n, int)]
            return known(math.prod(whole) if whole == [*(lengths or [None])] else Size())
        start, end = op.attributes.get("start", 0), op.attributes.get("end")
        if lengths is not None:
            return known(np.asarray(lengths, object)[start:end])
        source = (yield "axes", ref).source  # of which not even the number of axes is known
        first = np.asarray([self.size(source, axis) for axis in range(OPEN)], object)
        if end is not None and 0 <= start <= end <= OPEN:
            return known(first[start:end])
        if start or end is not None:
            raise ValueError(f"`{ref.name}` has an unknown number of axes.")
        return Known(first, (Size(),))

    def size(self, source: Ref, axis: int) -> Length:
        """The length of an axis of a value that is no constant and was not shaped."""
        if (source, axis) not in self.sizes:
            declared = self.declared(source)
            known_length = declared[axis] if declared is not None and axis < len(declared) else None
            self.sizes[source, axis] = Size() if known_length is None else known_length
        return self.sizes[source, axis]

    def declared(self, ref: Ref) -> list[int | None] | None:
        """The shape that the model states."""
        info = ref.scope.given.get(ref.name) or ref.scope.declared.get(ref.name)
        kind = None if info is None else info.type.tensor_type
        if kind is None or not kind.HasField("shape") or len(kind.shape.dim) > 64:
            return None
        return [d.dim_value if d.dim_value > 0 else None for d in kind.shape.dim]

    def _axes(self, ref: Ref) -> Answer:
        op, k = ref.scope.makers.get(ref.name, (None, 0))
        if op is None or k or not folds(op) or op.kind not in SHAPING or not op.inputs:
            return (yield from self._source(ref, op, k))
        one = op.ref(0)
        before = None if one is None else (yield "axes", one)
        if before is None:
            return Axes(ref, None)
        second_value: list[Length] | None = None
        second = op.ref(2 if op.kind == "Dropout" else 1)
        if second is not None and (yield "cause", second):
            return Axes(ref, None)
        if op.kind == "Dropout" and drops(op, second and (yield "value", second)):
            return Axes(ref, None)
        if second is not None and op.kind != "Dropout":
            try:
                second_value = numbers((yield "value", second))
            except TooMuch:
                raise
            except ValueError:
                return Axes(ref, None)
        if before.groups is None:
            rank = len(op.attributes.get("perm", ())) if op.kind == "Transpose" else 0
            if not rank:
                return Axes(ref, None)
            before = self._plain(before.source, rank)
        groups = shaped(
            op, before.groups or (), second_value, lambda axis: self.size(before.source, axis)
        )
        return Axes(ref, None) if groups is None else Axes(before.source, groups)

    def _source(self, ref: Ref, op: Op | None, k: int) -> Answer:
        """A value that starts anew, with axes of its own."""
        declared = self.declared(ref)
        if op is None or not op.recurrent:
            return Axes(ref, None) if declared is None else self._plain(ref, len(declared))
        x, r = op.ref(0), op.ref(2)
        rank, sides = 3 if k else 4, 2 if op.attributes.get("direction") == "bidirectional" else 1
        if x is not None:
            axes = yield "axes", x
            if axes.groups is None or len(axes.groups) != 3:
                axes = self._plain(x if axes.groups else axes.source, 3)
            first, second, _ = (self.joined(axes.source, group) for group in axes.groups or ())
            hidden = op.attributes.get("hidden_size")
            if hidden is None and r is not None and (yield "cause", r) is None:
                hidden = (yield "value", r).shape[-1]
            batch = first if op.attributes.get("layout", 0) else second
            if op.attributes.get("layout", 0):
                sizes = (batch, sides, hidden) if k else (first, second, sides, hidden)
            else:
                sizes = (sides, batch, hidden) if k else (first, sides, second, hidden)
            self.sizes |= {(ref, axis): n for axis, n in enumerate(sizes) if n is not None}
        return self._plain(ref, rank)

    def _plain(self, source: Ref, rank: int) -> Axes:
        return Axes(source, tuple((n,) if self.size(source, n) != 1 else () for n in range(rank)))

    def _lengths(self, ref: Ref) -> Answer:
        """The lengths of the axes of a value that is no constant; None if there is no saying."""
        axes = yield "axes", ref
        if axes.groups is None:
            return None
        return tuple(self.joined(axes.source, group) for group in axes.groups)

    def joined(self, source: Ref, group: Sequence[int]) -> Length:
        sizes = [self.size(source, axis) for axis in group]
        unknown = [n for n in sizes if isinstance(n, Size)]
        if len(unknown) == 1 and len(sizes) == 1:
            return unknown[0]
        return Size() if unknown else math.prod(n for n in sizes if isinstance(n, int))

    def _given(self, ref: Ref) -> Answer:
        """The input of the model that a value is a part of, unchanged; None of any other."""
        scope, name = ref
        if name not in scope.makers:
            return ref if name in scope.given and scope is self.model.main else None
        op, k = scope.makers[name]
        if op.kind == "If" and not op.domain and self.model.function(op) is None:
            return (yield from self._branches(op, k))
        if op.kind not in TAKING or not folds(op) or (one := op.ref(0)) is None:
            return None
        for k in range(1, len(op.inputs)):
            other = op.ref(k)
            if other is not None and (yield "cause", other):
                return None
        return (yield "given", one)

    def _branches(self, op: Op, k: int) -> Answer:
        """The same of an `If`: a part of one input in every branch, or zeros."""
        found: set[Ref | None] = set()
        for inner in op.graphs:
            one = inner.resolve(inner.results[k]) if k < len(inner.results) else None
            if one is None or (yield "cause", one):
                found.add(None if one is None else (yield "given", one))
            elif (yield "value", one).array.any():
                return None
        return found.pop() if len(found) == 1 else None

    def inputs(self, ref: Ref) -> set[Ref]:
        """The inputs of the model that a value depends on, other than as an initial state."""
        found, todo = set(), [ref]
        seen = {ref}
        while todo:
            scope, name = todo.pop()
            if name not in scope.makers:
                found.add(Ref(scope, name))
                continue
            op, _ = scope.makers[name]
            ahead = [op.ref(k) for k in range(1 if op.recurrent else len(op.inputs))]
            for inner in op.graphs:
                ahead += [node.ref(k) for node in inner.walk() for k in range(len(node.inputs))]
            new = {one for one in ahead if one is not None} - seen
            seen |= new
            todo += new
        return found


def folds(op: Op) -> bool:
    """Whether this is an operator that can be computed here."""
    plain = op.kind in RULES and not op.domain
    quantized = op.kind in ("DequantizeLinear", "QuantizeLinear") and op.domain == "com.microsoft"
    return (plain or quantized) and op.scope.model.function(op) is None
