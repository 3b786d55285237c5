"""Linear cells over ten thousand steps of float32: the parallel way beside `scan`."""

import jax
import jax.numpy as jnp
import pytest

import jaxlstm
from networks import CELLS, N, inputs, normal_like

LINEAR = {k: c for k, c in CELLS.items() if type(c).__name__ == "Linear"}
BOUND = 2e-5  # of the largest number in each array; measured: 4e-6 at worst, the gradients of `lru`


def apart(a, b):
    """The largest difference in any array, relative to the largest number in it."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(jnp.abs(x - y).max() / jnp.abs(y).max()) for x, y in pairs)


@pytest.mark.slow
@pytest.mark.parametrize("name", LINEAR)
def test_ten_thousand_steps(name):
    """Values and gradients of both, from the default initialisation."""
    params = jaxlstm.init(jax.random.key(0), LINEAR[name], N, 4, dtype=jnp.float32)
    xs = inputs(shape=(10_000, 2, N), dtype=jnp.float32)

    def both(implementation):
        run = lambda p, x: jaxlstm.apply(p, x, implementation=implementation)
        out, pull = jax.vjp(jax.jit(run), params, xs)
        return out, pull(normal_like(out))

    assert apart(both("associative"), both("scan")) < BOUND
