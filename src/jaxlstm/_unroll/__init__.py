"""The ways to run a step node: the table, and the choice among them.

Each is a file with `refusal(problem)`, the reason why it cannot run a problem or None, and
`run(problem) -> (ys, last state)`.  A new one is a file and a line below.
"""

from typing import Protocol

import jax
from jaxtyping import Array

from .._layer import CellNode
from .._node import Node, Problem, State
from . import associative, deferred, native, newton, scan
from ._groups import groups_of
from .checkpoint import Run, in_segments


class Implementation(Protocol):
    """What a file of this folder has."""

    def refusal(self, problem: Problem, /) -> str | None: ...

    def run(self, problem: Problem, /) -> tuple[Array, State]: ...


IMPLEMENTATIONS: dict[str, Implementation] = {
    "associative": associative,
    "deferred": deferred,
    "native": native,
    "newton": newton,
    "scan": scan,
}

# What `implementation=None` tries, in order: only those that agree with `scan` to rounding.  Of
# `native` it takes what may become the kernel where a program is lowered.
DEFAULT = ("native", "deferred", "scan")


def default(problem: Problem) -> tuple[str, ...]:
    """On one device `scan` is as fast as `deferred` where a step has no recurrent products."""
    groups = groups_of(problem)
    alone = groups is not None and not groups.calls and jax.device_count() == 1
    return tuple(name for name in DEFAULT if not (alone and name == "deferred"))


def refusal(name: str, problem: Problem) -> str | None:
    """Why an implementation cannot run a problem, with its name; None if it can."""
    reason = IMPLEMENTATIONS[name].refusal(problem)
    return None if reason is None else f"`{name}` {reason}"


def unroll(node: Node, problem: Problem) -> tuple[Array, State]:
    """Runs a problem by the first of the implementations in its plan that can."""
    names = problem.plan.implementation or default(problem)
    reasons: dict[str, NotImplementedError] = {}
    for name in names:
        reason = _reason(name, problem)
        if reason is None:
            try:
                with jax.named_scope(_called(problem.node)):
                    return _run(IMPLEMENTATIONS[name].run, problem)
            except native.Unavailable as failed:  # a compiler, which was not asked before
                reason = str(failed)
        reasons[name] = NotImplementedError(reason)
    if len(reasons) == 1:
        raise reasons[names[0]]
    raise ExceptionGroup(f"no implementation of {names} can run this", [*reasons.values()])


def _reason(name: str, problem: Problem) -> str | None:
    if name == "native" and problem.plan.implementation is None:
        return None if native.by_default(problem) else "is not taken by default."
    return refusal(name, problem)


def _run(run: Run, problem: Problem) -> tuple[Array, State]:
    return in_segments(run, problem) if problem.plan.checkpoint else run(problem)


def _called(node: Node) -> str:
    """What a profile calls it."""
    return node.cell.name if isinstance(node, CellNode) else type(node).__name__
