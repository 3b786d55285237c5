"""Training on sequences that are long: cut in time, with or without gradients across the cuts."""

import functools
import math
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree

from . import _arguments
from ._apply import apply
from ._control import vary_alike
from ._dtypes import widened
from ._node import State
from ._types import Shape, Tree, TreeDef
from ._unroll.checkpoint import segments

# (params, state, part) -> (value, state)
Loss: TypeAlias = Callable[[PyTree, State, PyTree], tuple[ArrayLike, State]]
Shaped: TypeAlias = Callable[[PyTree], PyTree]  # of a part, see `segments`


def segmented_loss(loss: Loss, steps: int) -> Loss:
    """The sum of a loss over segments of time, whose gradient keeps one segment in memory.

    `loss(params, state, part) -> (value, state)` is computed segment by segment, and again in
    the backward pass.  Only the states between segments are stored, and outputs, logits and
    other intermediate values never exist for all of time.  With as many steps in a segment as
    there are segments, memory grows with the square root of time.  The gradient is that of the
    whole sequence.

    Args:
        loss: returns a sum over the steps of a part, and the state after it.
        steps: the number of steps in a segment; the last segment may be shorter.  A number that
            divides the time saves a copy of the sequence.

    Returns:
        A function `(params, state, sequence) -> (value, state)`, where `sequence` is a tree of
        arrays with time first.  A state of None is passed on to the first segment, where `apply`
        takes it for the initial state.  For noise, put a key into the state and split it in the
        loss.

    ```python
    params = jaxlstm.init(jax.random.key(0), jaxlstm.lstm, input_size=3, hidden_size=5)

    def loss(params, state, part):
        ys, state = jaxlstm.apply(params, part["xs"], state)
        return ((ys - part["targets"]) ** 2).sum(), state

    sequence = {"xs": jnp.ones((100, 2, 3)), "targets": jnp.zeros((100, 2, 5))}
    whole = jaxlstm.segmented_loss(loss, steps=10)
    grad = jax.value_and_grad(whole, has_aux=True)
    (value, state), grads = jax.jit(grad)(params, params.initial_state((2,)), sequence)
    ```
    """
    steps, loss = _arguments.count("steps", steps), _checked(loss)

    def whole(params: PyTree, state: State, sequence: PyTree) -> tuple[Array, State]:
        wides = jax.tree.map(_wide, params)

        def step(state: State, part: PyTree, shaped: Shaped) -> tuple[State, ArrayLike]:
            def body(wides: PyTree, state: State, part: PyTree) -> tuple[ArrayLike, State]:
                return loss(jax.tree.map(_as, wides, params), state, shaped(part))

            value, state = jax.checkpoint(body)(wides, state, part)
            return state, value

        state = vary_alike(state, (params, sequence))
        state, values = _over_parts(step, state, sequence, steps, _lacks_a_part(state))
        return _sum(values), state

    return whole


def truncated_value_and_grad(
    loss: Loss, steps: int
) -> Callable[[Tree, State, PyTree], tuple[tuple[Array, State], Tree]]:
    """Truncated backpropagation through time: gradients reach back to the start of a chunk.

    `loss(params, state, part) -> (value, state)` is differentiated chunk by chunk; the state is
    passed from each chunk to the next, and no gradient is passed back.  Williams and Peng 1990,
    "An efficient gradient-based algorithm for on-line training of recurrent network trajectories".

    Args:
        loss: returns a sum over the steps of a part, and the state after it.
        steps: the number of steps in a chunk; the last chunk may be shorter.

    Returns:
        A function `(params, state, sequence) -> ((value, state), gradients)`, where `sequence` is
        a tree of arrays with time first; value and gradients are sums over the chunks.  To update
        the weights after every chunk, call it with one chunk at a time.  A state of None is passed
        on to the first chunk, where `apply` takes it for the initial state.  For noise, put a key
        into the state and split it in the loss: a key that the loss closes over would give the
        same noise in every chunk.

    ```python
    params = jaxlstm.init(jax.random.key(0), jaxlstm.lstm, input_size=3, hidden_size=5)

    def loss(params, state, xs):
        ys, state = jaxlstm.apply(params, xs, state)
        return (ys**2).sum(), state

    grad = jax.jit(jaxlstm.truncated_value_and_grad(loss, steps=10))
    (value, state), grads = grad(params, params.initial_state((2,)), jnp.ones((100, 2, 3)))
    ```
    """
    steps, loss = _arguments.count("steps", steps), _checked(loss)

    def grad(params: Tree, state: State, sequence: PyTree) -> tuple[tuple[Array, State], Tree]:
        of_part = jax.value_and_grad(loss, has_aux=True)

        def step(
            carry: tuple[State, PyTree], part: PyTree, shaped: Shaped
        ) -> tuple[tuple[State, PyTree], Array]:
            state, total = carry
            (value, state), grads = of_part(params, state, shaped(part))
            return (state, jax.tree.map(lambda a, d: a + widened(d), total, grads)), value

        zeros = jax.tree.map(lambda a: jnp.zeros_like(_wide(a)), params)
        start = jax.lax.stop_gradient(vary_alike(state, (params, sequence))), zeros
        (state, total), values = _over_parts(step, start, sequence, steps, _lacks_a_part(state))
        total = jax.tree.map(_as, total, params)
        return (_sum(values), jax.lax.stop_gradient(state)), total

    return grad


