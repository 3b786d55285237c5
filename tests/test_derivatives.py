"""Derivatives, first and second, against differences that know nothing of autodiff."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from jax.test_util import check_grads

import jaxlstm
from networks import CELLS, CORE, KINDS, close, over_cells, some_of

T, B, N, H = 3, 2, 2, 3
MASK = np.array([[True, True], [True, False], [False, True]])
RESET = np.array([[False, False], [False, True], [True, False]])


@functools.cache
def problem(cell):
    """`(f, point)`: the outputs and the last state, flat, of params, inputs and state, flat."""
    random = np.random.default_rng(0)
    noisy = lambda tree: jax.tree.map(lambda a: a + 0.4 * random.standard_normal(a.shape), tree)
    params = noisy(jaxlstm.init(jax.random.key(0), cell, N, H))
    xs = random.standard_normal((T, B, N))
    # A state that the network could be in, with nothing in it at a kink or a bound.
    _, state = jaxlstm.apply(params, random.standard_normal((2, B, N)))
    point, back = ravel_pytree((params, jnp.asarray(xs), state))

    def f(point):
        out = jaxlstm.apply(*back(point), mask=MASK, reset=RESET)
        return ravel_pytree(out)[0]

    return jax.jit(f), point


def differences(f, point, step):
    """The Jacobian by central differences of the fourth order, all points in one batch.

    The error is of the order `step^4` beside `1e-16 / step` of rounding: least, below `1e-12`,
    for steps near `3e-4`.
    """
    along = step * jnp.eye(point.size)
    at = lambda k: jax.vmap(f)(point[None] + k * along)
    derivatives = (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * step)
    return jnp.moveaxis(derivatives, 0, -1)


@over_cells
def test_the_jacobian_in_both_modes_against_differences(cell):
    """Of every output and last state by every weight, input and initial state."""
    f, point = problem(cell)
    forward, reverse = jax.jit(jax.jacfwd(f))(point), jax.jit(jax.jacrev(f))(point)
    close(forward, reverse, rtol=1e-12)
    close(forward, differences(f, point, 3e-4), rtol=1e-10)


LINEAR = [name for name, cell in CELLS.items() if type(cell).__name__ == "Linear"]
TWICE = [name for name in CELLS if name in (*KINDS, *LINEAR)]


@pytest.mark.parametrize("name", some_of(TWICE, ("lstm",)))
def test_second_derivatives_in_both_modes_against_differences(name):
    """`check_grads` of both orders: forward, reverse, and each over the other."""
    f, point = problem(CELLS[name])
    check_grads(f, (point,), order=2, modes=("fwd", "rev"), eps=1e-5, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", CORE)
def test_the_hessian_against_differences_of_the_gradient(name):
    f, point = problem(CELLS[name])
    loss = lambda point: jnp.sum(jnp.sin(2 * f(point)))
    hessian = jax.jit(jax.hessian(loss))(point)
    close(hessian, hessian.T, rtol=1e-12)
    close(hessian, differences(jax.grad(loss), point, 3e-4), rtol=1e-10)
    assert jnp.abs(hessian).max() > 0.1
