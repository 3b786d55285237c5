"""The ways to run a step node: the table, and the choice among them.

Each is a file with `refusal(problem)`, the reason why it cannot run a problem or None, and
`run(problem) -> (ys, last state)`.  A new one is a file and a line below.
"""

from typing import Any

from jaxtyping import Array

from .._node import Problem, State
from . import associative, deferred, native, scan
from .checkpoint import in_segments

IMPLEMENTATIONS: dict[str, Any] = {
    "associative": associative,
    "deferred": deferred,
    "native": native,
    "scan": scan,
}

# What `implementation=None` tries, in order: only those that agree with `scan` to rounding.
DEFAULT = ("deferred", "scan")


def refusal(name: str, problem: Problem) -> str | None:
    """Why an implementation cannot run a problem, with its name; None if it can."""
    reason = IMPLEMENTATIONS[name].refusal(problem)
    return None if reason is None else f"`{name}` {reason}"


def unroll(node: Any, problem: Problem) -> tuple[Array, State]:
    """Runs a problem by the first of the implementations in its plan that can."""
    names = problem.plan.implementation or DEFAULT
    reasons = {}
    for name in names:
        implementation = IMPLEMENTATIONS[name]
        reason = refusal(name, problem)
        if reason is None:
            if problem.plan.checkpoint:
                return in_segments(implementation.run, problem)
            return implementation.run(problem)
        reasons[name] = NotImplementedError(reason)
    if len(reasons) == 1:
        raise reasons[names[0]]
    raise ExceptionGroup(f"no implementation of {names} can run this", [*reasons.values()])
