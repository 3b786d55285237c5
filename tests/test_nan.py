"""What was reset away changes nothing: no value and no gradient, NaN and inf included."""

import jax
import jax.numpy as jnp
import pytest

import jaxlstm
from networks import (
    B,
    T,
    close,
    inputs,
    network,
    normal_like,
    over_cells,
    over_kinds,
    some_of,
    some_state,
)

# Row 0 is masked until its reset, row 1 is reset at once, row 2 is masked whole and reset amid;
# backwards, an episode ends before the step that a reset stands at.
MASK = jnp.ones((T, B), bool).at[:2, 0].set(False).at[5, :].set(False).at[:, 2].set(False)
RESET = jnp.zeros((T, B), bool).at[2, 0].set(True).at[0, 1].set(True).at[4, 2].set(True)


def results(**options):
    @jax.jit
    def both(params, xs, state):
        out, pull = jax.vjp(lambda *a: jaxlstm.apply(*a, **options), params, xs, state)
        return out, pull(normal_like(out))

    return both


@pytest.mark.parametrize(
    ("implementation", "reverse"),
    some_of(
        [("associative", True), ("deferred", False), ("native", True), ("scan", False)],
        [("associative", True), ("deferred", False)],
    ),
)
@over_cells
def test_a_state_that_was_reset_away_changes_nothing(cell, implementation, reverse):
    changes_nothing(cell, implementation, reverse)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("implementation", "reverse"),
    [
        ("associative", False), ("deferred", True), ("native", False), ("scan", True),
        ("newton", False), ("newton", True),
    ],
)  # fmt: skip
@over_kinds
def test_nor_in_the_other_direction(cell, implementation, reverse):
    changes_nothing(cell, implementation, reverse)


def changes_nothing(cell, implementation, reverse):
    dtype = jnp.float32 if implementation == "native" else jnp.float64
    params = network(cell, dtype=dtype)
    xs = inputs(dtype=dtype)
    if jaxlstm.implementations(params, xs)[implementation] is not None:
        pytest.skip("it cannot run this cell")
    state = some_state(params)
    mask, reset = (MASK[::-1], jnp.roll(RESET[::-1], 1, 0)) if reverse else (MASK, RESET)
    gone = jnp.array([True, not reverse, True])
    rows = lambda a: jnp.broadcast_to(gone.reshape(B, *[1] * (a.ndim - 1)), a.shape)
    run = results(mask=mask, reset=reset, reverse=reverse, implementation=implementation)
    expected = run(params, xs, state)
    tight = {"rtol": 1e-5, "atol": 1e-6} if dtype == jnp.float32 else {}
    for junk in (jnp.nan, jnp.inf):
        bad = jax.tree.map(lambda a, junk=junk: jnp.where(rows(a), junk, a), state)
        got = run(params, xs, bad)
        close(got, expected, **tight)
        assert all(not d[gone].any() for d in jax.tree.leaves(got[1][2]))
