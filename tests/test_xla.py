"""What the compiler makes of it: compiled and not compiled are the same."""

import jax
import jax.numpy as jnp
import pytest

import jaxlstm
from networks import CELLS, close, inputs, network, normal_like, some_mask, some_reset

XS = inputs()
# One product of a step, or two.
NAMES = ("rnn", "lstm", "gru", "gru_reset_before")


def results(params, xs):
    """Outputs, last state and gradients, with mask and reset."""
    run = lambda *a: jaxlstm.apply(*a, mask=some_mask(), reset=some_reset())
    out, pull = jax.vjp(run, params, xs)
    return out, pull(normal_like(out))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_jit_is_no_jit(name):
    params = network(CELLS[name])
    compiled = jax.jit(results)(params, XS)
    with jax.disable_jit():
        close(compiled, results(params, XS))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_jit_of_an_ensemble_is_no_jit_of_each(name):
    networks = [network(CELLS[name], seed=seed) for seed in (0, 5)]
    ensemble = jax.tree.map(lambda *a: jnp.stack(a), *networks)
    compiled = jax.jit(jax.vmap(results, (0, None)))(ensemble, XS)
    with jax.disable_jit():
        for i, params in enumerate(networks):
            close(jax.tree.map(lambda a, i=i: a[i], compiled), results(params, XS))


# JAX 0.10.2 compiles a vmapped product that is summed at once to wrong numbers on CPU, for rows
# of 3 and many of them: https://github.com/jax-ml/jax/issues/39103.
ROWS = 16_385


def of_rows(x):
    return jax.vmap(lambda row: jnp.sum((jnp.eye(3) @ row) ** 2))(x)


def test_the_known_miscompile_is_where_it_is_known():
    """On 0.10.2 and CPU only; the test below shows that the library is right there."""
    x = jnp.zeros((ROWS, 3)).at[:, 0].set(jnp.arange(ROWS, dtype=float))
    wrong = float(jax.jit(of_rows)(x)[-1]) != (ROWS - 1) ** 2
    on_cpu = jax.default_backend() == "cpu"
    assert wrong == (on_cpu and jax.__version__ == "0.10.2")


@pytest.mark.parametrize("rows", ["batch", "vmap"])
def test_sums_over_many_rows_are_those_of_few(rows):
    """In the shape of that miscompile: width 3, as many rows, summed at once, all compiled."""
    params = jaxlstm.init(jax.random.key(0), jaxlstm.lstm, 3, 3)
    xs = inputs(shape=(2, ROWS, 3))
    outputs = lambda x: jaxlstm.apply(params, x)[0]
    run = outputs if rows == "batch" else jax.vmap(outputs, 1, 1)
    sums = jax.jit(lambda xs: jnp.sum(run(xs) ** 2, (0, 2)))
    some = jnp.array([0, 1, ROWS // 2, ROWS - 2, ROWS - 1])
    close(sums(xs)[some], sums(xs[:, some]))
