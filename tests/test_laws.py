"""Laws of a sequence: what holds for every cell, whoever wrote it.  Exporting a cell enrols it."""

import itertools
import math

import jax
import jax.numpy as jnp
import pytest

import jaxlstm
from networks import (
    LENGTHS,
    B,
    H,
    N,
    T,
    close,
    inputs,
    network,
    over_cells,
    over_kinds,
    pulled,
    some_mask,
    some_of,
    some_reset,
    some_state,
)

XS = inputs()


@over_kinds
def test_a_sequence_may_be_cut_anywhere(cell):
    params = network(cell, "stack")
    mask, reset = some_mask(), some_reset()
    run = jax.jit(jaxlstm.apply)
    ys, last = run(params, XS, mask=mask, reset=reset)
    for cut in (1, 4):
        a, s = run(params, XS[:cut], mask=mask[:cut], reset=reset[:cut])
        b, s = run(params, XS[cut:], s, mask=mask[cut:], reset=reset[cut:])
        close((jnp.concatenate([a, b]), s), (ys, last))


@over_cells
def test_step_by_step_is_the_same(cell):
    params = network(cell, "stack")
    mask, reset = some_mask(), some_reset()
    ys, last = jaxlstm.apply(params, XS, mask=mask, reset=reset)
    state, outs = None, []
    for t in range(T):
        y, state = jaxlstm.step(params, XS[t], state, mask=mask[t], reset=reset[t])
        outs.append(y)
    close((jnp.stack(outs), state), (ys, last))


@over_cells
def test_padding_is_invisible(cell):
    """Each row of a padded batch is what that sequence gives alone, in values and gradients."""
    params = network(cell, "bidirectional", layers=1)
    mask = jaxlstm.lengths_to_mask(LENGTHS, T)
    ys, last = jaxlstm.apply(params, XS, mask=mask)
    for row, n in enumerate(LENGTHS):
        y, s = jaxlstm.apply(params, XS[:n, row])
        close((ys[:n, row], jax.tree.map(lambda a, row=row: a[row], last)), (y, s))
        assert not ys[n:, row].any()


@over_cells
@pytest.mark.parametrize("junk", [jnp.nan, jnp.inf])
def test_what_stands_in_padding_changes_nothing(cell, junk):
    params = network(cell, "bidirectional", layers=1)
    mask = some_mask()
    filled = jnp.where(mask[..., None], XS, junk)
    got, (dparams, dxs) = pulled(params, filled, mask=mask)
    expected, (dparams2, dxs2) = pulled(params, XS, mask=mask)
    close((got, dparams, dxs), (expected, dparams2, dxs2))
    assert not dxs[~mask].any()
    assert all(jnp.isfinite(a).all() for a in jax.tree.leaves((got, dparams, dxs)))


@over_cells
def test_under_the_mask_the_state_is_kept(cell):
    params = network(cell)
    state = some_state(params)
    off = jnp.zeros((T, B), bool)
    ys, last = jaxlstm.apply(params, XS, state, mask=off)
    close(last, state)
    assert not ys.any()
    close(jaxlstm.apply(params, XS, state, mask=~off), jaxlstm.apply(params, XS, state))


@over_cells
def test_reset_is_a_new_sequence(cell):
    params = network(cell, "stack")
    state = some_state(params)
    reset = jnp.zeros((T, B), bool).at[4].set(True)
    ys, last = jaxlstm.apply(params, XS, state, reset=reset)
    before, _ = jaxlstm.apply(params, XS[:4], state)
    after, end = jaxlstm.apply(params, XS[4:])
    close((ys, last), (jnp.concatenate([before, after]), end))


@over_cells
def test_reset_comes_first_and_mask_after(cell):
    """A step that is both leaves the initial state, which the mask then keeps."""
    params = network(cell)
    state = some_state(params)
    at = jnp.zeros((3, B), bool).at[2].set(True)
    _, last = jaxlstm.apply(params, XS[:3], state, reset=at, mask=~at)
    close(last, params.initial_state((B,)))


@over_kinds
def test_rows_are_independent(cell):
    params = network(cell, "bidirectional", layers=1)
    mask, reset = some_mask(), some_reset()
    ys, last = jaxlstm.apply(params, XS, mask=mask, reset=reset)
    others = jnp.arange(B) != 1
    xs = jnp.where(others[None, :, None], 100.0 * inputs(9), XS)
    mask = jnp.where(others[None], some_mask(8), mask)
    reset = jnp.where(others[None], some_reset(7), reset)
    ys2, last2 = jaxlstm.apply(params, xs, mask=mask, reset=reset)
    row = lambda tree, axis: jax.tree.map(lambda a: jnp.take(a, 1, axis), tree)
    close((row(ys2, 1), row(last2, 0)), (row(ys, 1), row(last, 0)))


