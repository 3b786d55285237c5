"""`record`: every state and every gate of a network over time, by letter."""

from collections import OrderedDict
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from . import _arguments
from ._apply import Precision, start
from ._control import Controls, controlled, over_time, share_alike, where
from ._layer import for_a_loop
from ._node import Plan, Problem, State, StepNode, takes_steps
from ._tags import harvest


class Record(NamedTuple):
    """What one layer did over time; every array is `(time, *batch, ...)`.

    `states` has the state after each step, with the fields of the cell, such as
    `states.c`; `gates` what the equations named, by name, as `gates["f"]`; `u` and `v` are by
    letter too.  `u = x w + b` is what the input says to each gate and `v = h r` what the
    state says, with its bias if it has one; in most cells a gate is a function of `u + v`.
    """

    states: State  # the state after each step, a NamedTuple as the cell has it
    gates: OrderedDict[str, Array]  # what the equations named: the gates, as the paper has them
    u: OrderedDict[str, Array]  # by letter of the gate
    v: OrderedDict[str, Array]  # by letter; a gate without recurrent product has none


def record(
    params: Any,
    xs: Float[ArrayLike, "time *batch input"],
    state: State = None,
    *,
    mask: Bool[ArrayLike, "time *rows"] | None = None,
    reset: Bool[ArrayLike, "time *rows"] | None = None,
    key: Any = None,
    reverse: bool = False,
    axis: int = 0,
    precision: Precision = None,
) -> tuple[Float[Array, "time *batch output"], State, Any]:
    """Runs a network as `apply` does, and shows every state and every gate over time.

    The arguments, and the first two results, are those of `apply`.

    Returns:
        `(ys, state, seen)`.  `seen` has the tree of `params`, with a `Record` where each layer
        stands: `seen.gates["f"]` for one layer, `seen.layers[1].backward.states.c` for a
        bidirectional layer in a stack.  The gates are those that the cell's equations name by
        `jaxlstm.tag`; states, `u` and `v` are there for every cell.  Where `mask` is False
        the state is kept, no step is taken, and gates, `u` and `v` are zero.  A node that its
        network runs more than once has a tuple of records.

    Raises:
        TypeError, ValueError: as `apply`.

    ```python
    params = jaxlstm.init(jax.random.key(0), jaxlstm.lstm, input_size=3, hidden_size=5)
    ys, state, seen = jaxlstm.record(params, jnp.ones((7, 2, 3)))
    assert list(seen.gates) == ["i", "f", "g", "o"]
    assert seen.gates["f"].shape == seen.states.c.shape == (7, 2, 5)
    ```
    """
    args = _arguments.check(params, xs, state, mask, reset, key, axis, None, precision)
    with _arguments.products(precision):
        ys, last, seen = _recorded(args, plan=Plan(_arguments.flag("reverse", reverse)))
    ys, seen = jax.tree.map(lambda a: jnp.moveaxis(a, 0, axis), (ys, seen))
    return ys, last, mirror(args[0], seen)


def watched(problem: Problem, push: State | None) -> tuple[Array, State, Record]:
    """`scan`, looking on; `push (time, ...)` is added to the state after each step."""
    node = problem.node
    weights, back = for_a_loop(node)

    def body(s: State, at: tuple[Any, Controls, State | None]) -> tuple[State, Any]:
        u, now, push = at
        s, found = harvest(controlled, back(weights), s, u, now, problem.initial)
        s = s if push is None else jax.tree.map(jnp.add, s, push)
        found = where(now.mask, found, jax.tree.map(jnp.zeros_like, found))
        return s, (s[0].astype(problem.xs.dtype), Record(s, **found))

    steps = (node.project(problem.xs), problem.controls, push)
    last, (ys, seen) = over_time(body, problem.state, steps, problem.plan.reverse)
    return ys, last, seen


def recorded(
    args: tuple[Any, ...], plan: Plan, pushes: list[list[State]] | None = None
) -> tuple[Array, State, list[list[Record]]]:
    """Runs a network by `watched`, on what the door has let in.

    Records, and pushes, are a list for every layer in the order of the tree, and in it one
    entry for each time that the layer runs.
    """
    *given, key = args
    params, xs, state, mask, reset = share_alike(*given)
    layers = jax.tree.leaves(params, is_leaf=takes_steps)
    at = {id(node): i for i, node in enumerate(layers)}
    seen: list[list[Record]] = [[] for _ in layers]

    def watch(node: StepNode, problem: Problem) -> tuple[Array, State]:
        if id(node) not in at:
            raise NotImplementedError(
                f"a {type(node).__name__} runs that does not stand in `params`: what a node "
                "makes anew when it runs cannot be recorded."
            )
        i = at[id(node)]
        push = None if pushes is None else pushes[i][len(seen[i])]
        ys, last, record = watched(problem, push)
        seen[i].append(record)
        return ys, last

    ys, last = start(params, xs, state, mask, reset, key, plan, watch)
    return ys, last, seen


_recorded = jax.jit(recorded, static_argnames="plan")


def mirror(params: Any, seen: list[list[Any]]) -> Any:
    """The tree of `params`, with what was seen of a layer in its place."""
    each = iter(seen)

    def place(node: Any) -> Any:
        runs = next(each)
        return (runs[0] if len(runs) == 1 else tuple(runs)) if takes_steps(node) else None

    return jax.tree.map(place, params, is_leaf=takes_steps)
