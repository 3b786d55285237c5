"""How gradients travel back through time: `gradient_flow` and `state_jacobians`."""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, PyTree

from . import _arguments
from ._apply import Precision, start
from ._arguments import Arguments
from ._control import over_time, partition, share_alike, vector
from ._node import Node, Plan, State
from ._record import mirror, recorded

FlatStep: TypeAlias = Callable[..., tuple[Array, State]]
States: TypeAlias = list[list[State]]  # of each layer, each time that it runs


def gradient_flow(
    params: PyTree,
    xs: Float[ArrayLike, "time *batch input"],
    loss: Callable[[Array], Array],
    state: State = None,
    *,
    mask: Bool[ArrayLike, "time *rows"] | None = None,
    reset: Bool[ArrayLike, "time *rows"] | None = None,
    key: ArrayLike | None = None,
    reverse: bool = False,
    axis: int = 0,
    precision: Precision = None,
) -> PyTree:
    """The norms of `dL/dh_t`, `dL/dc_t` and of every other state, over time.

    Here `L = loss(ys)`, and `dL/dh_t` is the total derivative: the effect on the loss of a small
    change of `h` after step `t`, through everything that follows, including the layers above.
    The other arguments are those of `apply`.

    Returns:
        The tree of `params`, with a state in place of each layer.  Its fields are the Euclidean
        norms of the gradients for each step and row, `(time, *batch)`: `flow.c` for a single
        LSTM layer, `flow.layers[1].h` in a stack.  If these norms fall or grow exponentially as
        `t` goes back, gradients vanish or explode.  A field of whole numbers, such as a counter,
        has no gradient and is None.  Hochreiter 1991; Bengio, Simard and Frasconi 1994,
        "Learning long-term dependencies with gradient descent is difficult".

    Raises:
        TypeError, ValueError: as for `apply`; or the loss is not a real number.

    ```python
    params = jaxlstm.init(jax.random.key(0), jaxlstm.lstm, input_size=3, hidden_size=5)
    flow = jaxlstm.gradient_flow(params, jnp.ones((7, 3)), lambda ys: ys[-1].sum())
    assert flow.h.shape == flow.c.shape == (7,)
    ```
    """
    args = _arguments.arrays(params, xs, state, mask, reset, key, axis, None, precision)
    args = args.time_first(axis)
    plan = Plan(_arguments.flag("reverse", reverse))
    rows = args.xs.ndim - 1 - args.params.spatial_axes
    if not callable(loss):
        raise TypeError(
            "`loss` must be a function of the outputs, such as `lambda ys: ys[-1].sum()`; got "
            f"a {type(loss).__name__}."
        )

    def run(pushes: States | None, args: Arguments) -> tuple[Array, States]:
        ys, _, seen = recorded(args, plan, pushes)
        value = _arguments.number("`loss(ys)`", loss(jnp.moveaxis(ys, 0, axis)))
        return value, [[record.states for record in runs] for runs in seen]

    def norm(a: Array) -> Array:
        units = tuple(range(rows, a.ndim))
        # Without a scale, squares would underflow or overflow: in float32, norms below 1e-23 would
        # be zero, and those above 1e19 infinite.
        largest = jax.lax.stop_gradient(jnp.max(jnp.abs(a), units, keepdims=True, initial=0))
        some = (largest > 0) & (largest < jnp.inf)  # not NaN
        scale = jnp.where(some, largest, 1)
        small = jnp.abs(a) / scale  # of complex numbers too
        squares = jnp.sum(jnp.square(small), axis=units)
        one = squares == 0  # the root has no slope at 0, where nothing follows and under a mask
        norms = jnp.where(one, 0, jnp.sqrt(jnp.where(one, 1, squares)))
        return jnp.moveaxis(norms * scale.reshape(norms.shape), 0, axis)

    @jax.jit
    def norms(args: Arguments) -> States:
        shapes, _ = partition(jax.eval_shape(run, None, args)[1])  # nothing pushes a counter
        pushes = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
        slopes, _ = jax.grad(run, has_aux=True)(pushes, args)
        return jax.tree.map(norm, slopes)

    with _arguments.products(precision):
        return mirror(args.params, norms(args))


def state_jacobians(
    params: PyTree,
    xs: Float[ArrayLike, "time *batch input"],
    state: State = None,
    *,
    mask: Bool[ArrayLike, "time *rows"] | None = None,
    reset: Bool[ArrayLike, "time *rows"] | None = None,
    precision: Precision = None,
) -> Float[Array, "time *rows state state"]:
    """The products of the state Jacobians, `J_t = ds_t/ds_0`, over every span from the start.

    `s` is the whole state of the network, every field of every layer in one vector, in the
    order of `jax.tree.leaves(state)`, without fields of whole numbers, and with a complex field as
    two, real parts first; `s_0` is `state` and `s_t` the state after `t + 1` steps.  For a span
    that starts later, pass the `xs` and the state from there on.

    The norm of `J_t` bounds the effect of a small change of the state on later states, and
    `jnp.linalg.svd(J, compute_uv=False)` says in how many directions there is any effect.
    Pascanu, Mikolov and Bengio 2013, "On the difficulty of training recurrent neural
    networks".  A bidirectional network has no single direction of time and raises `ValueError`.

    ```python
    params = jaxlstm.init(jax.random.key(0), jaxlstm.lstm, input_size=3, hidden_size=5)
    products = jaxlstm.state_jacobians(params, jnp.ones((7, 3)))
    assert products.shape == (7, 10, 10)  # h and c, in one vector
    assert jnp.linalg.norm(products[6]) < jnp.linalg.norm(products[0])
    ```
    """
    args = _arguments.arrays(params, xs, state, mask, reset, None, 0, None, precision)
    with _arguments.products(precision):
        return _jacobians(*args.time_first(0)[:5])


@jax.jit
def _jacobians(
    net: Node, inputs: Array, given: State, mask: Array | None, reset: Array | None
) -> Array:
    places = net.spatial_axes
    given = net.initial_state(inputs.shape[1:-1]) if given is None else given
    net, inputs, given, mask, reset = share_alike(net, inputs, given, mask, reset)

    def row(s: State, *steps: Array | None) -> Array:
        flat, counted, step = flat_step(net, s, Plan(single_step=True))

        def trajectory(flat: Array) -> Array:
            def body(carry: tuple[Array, State], at: PyTree) -> tuple[tuple[Array, State], Array]:
                flat, counted = step(*carry, *at)
                return (flat, counted), flat

            return over_time(body, (flat, counted), steps, False)[1]

        return jax.jacfwd(trajectory)(flat)

    for _ in inputs.shape[1 : -1 - places]:
        row = jax.vmap(row, (0, 1, 1, 1), 1)
    return row(given, inputs, mask, reset)


def flat_step(net: Node, state: State, plan: Plan) -> tuple[Array, State, FlatStep]:
    """A state as one vector, its integer fields, and a function that takes one time step.

    `step(flat, counted, x, mask, reset) -> (flat, counted)`, for a single row.
    """
    flat, back = vector(state)

    def step(flat: Array, counted: State, *at: Array | None) -> tuple[Array, State]:
        x, mask, reset = jax.tree.map(lambda a: a[None], at)
        _, new = start(Arguments(net, x, back(flat, counted), mask, reset), plan)
        return vector(new)[0], partition(new)[1]

    return flat, partition(state)[1], step
