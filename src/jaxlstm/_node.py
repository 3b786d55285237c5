"""The contract of nodes, and the context of a sequence.

A network is a tree of nodes.  Every node is a `Node`: it knows its input size and its initial
state, and it runs a sequence.  A `StepNode` is defined by a single time step; an
implementation (`_unroll/`) runs it, given one `Problem`.  Other nodes hold nodes, and run them
with `run`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Literal, NamedTuple, TypeAlias, TypeGuard

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from ._control import Controls, resets, where
from ._summary import node_repr
from ._types import Key, Recur as Recur, State as State


class Plan(NamedTuple):
    """How to run a network; all of it is known at trace time."""

    reverse: bool = False
    checkpoint: int | Literal["sqrt"] | None = None  # steps in a segment, or their square root
    implementation: tuple[str, ...] | None = None  # names to try in order; None: the default
    single_step: bool = False  # one step of a longer sequence, the rest of which is unknown


class _Problem(NamedTuple):
    node: "StepNode"  # with the noise of this sequence sampled
    single: "StepNode"  # shapes and dtypes of `node` for one row, to trace a step
    initial: State  # the state after a reset
    state: State
    xs: Array  # (time, *batch, input)
    controls: Controls
    plan: Plan


class Problem(_Problem):
    """What an implementation is given: run `node` over `xs`, from `state`."""

    # Without slots: what one implementation finds out about a problem, the next need not trace.


Unroll: TypeAlias = Callable[["StepNode", Problem], tuple[Array, State]]


class Context(NamedTuple):
    """What accompanies a sequence; a node passes it to the nodes that it holds."""

    mask: Bool[Array, "time *batch"] | None
    reset: Bool[Array, "time *batch"] | None  # where an episode starts in time
    key: Key | None
    plan: Plan
    unroll: Unroll  # runs a step node, given the node of the tree and a problem


class Node:
    """A part of a network: a pytree with the methods that every node must have.

    A node of your own inherits from this class, or from `StepNode`, and from a class that makes it
    a pytree, such as a NamedTuple of its fields.  It must define `input_size`, `initial_state` and
    `run`, which calls `jaxlstm.run` for the nodes inside.

    ```python
    from typing import NamedTuple

    class Fields(NamedTuple):
        node: jaxlstm.Node

    class Doubled(Fields, jaxlstm.Node):
        "Twice the outputs of a node."

        @property
        def input_size(self):
            return self.node.input_size

        def initial_state(self, batch):
            return self.node.initial_state(batch)

        def run(self, xs, state, context):
            ys, state = jaxlstm.run(self.node, xs, state, context)
            return 2 * ys, state

    layer = jaxlstm.init(jax.random.key(0), jaxlstm.gru, input_size=3, hidden_size=5)
    ys, _ = jaxlstm.apply(Doubled(layer), jnp.ones((7, 3)))
    assert (ys == 2 * jaxlstm.apply(layer, jnp.ones((7, 3)))[0]).all()
    ```
    """

    __slots__ = ()
    required: ClassVar[tuple[str, ...]] = ("input_size", "initial_state", "run")
    # what the arrays among its fields are for: see `jaxlstm.weight_roles`
    roles: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls, abstract: bool = False) -> None:
        if abstract:
            return
        if hasattr(cls, "_fields") and cls.__repr__ is not object.__repr__:
            own = next(base for base in cls.__mro__ if "__repr__" in vars(base))
            if "_fields" in vars(own):  # that of a NamedTuple, which prints every number
                setattr(cls, "__repr__", node_repr)  # noqa: B010
        defined = {
            name for base in cls.__mro__ if base.__module__ != __name__ for name in vars(base)
        }
        missing = [part for part in cls.required if part not in defined]
        if missing:
            raise TypeError(
                f"the node {cls.__name__} lacks {', '.join(f'`{part}`' for part in missing)}. "
                f"Required are {', '.join(f'`{part}`' for part in cls.required)}."
            )

    @property
    def input_size(self) -> int:
        """The number of input features."""
        raise NotImplementedError

    @property
    def spatial_axes(self) -> int:
        """How many axes an input has between its batch axes and its features."""
        return 0

    def initial_state(self, batch: Sequence[int]) -> State:
        """The state at the start of a sequence; `batch` ends in the spatial axes."""
        raise NotImplementedError

    def run(self, xs: Array, state: State, context: Context) -> tuple[Array, State]:
        """Runs the node over `xs (time, *batch, input)`: `(ys, last state)`."""
        raise NotImplementedError


class StepNode(Node, abstract=True):
    """A node that is defined by one time step.

    It must define `input_size`, `initial_state` and `step`.  Everything else has a default, to be
    overridden by a node that multiplies its inputs or its state by weights, or has noise.
    Masks, resets, streaming, both directions and all implementations follow from the step.

    ```python
    from typing import NamedTuple

    class Fields(NamedTuple):
        rate: jax.Array  # (features,)

    class Average(Fields, jaxlstm.StepNode):
        "A running average of the inputs: `h' = h + rate * (x - h)`."

        @property
        def input_size(self):
            return self.rate.shape[0]

        def initial_state(self, batch):
            return jaxlstm.HiddenState(jnp.zeros((*batch, self.input_size), self.rate.dtype))

        def step(self, s, u, recur, noise):
            return jaxlstm.HiddenState(s.h + self.rate * (u - s.h))

    layer = jaxlstm.init(jax.random.key(0), jaxlstm.gru, input_size=3, hidden_size=5)
    params = jaxlstm.Stack((Average(jnp.array([0.1, 0.2, 0.5])), layer))
    ys, state = jaxlstm.apply(params, jnp.ones((7, 3)))
    assert ys.shape == (7, 5)
    ```
    """

    __slots__ = ()
    required: ClassVar[tuple[str, ...]] = ("input_size", "initial_state", "step")

    @property
    def gates(self) -> str:
        """The letters of the rows of `u (*batch, gates, hidden)`; empty if `u` has no gates."""
        return ""

    def project(self, xs: Array, gates: str | None = None) -> PyTree:
        """`u`, the part of a step that is independent of the state, for some gates or all."""
        return xs

    def recur(self, h: Array, gates: str) -> Array:
        """The recurrent product of these gates, `v = h r (*batch, gates, hidden)`."""
        raise TypeError(f"a {type(self).__name__} has no recurrent weights.")

    def step(self, s: State, u: PyTree, recur: Recur, noise: PyTree) -> State:
        """One time step.

        `recur` is the node's method of this name, or a replacement for it: a step must multiply by
        recurrent weights only through it.  `noise` is what the method `noise` sampled for this
        step, or None without a key.
        """
        raise NotImplementedError

    def noise(self, key: Key, batch: Sequence[int]) -> PyTree:
        """Samples the noise of one time step: a pytree of arrays, None if there is none."""
        return None

    def sample(self, key: Key | None, batch: Sequence[int]) -> "StepNode":
        """The node with the noise that lasts for a sequence; without noise if `key` is None."""
        return self

    def run(self, xs: Array, state: State, context: Context) -> tuple[Array, State]:
        """Samples the noise, and unrolls the steps."""
        time, batch = xs.shape[0], xs.shape[1:-1]
        once = noise = None
        if context.key is not None:
            once, each = jax.random.split(context.key)
            noise = jax.vmap(lambda key: self.noise(key, batch))(jax.random.split(each, time))
        ones = (1,) * len(batch)
        single = jax.eval_shape(lambda node, key: node.sample(key, ones), self, once)
        controls = Controls(context.mask, resets(context.reset, context.plan.reverse), noise)
        node, initial = self.sample(once, batch), self.initial_state(batch)
        problem = Problem(node, single, initial, state, xs, controls, context.plan)
        ys, last = context.unroll(self, problem)
        return where(context.mask, ys, jnp.zeros_like(ys)), last


def takes_steps(node: object) -> TypeGuard[StepNode]:
    """Whether a node is defined by one time step."""
    return isinstance(node, StepNode)


def run(node: Node, xs: Array, state: State, context: Context) -> tuple[Array, State]:
    """Runs a node inside another node, as in the example of `Node`.

    Raises:
        ValueError: the node does not take as many features as `xs` has.
    """
    if node.input_size != xs.shape[-1]:
        raise ValueError(
            f"a {type(node).__name__} in `params` takes {node.input_size} features; got "
            f"{xs.shape[-1]} from the node before it. Set its `input_size` at `init`: the output "
            "of a bidirectional layer has the features of both directions."
        )
    ys, state = node.run(xs, state, context)
    mask = context.mask
    if mask is None or isinstance(node, StepNode) or ys.shape[: mask.ndim] != mask.shape:
        return ys, state
    # A user's node may turn the zeros there into something else, such as its bias.
    return where(mask, ys, jnp.zeros_like(ys)), state