def burn_in(
    params: PyTree,
    xs: Float[ArrayLike, "time *batch input"],
    state: State = None,
    **options: PyTree,
) -> State:
    """The state after some steps, without gradients, from which a replayed episode continues.

    Use it where a stored state was computed with older weights: run the first steps of the
    replayed sequence from this state, and learn from the rest.  Kapturowski et al. 2019,
    "Recurrent experience replay in distributed reinforcement learning".

    Args:
        params: the network.
        xs: the first steps, `(time, *batch, input)`.
        state: the stored state; by default the initial state.
        options: those of `apply`.

    ```python
    params = jaxlstm.init(jax.random.key(0), jaxlstm.lstm, input_size=3, hidden_size=5)
    xs = jnp.ones((60, 2, 3))
    state = jaxlstm.burn_in(params, xs[:20])
    ys, state = jaxlstm.apply(params, xs[20:], state)
    ```
    """
    fixed = jax.lax.stop_gradient(_arguments.params_node(params))
    return jax.lax.stop_gradient(apply(fixed, xs, state, **options)[1])


def bucket_length(time: int, *, shortest: int = 16, growth: float | int = 1.5) -> int:
    """One of a few lengths to pad sequences to, since JAX compiles a program for every length.

    Returns the smallest bucket that is long enough; the buckets are `shortest` and what grows
    from it by a factor.  Lengths up to 1000 need at most 12 programs, and no sequence longer
    than `shortest` is padded by more than a half of its length.

    Args:
        time: the length of the longest sequence in a batch.
        shortest: the length of the first bucket.
        growth: how much longer each bucket is than the one before.

    ```python
    time = jaxlstm.bucket_length(37)
    assert time == 54
    mask = jaxlstm.lengths_to_mask([37, 12, 20], time)
    ```
    """
    time, length = _arguments.count("time", time, 0), _arguments.count("shortest", shortest)
    factor = _arguments.real(growth)
    if factor is None or not 1 < factor < math.inf:
        raise ValueError(
            f"`growth` must be a factor of more than 1; got {_arguments.short_repr(growth)}."
        )
    while length < time:
        length = max(length + 1, math.floor(length * factor))
    return length


def _checked(loss: Loss) -> Loss:
    """A loss whose results are checked where they are traced."""
    if not callable(loss):
        raise TypeError(f"`loss` must be a function; got {_arguments.describe(loss)}.")

    def checked(params: PyTree, state: State, part: PyTree) -> tuple[Array, State]:
        outs = loss(params, state, part)
        if not isinstance(outs, tuple) or len(outs) != 2:
            actual = f"{len(outs)} values" if isinstance(outs, tuple) else _arguments.describe(outs)
            raise TypeError(f"`loss` must return `(value, state)`; got {actual}.")
        if not (_lacks_a_part(state) or _form(state) == _form(outs[1])):
            raise TypeError(
                "`loss` must return a state like the one that it is given, "
                f"{_arguments.outline(state)}; got {_arguments.outline(outs[1])}."
            )
        return _arguments.number("the value of `loss`", outs[0]), outs[1]

    return checked


def _lacks_a_part(state: State) -> bool:
    """Whether a part of a state is None, which a loss turns into an initial state."""
    return any(a is None for a in jax.tree.leaves(state, is_leaf=lambda a: a is None))


def _form(state: State) -> tuple[TreeDef, list[Shape]]:
    return jax.tree.structure(state), [jnp.shape(a) for a in jax.tree.leaves(state)]


def _wide(a: ArrayLike) -> Array:
    """What a gradient is summed in: in 16 bits a sum stops growing after some hundred parts."""
    return widened(jnp.asarray(a))


def _as(a: Array, like: ArrayLike) -> Array:
    return a.astype(jnp.asarray(like).dtype)


def _sum(values: list[ArrayLike]) -> Array:
    return functools.reduce(jnp.add, map(jnp.sum, values))


def _over_parts(
    body: Callable[[Tree, PyTree, Shaped], tuple[Tree, ArrayLike]],
    carry: Tree,
    sequence: PyTree,
    steps: int,
    first: bool,
) -> tuple[Tree, list[ArrayLike]]:
    """`body(carry, part, shaped) -> (carry, value)` over parts of time; the last may be shorter.

    The `first` part stands by itself where it turns None into a state: what goes round a loop has
    one structure.
    """
    arrays = jax.tree.leaves(sequence)
    for a in arrays:
        if not hasattr(a, "ndim"):
            raise TypeError(
                "`sequence` must be a tree of arrays with one time first; got "
                f"{_arguments.describe(a)} in it."
            )
    times: list[object] = [*{a.shape[0] if a.ndim else "none" for a in arrays}]
    time = times[0] if len(times) == 1 else None
    if not isinstance(time, int):
        raise ValueError(
            "`sequence` must be a tree of arrays with one time first, known when the program is "
            f"traced; got times [{', '.join(sorted(map(str, times)))}]."
        )
    plain: Shaped = lambda part: part
    part = lambda start, end: jax.tree.map(lambda a: a[start:end], sequence)
    begun = 0
    values: list[ArrayLike] = []
    if first:
        begun = min(steps, time)
        carry, one = body(carry, part(0, begun), plain)
        values.append(one)
    whole = begun + (time - begun) // steps * steps
    if whole > begun:
        parts, shaped = segments(part(begun, whole), steps)
        carry, many = jax.lax.scan(lambda carry, part: body(carry, part, shaped), carry, parts)
        values.append(many)
    if time > whole or not values:
        carry, one = body(carry, part(whole, time), plain)
        values.append(one)
    return carry, values
