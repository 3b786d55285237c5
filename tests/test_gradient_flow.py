"""`gradient_flow` and `state_jacobians`, beside finite differences and `jax.jacobian` by hand."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import jaxlstm
from networks import (
    B,
    H,
    N,
    T,
    close,
    inputs,
    network,
    normal_like,
    over_cells,
    over_kinds,
    some_mask,
    some_reset,
)

XS = inputs()
OPTIONS = {"mask": some_mask(), "reset": some_reset()}
TARGET = inputs(9, (T, B, 1))


def loss(ys):
    return jnp.sum(jnp.sin(ys) * jnp.broadcast_to(TARGET, ys.shape))


def after(params, xs, t, **options):
    """The loss of what follows step `t`, as a function of the state there: by cutting."""
    rest = {k: v[t + 1 :] for k, v in options.items()}

    def value(s):
        h = s[0] if isinstance(s, jaxlstm.HiddenState | jaxlstm.LSTMState) else s[-1][0]
        now = options["mask"][t][:, None] if options else jnp.ones((B, 1), bool)
        first = jnp.where(now, h, 0)[None]
        ys = (
            first
            if t == T - 1
            else jnp.concatenate([first, jaxlstm.apply(params, xs[t + 1 :], s, **rest)[0]])
        )
        scale = jnp.broadcast_to(TARGET[t:], ys.shape)
        return jnp.sum(jnp.sin(ys) * scale)

    return value


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cell", "options"),
    [
        pytest.param(jaxlstm.rnn, {}, id="rnn"),
        pytest.param(jaxlstm.lstm, OPTIONS, id="lstm, mask and reset"),
        pytest.param(jaxlstm.rnn, OPTIONS, id="rnn, mask and reset"),
        pytest.param(jaxlstm.lstm, {}, id="lstm"),
        pytest.param(jaxlstm.gru, {}, id="gru"),
        pytest.param(jaxlstm.gru, OPTIONS, id="gru, mask and reset"),
    ],
)
def test_the_flow_is_the_gradient_of_what_follows(cell, options):
    params = network(cell)
    flow = jaxlstm.gradient_flow(params, XS, loss, **options)
    _, _, seen = jaxlstm.record(params, XS, **options)
    for t in range(T):
        at = jax.tree.map(lambda a, t=t: a[t], seen.states)
        value = after(params, XS, t, **options)
        gradient = jax.grad(value)(at)
        close(
            jax.tree.map(lambda a, t=t: a[t], flow),
            jax.tree.map(lambda a: jnp.linalg.norm(a, axis=-1), gradient),
        )


def test_the_flow_is_what_finite_differences_say():
    params = network(jaxlstm.lstm)
    flow = jaxlstm.gradient_flow(params, XS, loss)
    _, _, seen = jaxlstm.record(params, XS)
    t, eps = 2, 1e-6
    value = jax.jit(after(params, XS, t))
    at = jax.tree.map(lambda a: a[t], seen.states)
    for field in ("h", "c"):
        gradients = np.zeros((B, H))
        for row, unit in np.ndindex(B, H):
            ends = [
                value(at._replace(**{field: getattr(at, field).at[row, unit].add(e)}))
                for e in (eps, -eps)
            ]
            gradients[row, unit] = (ends[0] - ends[1]) / (2 * eps)
        by_hand = np.linalg.norm(gradients, axis=-1)
        np.testing.assert_allclose(getattr(flow, field)[t], by_hand, rtol=1e-7)


@pytest.mark.slow
def test_every_layer_and_direction():
    """In a stack, the flow of the lower layer goes through the upper one too."""
    params = network(jaxlstm.gru, "stack")
    flow = jaxlstm.gradient_flow(params, XS, loss)
    t = 3
    state = jaxlstm.apply(params, XS[: t + 1])[1]

    def value(lower, upper):
        """A push to the lower state after step `t` reaches the upper layer in step `t` too."""
        y, moved = jaxlstm.step(params.layers[1], lower.h, upper)
        rest, _ = jaxlstm.apply(params, XS[t + 1 :], (lower, moved))
        ys = jnp.concatenate([y[None], rest])
        return jnp.sum(jnp.sin(ys) * jnp.broadcast_to(TARGET[t:], ys.shape))

    before = jaxlstm.apply(params, XS[:t])[1]
    gradient = jax.grad(value)(state[0], before[1]).h
    close(flow.layers[0].h[t], jnp.linalg.norm(gradient, axis=-1))

    both = network(jaxlstm.lstm, "bidirectional", layers=1)
    flow = jaxlstm.gradient_flow(both, XS, loss)
    half = jaxlstm.gradient_flow(both.backward, XS, loss, reverse=True)
    close(flow.backward, half)


@over_cells
def test_every_cell_has_a_flow(cell):
    params = network(cell, "bidirectional", layers=1)
    states = [*jaxlstm.gradient_flow(params, XS, loss, **OPTIONS)]
    for norms in jax.tree.leaves(states):
        assert norms.shape == (T, B)
        assert jnp.isfinite(norms).all()
    for field in zip(*states, strict=True):  # the normaliser of one mlstm stays below its bound
        assert any((norms > 0).any() for norms in field)


def test_under_jit_vmap_and_another_axis():
    params = network(jaxlstm.lstm)
    flow = jaxlstm.gradient_flow(params, XS, loss)
    close(jax.jit(lambda p: jaxlstm.gradient_flow(p, XS, loss))(params), flow)
    swap = lambda a: jnp.moveaxis(a, 0, 1)
    other = jaxlstm.gradient_flow(params, swap(XS), lambda ys: loss(swap(ys)), axis=1)
    close(other, jax.tree.map(swap, flow))
    last = lambda ys: ys[-1].sum()
    rows = jax.vmap(lambda x: jaxlstm.gradient_flow(params, x, last), 1, 1)(XS)
    close(rows, jaxlstm.gradient_flow(params, XS, last))


@pytest.mark.slow
def test_the_flow_has_a_gradient_where_it_is_zero():
    """As under a mask, and in the last memory cell, from which nothing follows."""
    params = network(jaxlstm.lstm, "bidirectional", layers=1)

    @jax.jit
    def flow(params):
        norms = jaxlstm.gradient_flow(params, XS, loss, **OPTIONS)
        return sum(a.sum() for a in jax.tree.leaves(norms))

    gradients = jax.jit(jax.grad(flow))(params)
    along = normal_like(params)
    moved = lambda e: flow(jax.tree.map(lambda a, d: a + e * d, params, along))
    by_grad = sum(jnp.vdot(*pair) for pair in zip(*map(jax.tree.leaves, (gradients, along))))
    np.testing.assert_allclose(by_grad, (moved(1e-6) - moved(-1e-6)) / 2e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda ys: ys[-1], r"shape \(3, 5\)"),
        (lambda ys: ys.sum().astype(complex), "complex"),
        (lambda ys: (ys.sum(), ys), "got a tuple"),
        (lambda ys: None, "got None"),
    ],
)
def test_a_loss_must_be_a_number(loss, message):
    with pytest.raises(ValueError, match=f"one real number; .*{message}"):
        jaxlstm.gradient_flow(network(jaxlstm.rnn), XS, loss)


def test_a_loss_must_be_a_function():
    jaxtyping.config.update("jaxtyping_disable", True)  # whose error would come first
    try:
        with pytest.raises(TypeError, match=r"function of the outputs.*got a float"):
            jaxlstm.gradient_flow(network(jaxlstm.rnn), XS, 1.0)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.slow
def test_convolutions_have_one_norm_for_a_row_and_one_jacobian():
    params = jaxlstm.init_conv(jax.random.key(0), jaxlstm.lstm, 2, 3, kernel=(3,))
    xs = inputs(2, (T, B, 4, 2))
    flow = jaxlstm.gradient_flow(params, xs, lambda ys: jnp.sum(ys**2))
    last = 2 * jaxlstm.apply(params, xs)[0][-1]
    assert flow.h.shape == flow.c.shape == (T, B)
    close(flow.h[-1], jnp.linalg.norm(last.reshape(B, -1), axis=-1))
    products = jaxlstm.state_jacobians(params, xs)
    assert products.shape == (T, B, 2 * 4 * 3, 2 * 4 * 3)
    flat, unravel = jax.flatten_util.ravel_pytree(params.initial_state((4,)))
    end = lambda s: jax.flatten_util.ravel_pytree(jaxlstm.apply(params, xs[:, 1], unravel(s))[1])[0]
    close(products[-1, 1], jax.jacrev(end)(flat))


@over_kinds
def test_the_jacobians_are_those_of_apply(cell):
    params = network(cell)
    products = jaxlstm.state_jacobians(params, XS)
    flat, unravel = jax.flatten_util.ravel_pytree(
        jax.tree.map(lambda a: a[0], params.initial_state((B,)))
    )

    def last(flat, t):
        return jax.flatten_util.ravel_pytree(
            jaxlstm.apply(params, XS[: t + 1, 1], unravel(flat))[1]
        )[0]

    for t in (0, T - 1):
        close(products[t, 1], jax.jacrev(last)(flat, t))


@pytest.mark.slow
def test_the_jacobians_multiply_and_stop_at_a_reset():
    params = network(jaxlstm.lstm, "stack")
    cut = 3
    state = jaxlstm.apply(params, XS[:cut])[1]
    first = jaxlstm.state_jacobians(params, XS[:cut])[-1]
    then = jaxlstm.state_jacobians(params, XS[cut:], state)[-1]
    close(jaxlstm.state_jacobians(params, XS)[-1], then @ first, rtol=1e-11)
    stopped = jnp.zeros((T, B), bool).at[cut, 0].set(True)
    products = jaxlstm.state_jacobians(params, XS, reset=stopped)
    assert not products[cut:, 0].any()
    assert products[cut - 1, 0].any()
    held = jaxlstm.state_jacobians(params, XS, mask=jnp.zeros((T, B), bool))
    close(held, jnp.broadcast_to(jnp.eye(4 * H), held.shape))


def test_the_jacobian_of_an_rnn_by_hand():
    """`J_t = prod diag(1 - h^2) R`."""
    params = network(jaxlstm.rnn)
    _, _, seen = jaxlstm.record(params, XS)
    product = np.eye(H)
    for h in np.asarray(seen.states.h[:, 0]):
        product = np.diag(1 - h**2) @ np.asarray(params.r[:, 0]).T @ product
    np.testing.assert_allclose(jaxlstm.state_jacobians(params, XS)[-1, 0], product, rtol=1e-11)


def test_two_directions_have_no_jacobian():
    with pytest.raises(ValueError, match="bidirectional"):
        jaxlstm.state_jacobians(network(jaxlstm.rnn, "bidirectional"), XS)


def test_inputs_of_no_batch():
    params = network(jaxlstm.gru)
    flow = jaxlstm.gradient_flow(params, XS[:, 0], lambda ys: ys[-1].sum())
    assert flow.h.shape == (T,)
    assert jaxlstm.state_jacobians(params, XS[:, 0, :N]).shape == (T, H, H)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_what_vanishes_or_explodes_beyond_the_squares_of_float32(scale):
    params = jaxlstm.init(jax.random.key(0), jaxlstm.lstm, N, H, dtype=jnp.float32)
    xs = inputs(dtype=jnp.float32)
    scale = jnp.float32(scale)
    flow = lambda scale: jaxlstm.gradient_flow(params, xs, lambda ys: ys[-1].sum() * scale)
    got, expected = flow(scale), flow(jnp.float32(1))
    close(got, jax.tree.map(lambda a: a * scale, expected), rtol=1e-5, atol=0)


def test_a_gradient_that_is_no_number_is_shown_as_such():
    params = jaxlstm.init(jax.random.key(0), jaxlstm.rnn, N, H)
    flow = lambda scale: jaxlstm.gradient_flow(params, inputs(), lambda ys: ys.sum() * scale)
    assert jnp.isnan(flow(jnp.nan).h).all()
    endless = flow(jnp.inf).h
    assert jnp.isinf(endless[-1]).all()
    assert not jnp.isfinite(endless).any()
