"""`apply` and `step`: run a network over a sequence, or for one step."""

import functools
import operator
from collections.abc import Sequence
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, PyTree

from . import _arguments
from ._arguments import Arguments
from ._control import share_alike, vary_alike
from ._node import Context, Node, Plan, Problem, State, Unroll, run
from ._unroll import IMPLEMENTATIONS, refusal, unroll

Implementation: TypeAlias = Literal["associative", "deferred", "native", "newton", "scan"]
Precision: TypeAlias = str | jax.lax.Precision | None  # of `jax.default_matmul_precision`


def start(args: Arguments, plan: Plan, unroll: Unroll = unroll) -> tuple[Array, State]:
    """Runs a network on checked arguments, with time first."""
    params, xs, state, mask, reset, key = args
    state = params.initial_state(xs.shape[1:-1]) if state is None else state
    params, xs, state, mask, reset = share_alike(params, xs, state, mask, reset)
    state = vary_alike(state, (params, xs, mask, reset, key))
    return run(params, xs, state, Context(mask, reset, key, plan, unroll))


@functools.partial(jax.jit, static_argnames=("axis", "plan"), inline=True)
def _run(args: Arguments, axis: int, plan: Plan) -> tuple[Array, State]:
    """`start` on arrays whose time axis is `axis`, so that a whole call is one program."""
    single = plan.single_step
    ys, last = start(args.time_first(axis, single), plan)
    return ys[0] if single else jnp.moveaxis(ys, 0, axis), last


def apply(
    params: PyTree,
    xs: Float[ArrayLike, "time *batch input"],
    state: State = None,
    *,
    mask: Bool[ArrayLike, "time *rows"] | None = None,
    reset: Bool[ArrayLike, "time *rows"] | None = None,
    key: ArrayLike | None = None,
    reverse: bool = False,
    axis: int = 0,
    checkpoint: int | bool | None = None,
    precision: Precision = None,
    implementation: Implementation | Sequence[Implementation] | None = None,
) -> tuple[Float[Array, "time *batch output"], State]:
    """Runs a recurrent network over a sequence.

    Args:
        params: what `init` returns, or any tree of `Layer`, `Stack`, `Bidirectional` and your
            own nodes.
        xs: the inputs, time first unless `axis` says otherwise, with any number of batch axes
            or none.  The dtype must be that of `params`.
        state: the state returned by an earlier call; `None` is the initial state.
        mask: where False, the state is unchanged, `ys` is zero, and the values of `xs`
            (NaN included) affect no output and no gradient.
        reset: where True, an episode starts: the state becomes the initial one *before* this
            step.  Nothing crosses this boundary in either direction.  When running backwards, the
            state becomes the initial one before the step that precedes this one in time, and the
            last state is that of the first episode.  The reset is applied before the mask.
        key: a `jax.random.key` for dropout and other noise; without a key there is no noise.
        reverse: run from the last step to the first; `ys[t]` still belongs to `xs[t]`.
        axis: the axis of time in `xs`, `mask`, `reset` and `ys`; 1 for batch-first arrays.
        checkpoint: recompute in the backward pass instead of storing.  With True, memory grows
            with the square root of time; a number is the length of a segment.
        precision: of the matrix products, a value for `jax.default_matmul_precision`.  `None` is
            JAX's default: full float32 on CPU, TF32 or bfloat16 passes on GPU and TPU.
        implementation: the name of the implementation that runs the layers, or several names to
            try in order.  If none of them can run, raises `NotImplementedError` with the reason
            for one, an `ExceptionGroup` for several.  `None` works everywhere: on one CPU device
            with a C++ compiler it runs a kernel that is compiled once per cell, otherwise loops
            compiled by XLA.  `"associative"` (linear cells) and `"newton"` (the others) run in
            parallel over time.  The environment variable `JAXLSTM_KERNEL=off` disables the kernel,
            and `JAXLSTM_THREADS` limits the number of its threads, by default as many as the
            process may use.

    Returns:
        `(ys, state)`: the outputs of the last layer (forward and backward joined, if
        bidirectional), and the state of every layer after the last step, which a later call
        takes as `state`.

    Raises:
        TypeError, ValueError: an argument is invalid; the message says what was expected, what
            was passed and what to do.

    ```python
    params = jaxlstm.init(jax.random.key(0), jaxlstm.lstm, input_size=3, hidden_size=5)
    xs = jnp.ones((7, 2, 3))
    ys, state = jaxlstm.apply(params, xs)
    assert ys.shape == (7, 2, 5)
    ```
    """
    args = _arguments.arrays(params, xs, state, mask, reset, key, axis, checkpoint, precision)
    names = _arguments.names(implementation, IMPLEMENTATIONS)
    plan = Plan(_arguments.flag("reverse", reverse), _arguments.segment(checkpoint), names)
    with _arguments.products(precision):
        return _run(args, operator.index(axis), plan)


