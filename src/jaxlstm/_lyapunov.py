"""`lyapunov`: how fast small changes of a state grow along a sequence."""

import functools
import math
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree

from . import _arguments
from ._apply import Precision
from ._control import vector
from ._gradient_flow import flat_step
from ._node import Node, Plan, State
from ._options import count as whole_number

Carried: TypeAlias = tuple[Array, State, Array]  # the state, its integer fields, directions


def lyapunov(
    params: PyTree,
    xs: Float[ArrayLike, "time *batch input"],
    state: State = None,
    *,
    count: int | None = None,
    skip: int = 0,
    precision: Precision = None,
) -> Float[Array, "*rows exponents"]:
    """The Lyapunov exponents of a network along a sequence, the largest first.

    A small change of the state grows or shrinks as `exp(exponent * steps)`.  If the largest
    exponent is negative the network forgets its state, and `implementation="newton"` finds all
    states in few rounds; if it is positive the network is chaotic, and rounding alone makes two
    runs differ: Gonzalez et al. 2025, "Predictability enables parallelization of nonlinear state
    space models", arXiv:2509.21716.  The state is that of the whole network, as in
    `state_jacobians`.

    The Jacobian of each step is applied to orthonormal directions, which a QR decomposition makes
    orthonormal again; the exponents are the means of the logarithms of the diagonal of R.
    Benettin et al. 1980, "Lyapunov characteristic exponents for smooth dynamical systems";
    Engelken, Wolf and Abbott 2023, "Lyapunov spectra of chaotic recurrent neural networks",
    arXiv:2006.02427.

    Args:
        params: a network whose layers all run forward in time.
        xs: the inputs, time first, with any number of batch axes.
        state: the state to start from; `None` is the initial state.
        count: how many exponents to return, the largest ones; `None` is all, as many as the
            state has numbers.
        skip: how many steps at the start to leave out, while the directions align with those
            that grow fastest.
        precision: as in `apply`.

    Returns:
        The exponents of each row, in natural logarithms per step.  A direction that a step
        maps to zero has minus infinity.

    Raises:
        TypeError, ValueError: as for `apply`; `count` or `skip` does not fit; the network is
            bidirectional.

    ```python
    params = jaxlstm.init(jax.random.key(0), jaxlstm.gru, input_size=3, hidden_size=5)
    xs = jax.random.normal(jax.random.key(1), (1000, 3))
    (largest,) = jaxlstm.lyapunov(params, xs, count=1, skip=100)
    assert largest < 0
    ```
    """
    args = _arguments.arrays(params, xs, state, None, None, None, 0, None, precision)
    net, inputs, given = args.time_first(0)[:3]
    time, *batch = inputs.shape[:-1]
    rows = math.prod(batch[: len(batch) - net.spatial_axes])
    numbers = jax.eval_shape(lambda: vector(net.initial_state(batch))[0]).size // max(rows, 1)
    count = numbers if count is None else whole_number("count", count)
    skip = whole_number("skip", skip, 0)
    if count > numbers:
        raise ValueError(
            f"`count` must be at most {numbers}, as many numbers as the state of the network has; "
            f"got {count}."
        )
    if skip >= time:
        raise ValueError(
            f"`skip` must leave some of the {time} steps of `xs` to be counted; got {skip}."
        )
    with _arguments.products(precision):
        return _exponents(net, inputs, given, count, skip)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _exponents(net: Node, xs: Array, state: State, count: int, skip: int) -> Array:
    state = net.initial_state(xs.shape[1:-1]) if state is None else state
    plan = Plan(single_step=True, implementation=("scan",))

    def row(state: State, xs: Array) -> Array:
        flat, counted, step = flat_step(net, state, plan)

        def body(carry: Carried, x: Array) -> tuple[Carried, Array]:
            flat, counted, directions = carry
            flat, along, counted = jax.linearize(
                lambda s: step(s, counted, x, None, None), flat, has_aux=True
            )
            directions, r = jnp.linalg.qr(jax.vmap(along, 1, 1)(directions))
            return (flat, counted, directions), jnp.log(jnp.abs(jnp.diagonal(r)))

        # Random, since a fixed direction could be one in which nothing grows.
        directions = jax.random.normal(jax.random.key(0), (flat.size, count), flat.dtype)
        carry = flat, counted, jnp.linalg.qr(directions)[0]
        _, logarithms = jax.lax.scan(body, carry, xs)
        return -jnp.sort(-jnp.mean(logarithms[skip:], 0))

    for _ in xs.shape[1 : -1 - net.spatial_axes]:
        row = jax.vmap(row, (0, 1))
    return row(state, xs)
