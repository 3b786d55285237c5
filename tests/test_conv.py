"""Convolutional layers: any cell, with spatial axes that neither mask nor reset has."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlstm
from networks import B, H, N, T, close, inputs, normal_like, pulled, some_mask, some_reset

PLACES = {1: (6,), 2: (4, 5), 3: (3, 4, 2)}


def conv(cell, kernel, size=N, seed=0):
    params = jaxlstm.init_conv(jax.random.key(seed), cell, size, H, kernel)
    return jax.tree.map(lambda a, b: a + 0.1 * b, params, normal_like(params))


@pytest.mark.parametrize("name", ["lstm", "gru", "gru_reset_before", "peephole_lstm", "mingru"])
def test_a_kernel_of_one_is_a_layer_at_each_place(name):
    params = conv(getattr(jaxlstm, name), (1, 1))
    flat = lambda a: None if a is None else a.reshape(a.shape[2:])
    layer = jaxlstm.Layer(params.cell, flat(params.w), flat(params.r), *params[3:])
    xs = inputs(shape=(T, B, *PLACES[2], N))
    close(jaxlstm.apply(params, xs, reverse=True), jaxlstm.apply(layer, xs, reverse=True))


@pytest.mark.parametrize("space", [1, 2, 3])
def test_the_convolution_by_hand(space):
    """`u` at every place is the sum of what stands around it, zeros beyond the edges."""
    kernel = (3,) * space
    params = conv(jaxlstm.lstm, kernel)
    x = np.asarray(inputs(shape=(B, *PLACES[space], N)))
    padded = np.pad(x, [(0, 0), *[(1, 1)] * space, (0, 0)])
    expected = np.zeros((B, *PLACES[space], 4, H)) + np.asarray(params.b)
    for at in np.ndindex(*kernel):
        cut = tuple(slice(k, k + n) for k, n in zip(at, PLACES[space], strict=True))
        expected += np.einsum("...n,ngh->...gh", padded[:, *cut], np.asarray(params.w[at]))
    np.testing.assert_allclose(params.project(jnp.asarray(x)), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_mask_and_reset_have_no_space():
    params = jaxlstm.Stack((conv(jaxlstm.lstm, (3, 2)), conv(jaxlstm.gru, (2, 2), H)))
    xs = inputs(shape=(T, B, *PLACES[2], N))
    mask, reset = some_mask(), some_reset()
    ys, last = jaxlstm.apply(params, xs, mask=mask, reset=reset)
    junk = jnp.where(mask.reshape(T, B, 1, 1, 1), xs, jnp.nan)
    got, (dparams, dxs) = pulled(params, junk, mask=mask, reset=reset)
    close(got, (ys, last))
    assert all(jnp.isfinite(a).all() for a in jax.tree.leaves((dparams, dxs)))
    state = None
    for t in range(T):
        y, state = jaxlstm.step(params, xs[t], state, mask=mask[t], reset=reset[t])
        close(y, ys[t])
    alone = jaxlstm.apply(params, xs[:, 1], mask=mask[:, 1], reset=reset[:, 1])[0]
    close(alone, ys[:, 1])
    swapped = jaxlstm.apply(params, xs.swapaxes(0, 1), mask=mask.T, reset=reset.T, axis=1)[0]
    close(swapped.swapaxes(0, 1), ys)


def test_errors_name_the_axes_of_space():
    params = conv(jaxlstm.lstm, (3, 3))
    with pytest.raises(ValueError, match=r"\(time, \*batch, height, width, 4\)"):
        jaxlstm.apply(params, inputs(shape=(T, B, N)))
    xs = inputs(shape=(T, B, 2, 2, N))
    with pytest.raises(ValueError, match=r"`mask` must have the shape"):
        jaxlstm.apply(params, xs, mask=jnp.ones((T, B, 2, 2), bool))


@pytest.mark.parametrize("kernel", [(3,), (2, 3)])
def test_the_identity_stands_in_the_middle_of_the_kernel(kernel):
    """So that the IRNN starts as a sum over time at each place."""
    params = jaxlstm.init_conv(jax.random.key(0), jaxlstm.rnn_relu, N, H, kernel, scheme="irnn")
    xs = inputs(shape=(T, B, *PLACES[len(kernel)], N))
    ys, _ = jaxlstm.apply(params._replace(w=jnp.abs(params.w)), jnp.abs(xs))
    close(ys, jnp.cumsum(params._replace(w=jnp.abs(params.w)).project(jnp.abs(xs))[..., 0, :], 0))
