"""`record`: every state and every gate of a network over time, by letter."""

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, PyTree

from . import _arguments
from ._apply import Precision, start
from ._arguments import Arguments
from ._control import Controls, controlled, over_time, share_alike, where
from ._layer import for_a_loop
from ._node import Node, Plan, Problem, State, StepNode, takes_steps
from ._tags import harvest

Seen = TypeVar("Seen")


class Record(NamedTuple):
    """The states and gates of one layer over time; every array is `(time, *batch, ...)`.

    `states` holds the state after each step, with the fields of the cell, such as `states.c`;
    `gates` holds the values tagged by the equations, such as `gates["f"]`; `u` and `v` are also
    dicts by letter.  `u = x w + b` is the contribution of the input to each gate and `v = h r`
    that of the state, with its bias if there is one; in most cells a gate is a function of `u + v`.
    """

    states: State  # the state after each step, a NamedTuple as the cell has it
    gates: OrderedDict[str, Array]  # tagged by the equations
    u: OrderedDict[str, Array]  # by letter of the gate
    v: OrderedDict[str, Array]  # by letter; only gates with a recurrent product


def record(
    params: PyTree,
    xs: Float[ArrayLike, "time *batch input"],
    state: State = None,
    *,
    mask: Bool[ArrayLike, "time *rows"] | None = None,
    reset: Bool[ArrayLike, "time *rows"] | None = None,
    key: ArrayLike | None = None,
    reverse: bool = False,
    axis: int = 0,
    precision: Precision = None,
) -> tuple[Float[Array, "time *batch output"], State, PyTree]:
    """Runs a network as `apply` does, and returns every state and every gate over time.

    The arguments, and the first two results, are those of `apply`.

    Returns:
        `(ys, state, seen)`.  `seen` is the tree of `params`, with a `Record` in place of each
        layer: `seen.gates["f"]` for one layer, `seen.layers[1].backward.states.c` for a
        bidirectional layer in a stack.  The gates are those tagged by the cell's equations
        (`jaxlstm.tag`); every cell has states, `u` and `v`.  Where `mask` is False the state is
        unchanged and gates, `u` and `v` are zero.  A node that runs more than once has a tuple
        of records.

    Raises:
        TypeError, ValueError: as `apply`.

    ```python
    params = jaxlstm.init(jax.random.key(0), jaxlstm.lstm, input_size=3, hidden_size=5)
    ys, state, seen = jaxlstm.record(params, jnp.ones((7, 2, 3)))
    assert list(seen.gates) == ["i", "f", "g", "o"]
    assert seen.gates["f"].shape == seen.states.c.shape == (7, 2, 5)
    ```
    """
    args = _arguments.arrays(params, xs, state, mask, reset, key, axis, None, precision)
    args = args.time_first(axis)
    with _arguments.products(precision):
        ys, last, seen = _recorded(args, plan=Plan(_arguments.flag("reverse", reverse)))
    ys, seen = jax.tree.map(lambda a: jnp.moveaxis(a, 0, axis), (ys, seen))
    return ys, last, mirror(args.params, seen)


def watched(problem: Problem, push: State | None) -> tuple[Array, State, Record]:
    """`scan` with a record; `push (time, ...)` is added to the state after each step."""
    node = problem.node
    weights, back = for_a_loop(node)

    def body(
        s: State, at: tuple[PyTree, Controls, State | None]
    ) -> tuple[State, tuple[Array, Record]]:
        u, now, push = at
        s, found = harvest(controlled, back(weights), s, u, now, problem.initial)
        s = s if push is None else jax.tree.map(_pushed, s, push)
        found = where(now.mask, found, jax.tree.map(jnp.zeros_like, found))
        return s, (s[0].astype(problem.xs.dtype), Record(s, **found))

    steps = (node.project(problem.xs), problem.controls, push)
    last, (ys, seen) = over_time(body, problem.state, steps, problem.plan.reverse)
    return ys, last, seen


def _pushed(a: Array, push: Array | None) -> Array:
    return a if push is None else a + push


def recorded(
    args: Arguments, plan: Plan, pushes: list[list[State]] | None = None
) -> tuple[Array, State, list[list[Record]]]:
    """Runs a network by `watched`, on checked arguments.

    Records and pushes are lists with an entry for every layer in the order of the tree, itself a
    list with an entry for each time that the layer runs.
    """

    def look(problem: Problem, layer: int, time: int) -> tuple[Array, State, Record]:
        return watched(problem, None if pushes is None else pushes[layer][time])

    return seen_by(look, args, plan)


def seen_by(
    look: Callable[[Problem, int, int], tuple[Array, State, Seen]], args: Arguments, plan: Plan
) -> tuple[Array, State, list[list[Seen]]]:
    """Runs a network on checked arguments, each layer by `look`, and keeps what it saw.

    `look(problem, layer, time)` is given the place of the layer in the tree, and how many times
    it ran before.
    """
    args = Arguments(*share_alike(*args[:5]), args.key)
    layers = jax.tree.leaves(args.params, is_leaf=takes_steps)
    at = {id(node): i for i, node in enumerate(layers)}
    seen: list[list[Seen]] = [[] for _ in layers]

    def watch(node: StepNode, problem: Problem) -> tuple[Array, State]:
        if id(node) not in at:
            raise NotImplementedError(
                f"a {type(node).__name__} that is not in `params` cannot be recorded: a node must "
                "run the nodes that it holds, not new ones."
            )
        i = at[id(node)]
        ys, last, record = look(problem, i, len(seen[i]))
        seen[i].append(record)
        return ys, last

    ys, last = start(args, plan, watch)
    return ys, last, seen


_recorded = jax.jit(recorded, static_argnames="plan")


def mirror(params: Node, seen: list[list[PyTree]]) -> PyTree:
    """The tree of `params`, with the records of each layer in its place."""
    each = iter(seen)

    def place(node: PyTree) -> PyTree:
        runs = next(each)
        return (runs[0] if len(runs) == 1 else tuple(runs)) if takes_steps(node) else None

    return jax.tree.map(place, params, is_leaf=takes_steps)