@over_kinds
def test_reverse_runs_time_from_the_end(cell):
    params = network(cell, "stack")
    mask, reset = some_mask(), some_reset()
    ys, last = jaxlstm.apply(params, XS, mask=mask, reset=reset, reverse=True)
    # An episode that starts at t in time ends there backwards: the next one starts a step later.
    ends = jnp.roll(reset[::-1], 1, 0).at[0].set(False)
    flipped = jaxlstm.apply(params, XS[::-1], mask=mask[::-1], reset=ends)
    close((ys, last), (flipped[0][::-1], flipped[1]))


@over_kinds
def test_bidirectional_is_two_runs(cell):
    params = network(cell, "bidirectional", layers=1)
    ys, (forward, backward) = jaxlstm.apply(params, XS)
    yf, sf = jaxlstm.apply(params.forward, XS)
    yb, sb = jaxlstm.apply(params.backward, XS, reverse=True)
    close((ys, forward, backward), (jnp.concatenate([yf, yb], -1), sf, sb))


def test_each_direction_continues_from_its_own_state():
    params = network(jaxlstm.lstm, "bidirectional", layers=1)
    _, state = jaxlstm.apply(params, XS)
    ys, (forward, backward) = jaxlstm.apply(params, XS, state)
    yf, sf = jaxlstm.apply(params.forward, XS, state.forward)
    yb, sb = jaxlstm.apply(params.backward, XS, state.backward, reverse=True)
    close((ys, forward, backward), (jnp.concatenate([yf, yb], -1), sf, sb))


@over_kinds
@pytest.mark.parametrize(
    ("arrangement", "length"),
    [
        pytest.param("layer", 1, marks=pytest.mark.slow),
        ("stack", True),
        pytest.param("bidirectional", 4, marks=pytest.mark.slow),
    ],
)
def test_checkpoint_changes_nothing(cell, arrangement, length):
    params = network(cell, arrangement)
    mask, reset = some_mask(), some_reset()
    expected = pulled(params, XS, mask=mask, reset=reset)
    close(pulled(params, XS, mask=mask, reset=reset, checkpoint=length), expected, rtol=1e-11)


@over_kinds
@pytest.mark.parametrize(
    ("time", "batch"),
    some_of([*itertools.product((0, 1, 3), ((), (2, 3), (0,)))], [(0, ()), (1, (0,)), (3, (2, 3))]),
)
def test_any_time_and_any_batch_axes(cell, time, batch):
    params = network(cell, "bidirectional", layers=1)
    xs = inputs(shape=(time, *batch, N))
    ys, last = jaxlstm.apply(params, xs)
    assert ys.shape[:-1] == (time, *batch)
    if 0 not in batch:
        flat = xs.reshape(time, math.prod(batch), N)
        ys2, last2 = jaxlstm.apply(params, flat)
        shaped = jax.tree.map(lambda a, b: b.reshape(a.shape), (ys, last), (ys2, last2))
        close((ys, last), shaped)
    if time == 0:
        close(last, params.initial_state(batch))


@over_cells
def test_size_one(cell):
    params = jaxlstm.init(jax.random.key(0), cell, 1, 1, layers=2, bidirectional=True)
    ys, _ = jaxlstm.apply(params, inputs(shape=(1, 1, 1)))
    assert ys.shape[:2] == (1, 1)
    assert jnp.isfinite(ys).all()


@over_kinds
def test_dtypes_are_kept_in_float32(cell):
    dtypes_are_kept(cell, jnp.float32)


@over_cells
def test_dtypes_are_kept_in_bfloat16(cell):
    dtypes_are_kept(cell, jnp.bfloat16)


def dtypes_are_kept(cell, dtype):
    """Outputs and gradients have the dtype of the weights; the state is never below float32."""
    params = network(cell, "bidirectional", dtype=dtype)
    mask, reset = some_mask(), some_reset()
    (ys, state), grads = jax.eval_shape(
        lambda p, x: pulled(p, x, mask=mask, reset=reset), params, inputs(dtype=dtype)
    )
    assert {a.dtype for a in jax.tree.leaves((ys, grads))} == {jnp.dtype(dtype)}
    assert {a.dtype for a in jax.tree.leaves(state)} == {jnp.dtype(jnp.float32)}


@over_kinds
def test_batch_may_come_first(cell):
    params = network(cell, "bidirectional", layers=1)
    mask, reset = some_mask(), some_reset()
    ys, last = jaxlstm.apply(params, XS, mask=mask, reset=reset)
    swapped = (a.swapaxes(0, 1) for a in (XS, mask, reset))
    xs, mask, reset = swapped
    ys2, last2 = jaxlstm.apply(params, xs, mask=mask, reset=reset, axis=1)
    close((ys2.swapaxes(0, 1), last2), (ys, last))


def test_widths_may_differ():
    params = jaxlstm.init(jax.random.key(0), jaxlstm.lstm, N, (6, H, 2), bidirectional=True)
    assert [p.forward.w.shape for p in params.layers] == [(N, 4, 6), (12, 4, H), (2 * H, 4, 2)]
    assert jaxlstm.apply(params, XS)[0].shape == (T, B, 4)