def step(
    params: PyTree,
    x: Float[ArrayLike, "*batch input"],
    state: State = None,
    *,
    mask: Bool[ArrayLike, "*rows"] | None = None,
    reset: Bool[ArrayLike, "*rows"] | None = None,
    key: ArrayLike | None = None,
    precision: Precision = None,
) -> tuple[Float[Array, "*batch output"], State]:
    """One step of `apply`, for streaming, control and sampling.

    Calling `step` along a sequence returns what `apply` returns.  A bidirectional network needs
    the whole sequence and raises `ValueError`.  The arguments are those of `apply`, without time.

    ```python
    params = jaxlstm.init(jax.random.key(0), jaxlstm.gru, input_size=3, hidden_size=5)
    y, state = jaxlstm.step(params, jnp.ones(3))
    y, state = jaxlstm.step(params, jnp.ones(3), state)
    ```
    """
    args = _arguments.arrays(params, x, state, mask, reset, key, 0, None, precision, single=True)
    with _arguments.products(precision):
        return _run(args, 0, Plan(single_step=True))


def implementations(
    params: PyTree,
    xs: Float[ArrayLike | jax.ShapeDtypeStruct, "time *batch input"],
    state: State = None,
    *,
    mask: Bool[ArrayLike | jax.ShapeDtypeStruct, "time *rows"] | None = None,
    reset: Bool[ArrayLike | jax.ShapeDtypeStruct, "time *rows"] | None = None,
    key: ArrayLike | None = None,
    reverse: bool = False,
    axis: int = 0,
    checkpoint: int | bool | None = None,
    precision: Precision = None,
) -> dict[str, str | None]:
    """Which implementations can run `apply(params, xs, state, **options)`, and why others cannot.

    Returns a dict from the name of every implementation to `None`, if it can run this call,
    or to the reason why not.  Nothing is computed: an array may be a `jax.ShapeDtypeStruct`.
    By default, `apply` chooses among `native`, `deferred` and `scan`.

    ```python
    params = jaxlstm.init(jax.random.key(0), jaxlstm.minlstm, input_size=3, hidden_size=5)
    reasons = jaxlstm.implementations(params, jnp.ones((7, 3)))
    assert reasons["associative"] is None and reasons["deferred"].startswith("`deferred` needs")
    ```
    """
    reasons: dict[str, str | None] = dict.fromkeys(IMPLEMENTATIONS)

    def ask(node: Node, problem: Problem) -> tuple[Array, State]:
        for name in IMPLEMENTATIONS:
            reasons[name] = reasons[name] or refusal(name, problem)
        return IMPLEMENTATIONS["scan"].run(problem)

    plan = Plan(_arguments.flag("reverse", reverse), _arguments.segment(checkpoint))

    def call(
        params: PyTree, xs: object, state: State, mask: object, reset: object, key: object
    ) -> tuple[Array, State]:
        args = _arguments.arrays(params, xs, state, mask, reset, key, axis, checkpoint, precision)
        return start(args.time_first(axis), plan, ask)

    with _arguments.products(precision):
        jax.eval_shape(call, params, xs, state, mask, reset, key)
    return reasons
