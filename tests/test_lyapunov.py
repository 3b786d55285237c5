"""Lyapunov exponents, of maps whose exponents are known."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlstm
from networks import B, N, inputs, network, refused


@jaxlstm.general_cell("x", jaxlstm.HiddenState)
def logistic(s, u, recur):
    """`h' = 4 h (1 - h)`, conjugate to a doubling: its exponent is `log 2`."""
    return (4 * s.h * (1 - s.h) + 0 * u[0],)


@jaxlstm.general_cell("x", jaxlstm.HiddenState)
def henon(s, u, recur):
    """Hénon 1976, with his parameters: the exponents add to `log 0.3`."""
    x, y = s.h[..., 0], s.h[..., 1]
    return (jnp.stack([1 - 1.4 * x * x + y, 0.3 * x], -1) + 0 * u[0],)


@jaxlstm.general_cell("x", jaxlstm.HiddenState)
def cat(s, u, recur):
    """Arnold's cat map: the eigenvalues of its matrix are those of every step."""
    x, y = s.h[..., 0], s.h[..., 1]
    return (jnp.stack([2 * x + y, x + y], -1) % 1 + 0 * u[0],)


MAPS = [
    (logistic, 1, [math.log(2)], 20_000, 1e-3),
    # a mean over its attractor, which so many steps give to a hundredth
    (henon, 2, [0.41922, math.log(0.3) - 0.41922], 50_000, 1e-2),
    (cat, 2, [math.log((3 + 5**0.5) / 2), -math.log((3 + 5**0.5) / 2)], 2_000, 1e-12),
]


@pytest.mark.parametrize(("cell", "size", "exponents", "time", "rtol"), MAPS, ids=str)
def test_maps_of_known_exponents(cell, size, exponents, time, rtol):
    params = jaxlstm.init(jax.random.key(0), cell, 1, size)
    state = jaxlstm.HiddenState(jnp.array([0.1234, 0.2345])[:size])
    got = jaxlstm.lyapunov(params, jnp.zeros((time, 1)), state, skip=1000)
    np.testing.assert_allclose(got, exponents, rtol=rtol)
    if size == 2:  # the determinant of every step is the same
        np.testing.assert_allclose(got.sum(), sum(exponents), rtol=1e-12, atol=1e-12)


def test_a_linear_network_has_those_of_its_matrix():
    """Whatever the inputs; in a stack, those of both layers."""
    linear = jaxlstm.cells.rnn_variant(activation="linear")
    params = jaxlstm.init(jax.random.key(0), linear, N, (3, 2))
    rotated = lambda seed, values: (
        (q := np.linalg.qr(np.random.default_rng(seed).standard_normal((len(values),) * 2))[0])
        @ np.diag(values)
        @ q.T
    )
    first, second = params.layers
    first = first._replace(r=jnp.asarray(rotated(0, [0.9, -0.5, 0.2]))[:, None])
    second = second._replace(r=jnp.asarray(rotated(1, [0.7, 0.4]))[:, None])
    params = params._replace(layers=(first, second))
    got = jaxlstm.lyapunov(params, inputs(shape=(300, B, N)), skip=150)
    expected = np.log([0.9, 0.7, 0.5, 0.4, 0.2])
    np.testing.assert_allclose(got, np.broadcast_to(expected, (B, 5)), rtol=1e-6)
    few = jaxlstm.lyapunov(params, inputs(shape=(300, B, N)), count=2, skip=150)
    np.testing.assert_allclose(few, got[:, :2], rtol=1e-6)


def test_their_sum_is_that_of_volumes():
    params, xs = network(jaxlstm.gru, "stack"), inputs(shape=(4, 2, 3, N))
    volume = jnp.linalg.slogdet(jaxlstm.state_jacobians(params, xs)[-1])[1] / 4
    np.testing.assert_allclose(jaxlstm.lyapunov(params, xs).sum(-1), volume, rtol=1e-6)


def test_what_is_forgotten_at_once_has_minus_infinity():
    params = jaxlstm.init(jax.random.key(0), jaxlstm.rnn, N, 2)
    params = params._replace(r=jnp.zeros_like(params.r))
    assert (jaxlstm.lyapunov(params, inputs(shape=(5, N))) == -jnp.inf).all()


def test_wrong_arguments():
    params = network(jaxlstm.gru)
    f = lambda params=params, **options: jaxlstm.lyapunov(params, inputs(), **options)
    refused(lambda: f(count=6), ValueError, ["at most 5", "got 6"])
    refused(lambda: f(count=0), ValueError, ["`count`"])
    refused(lambda: f(skip=7), ValueError, ["7 steps", "got 7"])
    refused(lambda: f(network(jaxlstm.gru, "bidirectional")), ValueError, ["one direction"])
