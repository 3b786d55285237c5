"""The ways to run a layer: the table, and the choice among them.

Each takes `(node, xs, state, controls, reverse)` and returns `(ys, last state)`, or raises
`NotImplementedError` with the reason why it cannot.  A new one is a file and a line below.
"""

from typing import Any

from .._cell import State
from .._control import Controls
from .associative import associative as associative
from .checkpoint import segments
from .cudnn import cudnn as cudnn
from .deferred import deferred as deferred
from .native import native as native
from .scan import scan as scan

IMPLEMENTATIONS = {
    "associative": associative,
    "cudnn": cudnn,
    "deferred": deferred,
    "native": native,
    "scan": scan,
}

# What `implementation=None` tries, in order: only those that agree with `scan` to rounding.
AUTOMATIC = ("deferred", "scan")


def unroll(
    node: Any,
    xs: Any,
    state: State,
    controls: Controls,
    reverse: bool,
    checkpoint: int | bool | None,
    names: tuple[str, ...],
) -> tuple[Any, State]:
    """Runs a node by the first of `names` that can."""
    reasons = []
    for name in names:
        run = IMPLEMENTATIONS[name]
        run = segments(run, checkpoint) if checkpoint else run
        try:
            return run(node, xs, state, controls, reverse)
        except NotImplementedError as reason:
            reason.add_note(f"implementation: {name}")
            reasons.append(reason)
    raise ExceptionGroup(f"no implementation of {names} can run this", reasons)
