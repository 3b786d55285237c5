"""Initial weights have the distributions that are documented."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxlstm
from jaxlstm import cells, initializers

KEY = jax.random.key(0)
SHAPE = (40, 3, 50)


def fits(sample, distribution):
    """The Kolmogorov-Smirnov test, with the seed fixed: it passes or fails for good."""
    assert stats.kstest(np.asarray(sample).ravel(), distribution.cdf, method="asymp").pvalue > 0.01


UNIFORM = {
    "hidden_uniform": 50**-0.5,
    "glorot": (6 / 90) ** 0.5,
    "glorot_joined": (6 / 190) ** 0.5,
    "symmetric_uniform": 1.0,
}
NORMAL = {
    "lecun": 40**-0.5,
    "standard_normal": 1.0,
    "small_normal": 0.001,
    "antisymmetric_normal": 50**-0.5,
}


@pytest.mark.parametrize("name", UNIFORM)
def test_uniform_ones(name):
    sample = getattr(initializers, name)(KEY, SHAPE, jnp.float64)
    fits(sample, stats.uniform(-UNIFORM[name], 2 * UNIFORM[name]))


@pytest.mark.parametrize("name", NORMAL)
def test_normal_ones(name):
    fits(getattr(initializers, name)(KEY, SHAPE, jnp.float64), stats.norm(0, NORMAL[name]))


@pytest.mark.parametrize("shape", [(5, 3, 4), (4, 3, 5), (1, 2, 1)], ids=str)
def test_the_numbers_are_those_of_jax(shape):
    """However they are sampled: a network of yesterday's seed is the same today."""
    n, g, h = shape
    limit = (6 / (n + h)) ** 0.5
    uniform = jax.random.uniform(KEY, shape, jnp.float32, -limit, limit)
    np.testing.assert_array_equal(initializers.glorot(KEY, shape, jnp.float32), uniform)
    normal = jax.random.normal(KEY, shape, jnp.float32)
    np.testing.assert_array_equal(initializers.standard_normal(KEY, shape, jnp.float32), normal)
    sample = jax.nn.initializers.orthogonal()
    each = jax.vmap(lambda k: sample(k, (n, h), jnp.float32), out_axes=1)(jax.random.split(KEY, g))
    np.testing.assert_allclose(initializers.orthogonal(KEY, shape, jnp.float32), each, rtol=1e-5)
    joined = sample(KEY, (n, g * h), jnp.float32).reshape(shape)
    got = initializers.orthogonal_joined(KEY, shape, jnp.float32)
    np.testing.assert_allclose(got, joined, rtol=1e-5)


def test_the_sum_of_two_biases_is_triangular():
    sample = initializers.hidden_uniform_sum(KEY, (30, 50), jnp.float64)
    fits(sample, stats.triang(0.5, -2 * 50**-0.5, 4 * 50**-0.5))


def test_orthogonal_ones():
    each = initializers.orthogonal(KEY, (50, 3, 50), jnp.float64)
    joined = initializers.orthogonal_joined(KEY, (50, 3, 50), jnp.float64).reshape(50, 150)
    for k in range(3):
        np.testing.assert_allclose(each[:, k].T @ each[:, k], np.eye(50), atol=1e-12)
    np.testing.assert_allclose(joined @ joined.T, np.eye(50), atol=1e-12)
    for matrix in initializers.orthogonal_stack(KEY, (2, 3, 8, 8), jnp.float64).reshape(6, 8, 8):
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(8), atol=1e-12)


def test_the_irnn_starts_as_a_sum_of_its_inputs():
    params = jaxlstm.init(KEY, jaxlstm.rnn_relu, 40, 50, scheme="irnn")
    assert jnp.array_equal(params.r[:, 0], jnp.eye(50))
    assert not params.b.any()
    fits(params.w, stats.norm(0, 0.001))


def test_forget_biases_by_cell_default():
    lstm = jaxlstm.init(KEY, jaxlstm.lstm, 3, 5)
    assert jnp.array_equal(lstm.b[1], jnp.ones(5))
    assert not lstm.b[jnp.array([0, 2, 3])].any()
    torch = jaxlstm.init(KEY, jaxlstm.lstm, 3, 5, scheme="torch")
    assert not (torch.b[1] > 0.9).any()
    for cell in (cells.layer_norm_lstm, cells.gate_norm_lstm):
        b = jaxlstm.init(KEY, cell, 3, 5).weights["b_z"]
        assert jnp.array_equal(b, lstm.b)
    cfn = jaxlstm.init(KEY, cells.cfn, 3, 5)
    assert jnp.array_equal(cfn.b[:2], jnp.stack([jnp.ones(5), -jnp.ones(5)]))


def test_chrono_spreads_memories_over_the_range():
    params = jaxlstm.init(KEY, jaxlstm.lstm, 3, 500, layers=2, bidirectional=True, scheme="irnn")
    for level in initializers.chrono(KEY, params, longest=100).layers:
        for layer in level:
            i, f = layer.b[0], layer.b[1]
            assert jnp.array_equal(i, -f)
            fits(jnp.exp(f), stats.uniform(1, 98))
            assert not layer.b[2:].any()
    gru = initializers.chrono(KEY, jaxlstm.init(KEY, jaxlstm.gru, 3, 5), 100, keep="z", write="")
    assert (gru.b[1] > 0).all()
    assert not gru.b[jnp.array([0, 2])].any()


def test_chrono_takes_letters_that_are_there():
    with pytest.raises(ValueError, match="letters of gates"):
        initializers.chrono(KEY, jaxlstm.init(KEY, jaxlstm.gru, 3, 5), 100)
    for longest in (2, float("inf")):
        with pytest.raises(ValueError, match="more than 2 steps"):
            initializers.chrono(KEY, jaxlstm.init(KEY, jaxlstm.lstm, 3, 5), longest)
    with pytest.raises(TypeError, match="must be a network"):
        initializers.chrono(KEY, jaxlstm.lstm, 100)


def test_the_lru_starts_on_a_ring():
    nu, theta, gamma = initializers.lru_ring(KEY, (3, 3000), jnp.float64)
    radius = jnp.exp(-jnp.exp(nu))
    fits(radius**2, stats.uniform(0.81, 0.999**2 - 0.81))
    fits(jnp.exp(theta), stats.uniform(0, 2 * np.pi))
    np.testing.assert_allclose(jnp.exp(gamma), jnp.sqrt(1 - radius**2), rtol=1e-10)


def test_griffin_starts_slow():
    decay = initializers.griffin_decay(KEY, (3000,), jnp.float64)
    fits(jax.nn.sigmoid(decay) ** 8, stats.uniform(0.9, 0.099))
