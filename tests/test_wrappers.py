"""Wrappers: rates, the same mask over time where promised, and no noise without a key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlstm
from jaxlstm import wrappers
from networks import (
    CELLS,
    B,
    H,
    N,
    T,
    close,
    inputs,
    network,
    normal_like,
    pulled,
    some_mask,
    some_of,
    some_reset,
)

XS = inputs()
KEY = jax.random.key(3)
MANY = inputs(shape=(2, 4000, N))
NOISY = {
    "zoneout": lambda p: wrappers.zoneout(p, 0.2, 0.4),
    "recurrent dropout": lambda p: wrappers.recurrent_dropout(p, 0.3),
    "recurrent noise": lambda p: wrappers.recurrent_noise(p, 0.3),
    "variational": lambda p: wrappers.variational_dropout(p, 0.2, 0.3, 0.4),
    "weight drop": lambda p: wrappers.weight_drop(p, 0.5),
    "all": lambda p: wrappers.variational_dropout(
        wrappers.zoneout(wrappers.recurrent_dropout(wrappers.weight_drop(p, 0.3), 0.2), 0.1), 0.2
    ),
}
QUIET = {
    "residual": lambda p: wrappers.residual(jaxlstm.init(KEY, jaxlstm.lstm, N, N)),
    "highway": lambda p: wrappers.highway(KEY, jaxlstm.init(KEY, jaxlstm.lstm, N, N)),
    "dense": wrappers.dense,
    "norm of inputs": lambda p: wrappers.layer_norm(p, "inputs"),
    "norm of outputs": wrappers.layer_norm,
    "clip": lambda p: wrappers.clip_gradient(p, 1e3),
    "initial": wrappers.learn_initial_state,
    "window": lambda p: wrappers.window(jaxlstm.init(KEY, jaxlstm.lstm, 2 * N, H), 2),
}
ALL = {**NOISY, **QUIET}


# Around a layer each, and around several layers but for those with a layer of their own.
OWN_LAYER = ("residual", "highway", "window")
AROUND = [(name, "layer") for name in ALL]
AROUND += [(name, "bidirectional") for name in ALL if name not in OWN_LAYER]
OFTEN = [("all", "layer"), ("dense", "bidirectional"), ("initial", "layer")]


@pytest.mark.parametrize(("name", "arrangement"), some_of(AROUND, [*OFTEN, ("highway", "layer")]))
def test_laws_of_every_wrapper(name, arrangement):
    """Padding is invisible, a cut changes nothing, without a key there is no noise."""
    params = ALL[name](network(jaxlstm.lstm, arrangement))
    params = jax.tree.map(lambda a, b: a + 0.1 * b, params, normal_like(params))
    mask, reset = some_mask(), some_reset()
    ys, last = jaxlstm.apply(params, XS, mask=mask, reset=reset)
    close(jaxlstm.apply(params, XS, mask=mask, reset=reset), (ys, last))
    junk = jnp.where(mask[..., None], XS, jnp.nan)
    got, (dparams, dxs) = pulled(params, junk, mask=mask, reset=reset)
    close(got, (ys, last))
    assert all(jnp.isfinite(a).all() for a in jax.tree.leaves((dparams, dxs)))
    assert not ys[~mask].any()
    close(jaxlstm.apply(params, XS, mask=mask, reset=reset, checkpoint=True), (ys, last))
    if arrangement == "layer":
        a, s = jaxlstm.apply(params, XS[:3], mask=mask[:3], reset=reset[:3])
        b, s = jaxlstm.apply(params, XS[3:], s, mask=mask[3:], reset=reset[3:])
        close((jnp.concatenate([a, b]), s), (ys, last))


@pytest.mark.parametrize("name", some_of(NOISY, ("recurrent dropout",)))
def test_noise_needs_a_key_and_is_the_key_s_own(name):
    layer = network(jaxlstm.lstm)
    params = NOISY[name](layer)
    run = lambda **options: jaxlstm.apply(params, XS, mask=some_mask(), **options)
    close(run(key=KEY), run(key=KEY))
    close(run(key=KEY, checkpoint=2), run(key=KEY))
    assert jnp.abs(run(key=KEY)[0] - run(key=jax.random.key(4))[0]).max() > 1e-3
    if name not in ("zoneout", "all"):  # which are an expectation then
        close(run(), jaxlstm.apply(layer, XS, mask=some_mask()))
    _, (dparams, dxs) = pulled(params, XS, key=KEY)
    assert all(jnp.abs(g).max() > 0 for g in jax.tree.leaves((dparams, dxs)))


def test_zoneout_keeps_units_at_its_rates():
    params = wrappers.zoneout(network(jaxlstm.lstm), 0.2, 0.4)
    layer, state = params.node, normal_like(params.initial_state((4000,)))
    u, noise = layer.project(MANY[0]), params.noise(KEY, (4000,))
    new = layer.step(state, u, layer.recur, None)
    got = params.step(state, u, layer.recur, noise)
    for old, now, mixed, rate in zip(state, new, got, (0.2, 0.4), strict=True):
        kept = mixed == old
        assert jnp.array_equal(mixed, jnp.where(kept, old, now))
        np.testing.assert_allclose(kept.mean(), rate, atol=4 * (0.25 / kept.size) ** 0.5)
    quiet = params.step(state, u, layer.recur, None)
    close(quiet.h, 0.2 * state.h + 0.8 * new.h)
    close(quiet.c, 0.4 * state.c + 0.6 * new.c)


def test_recurrent_dropout_drops_what_is_written_and_not_what_is_kept():
    rate = 0.3
    layer = network(jaxlstm.lstm)
    params = wrappers.recurrent_dropout(layer, rate)
    state, u = normal_like(params.initial_state((4000,))), layer.project(MANY[0])
    z = np.asarray(u + (state.h @ layer.r.reshape(H, -1)).reshape(u.shape))
    i, f, g, o = (z[:, k] for k in range(4))
    sigma = lambda a: 1 / (1 + np.exp(-a))
    got = params.step(state, u, params.recur, params.noise(KEY, (4000,)))
    written = (got.c - sigma(f) * state.c) / (sigma(i) * np.tanh(g))
    close(got.h, jnp.asarray(sigma(o)) * jnp.tanh(got.c))
    dropped = np.abs(written) < 1e-9
    np.testing.assert_allclose(written[~dropped], 1 / (1 - rate), rtol=1e-6)
    np.testing.assert_allclose(dropped.mean(), rate, atol=4 * (0.25 / dropped.size) ** 0.5)


@pytest.mark.parametrize(
    "cell",
    [jaxlstm.rnn, jaxlstm.gru, jaxlstm.cells.lstm_variant, jaxlstm.cells.ugrnn],
    ids=lambda cell: cell.name,
)
def test_recurrent_dropout_finds_the_candidate(cell):
    params = wrappers.recurrent_dropout(network(cell), 0.999)
    ys, _ = jaxlstm.apply(params, MANY[:, :5], key=KEY)
    assert (ys == 0).mean() > 0.9


def test_recurrent_dropout_of_what_is_not_there():
    for cell, gate in ((jaxlstm.lstm, "z"), (jaxlstm.lstm, ""), (jaxlstm.cells.nas, None)):
        with pytest.raises(ValueError, match="letter of a gate"):
            wrappers.recurrent_dropout(network(cell), 0.3, gate=gate)

    @jaxlstm.gated_cell("g", jaxlstm.HiddenState)
    def nameless(s, u, v):
        return (jnp.tanh(u[0] + v[0]),)

    params = wrappers.recurrent_dropout(network(nameless), 0.3)
    with pytest.raises(TypeError, match="have no tag"):
        jaxlstm.apply(params, XS, key=KEY)


def test_recurrent_noise_has_its_deviation_in_every_unit():
    """Without a recurrent product the leaky network is what went in: `h' = alpha (u + noise)`."""
    layer = network(jaxlstm.cells.ctrnn(alpha=0.5, activation="linear"))
    layer = layer._replace(r=jnp.zeros_like(layer.r))
    params = wrappers.recurrent_noise(layer, 0.3)
    noisy, quiet = (jaxlstm.apply(params, MANY[:1], key=key)[0] for key in (KEY, None))
    np.testing.assert_allclose((noisy - quiet).std((0, 1)), 0.5 * 0.3, rtol=0.05)
    np.testing.assert_allclose((noisy - quiet).mean((0, 1)), 0, atol=0.01)


@pytest.mark.parametrize("std", [-0.1, float("nan"), float("inf"), True])
def test_a_deviation_is_a_number(std):
    with pytest.raises(ValueError, match="`std` must be a number, 0 or more"):
        wrappers.recurrent_noise(network(jaxlstm.lstm), std)


def test_variational_masks_are_one_for_all_time():
    layer = network(jaxlstm.lstm)
    xs = jnp.broadcast_to(MANY[:1], (6, *MANY.shape[1:]))
    params = wrappers.variational_dropout(layer, outputs=0.4)
    ys, _ = jaxlstm.apply(params, xs, key=KEY)
    dropped = ys == 0
    assert (dropped == dropped[:1]).all()
    np.testing.assert_allclose(dropped[0].mean(), 0.4, atol=4 * (0.25 / dropped[0].size) ** 0.5)
    close(jnp.where(dropped, 0, jaxlstm.apply(layer, xs)[0] / 0.6), ys)
    params = wrappers.variational_dropout(layer, inputs=0.4)
    grads = jax.grad(lambda x: jnp.sum(jaxlstm.apply(params, x, key=KEY)[0]))(xs)
    assert ((grads == 0) == (grads == 0)[:1]).all()
    np.testing.assert_allclose((grads[0] == 0).mean(), 0.4, atol=0.02)


def test_variational_mask_of_the_state_stands_before_the_product_alone():
    layer = network(jaxlstm.gru)
    drawn = wrappers.variational_dropout(layer, states=0.5).sample(KEY, (B,))
    state, u = normal_like(layer.initial_state((B,))), layer.project(XS[0])
    got = drawn.step(state, u, drawn.recur, None)
    masked = state.h * drawn.mask
    v = (masked @ layer.r.reshape(H, -1)).reshape(B, 3, H) + layer.recurrent_bias[None]
    close(got, layer.step(state, u, lambda h, gates: v, None))
    assert set(np.unique(drawn.mask)) == {0.0, 2.0}


def test_weight_drop_is_one_draw_for_the_batch():
    layer = jaxlstm.init(KEY, jaxlstm.lstm, N, 50)
    dropped = wrappers.weight_drop(layer, 0.3).sample(KEY, (B,))
    gone = dropped.r == 0
    np.testing.assert_allclose(gone.mean(), 0.3, atol=4 * (0.25 / gone.size) ** 0.5)
    close(jnp.where(gone, 0, layer.r / 0.7), dropped.r)
    close(dropped._replace(r=layer.r), layer)


def test_skips_and_norms_by_hand():
    layer = jaxlstm.init(KEY, jaxlstm.lstm, N, N)
    ys = jaxlstm.apply(layer, XS)[0]
    close(jaxlstm.apply(wrappers.residual(layer), XS)[0], XS + ys)
    close(jaxlstm.apply(wrappers.dense(layer), XS)[0], jnp.concatenate([XS, ys], -1))
    node = wrappers.highway(jax.random.key(5), layer)
    t = jax.nn.sigmoid(XS @ node.gate - 1)
    close(jaxlstm.apply(node, XS)[0], t * ys + (1 - t) * XS)
    normed = jaxlstm.apply(wrappers.layer_norm(layer), XS)[0]
    np.testing.assert_allclose(normed.mean(-1), 0, atol=1e-12)
    before = (XS - XS.mean(-1, keepdims=True)) / jnp.sqrt(XS.var(-1, keepdims=True) + 1e-5)
    got = jaxlstm.apply(wrappers.layer_norm(layer, "inputs"), XS)[0]
    close(got, jaxlstm.apply(layer, before)[0], rtol=1e-10)
    with pytest.raises(ValueError, match="shape of the inputs"):
        jaxlstm.apply(wrappers.residual(network(jaxlstm.lstm)), XS)


@pytest.mark.parametrize("skip", [wrappers.residual, wrappers.dense])
def test_a_norm_around_a_skip_gives_nothing_under_the_mask(skip):
    node = wrappers.layer_norm(skip(jaxlstm.init(KEY, jaxlstm.lstm, N, N)), "inputs")
    node = node._replace(shift=jnp.ones(N))
    ys, _ = jaxlstm.apply(node, XS, mask=some_mask())
    assert not ys[~some_mask()].any()


def test_window_is_a_causal_convolution():
    layer = network(jaxlstm.cells.qrnn)._replace(w=normal_like(jnp.zeros((2 * N, 3, H))))
    past = jnp.concatenate([jnp.zeros((1, B, N)), XS[:-1]])
    expected = jaxlstm.apply(layer, jnp.concatenate([XS, past], -1))[0]
    close(jaxlstm.apply(wrappers.window(layer, 2), XS)[0], expected)
    mask = some_mask()  # what is masked out was never there, for the window too
    ys, _ = jaxlstm.apply(wrappers.window(layer, 2), XS, mask=mask)
    alone, _ = jaxlstm.apply(wrappers.window(layer, 2), XS[mask[:, 0], 0])
    close(ys[mask[:, 0], 0], alone)


def test_a_window_is_no_layer():
    """What wraps every layer leaves the inputs that a window keeps alone."""
    layer = jaxlstm.init(KEY, jaxlstm.lstm, 2 * N, H)
    for wrap in (*NOISY.values(), QUIET["clip"], QUIET["initial"]):
        leaf = jax.tree.leaves(wrap(wrappers.window(layer, 2)), is_leaf=is_delay)[0]
        assert is_delay(leaf)
    with pytest.raises(ValueError, match="`size` must be a whole number"):
        wrappers.window(layer, 0)


def is_delay(node):
    return type(node).__name__ == "Delay"


@pytest.mark.parametrize("name", ["weight drop", "variational"])
def test_what_drops_recurrent_products_needs_them(name):
    for cell in (jaxlstm.mingru, jaxlstm.cells.indrnn):
        with pytest.raises(TypeError, match="needs layers with recurrent weights"):
            NOISY[name](network(cell))


def test_a_wrapper_takes_a_network():
    for wrong in (jaxlstm.lstm, jnp.ones(3)):
        with pytest.raises(TypeError, match="takes a network"):
            wrappers.zoneout(wrong, 0.5)
    whole = (
        wrappers.residual, wrappers.dense, wrappers.layer_norm,
        lambda tree: wrappers.highway(KEY, tree), lambda tree: wrappers.window(tree, 2),
        lambda tree: wrappers.variational_dropout(tree, inputs=0.5),
    )  # fmt: skip
    for wrap in whole:
        for wrong in ({"rnn": network(jaxlstm.lstm)}, None):
            with pytest.raises(TypeError, match=r"takes a network.*got (a dict|None)"):
                wrap(wrong)


def test_highway_around_both_directions():
    both = jaxlstm.init(KEY, jaxlstm.lstm, 2 * H, H, bidirectional=True)
    node = wrappers.highway(KEY, both)
    xs = inputs(shape=(T, B, 2 * H))
    t = jax.nn.sigmoid(xs @ node.gate - 1)
    expected = t * jaxlstm.apply(both, xs)[0] + (1 - t) * xs
    close(jaxlstm.apply(node, xs)[0], expected)
    with pytest.raises(TypeError, match="`key` must be"):
        wrappers.highway(0, both)


def _around(params):
    return wrappers.variational_dropout(params, inputs=0.2, outputs=0.4)


NOISY_NETWORKS = {
    **{
        name: ("deferred", lambda wrap=wrap: wrap(network(jaxlstm.lstm, "stack")))
        for name, wrap in NOISY.items()
    },
    "both directions": (
        "deferred",
        lambda: _around(wrappers.weight_drop(network(jaxlstm.lstm, "bidirectional"), 0.5)),
    ),
    "around a window": (
        "associative",
        lambda: _around(wrappers.window(jaxlstm.init(KEY, jaxlstm.mingru, 2 * N, H), 2)),
    ),
    "around several": (
        "associative",
        lambda: _around(network(jaxlstm.mingru, layers=2, dropout=0.4)),
    ),
}


@pytest.mark.parametrize("name", some_of(NOISY_NETWORKS, ("around several",)))
def test_the_noise_is_the_same_whichever_implementation_runs(name):
    """Values and gradients; a wrapper does not hide a layer from the faster ones."""
    implementation, make = NOISY_NETWORKS[name]
    params = make()
    options = {"key": KEY, "mask": some_mask(), "reset": some_reset()}
    got, plain = (
        pulled(params, XS, implementation=implementations, **options)
        for implementations in ((implementation, "scan"), "scan")
    )
    close(got, plain)
    quiet = pulled(params, XS, implementation=(implementation, "scan"))
    assert jnp.abs(got[0][0] - quiet[0][0]).max() > 1e-3


def test_the_initial_state_is_learned_and_reset_to():
    params = wrappers.learn_initial_state(network(jaxlstm.lstm))
    params = params._replace(state=normal_like(params.state))
    start = jax.tree.map(lambda a: jnp.broadcast_to(a, (B, H)), params.state)
    close(jaxlstm.apply(params, XS), jaxlstm.apply(params.node, XS, start))
    reset = jnp.zeros((T, B), bool).at[3].set(True)
    ys, _ = jaxlstm.apply(params, XS, reset=reset)
    close(ys[3:], jaxlstm.apply(params, XS[3:])[0])


def test_gradients_are_bounded_at_each_step():
    layer = network(jaxlstm.rnn)
    params = wrappers.clip_gradient(layer, 0.01)
    close(jaxlstm.apply(params, XS), jaxlstm.apply(layer, XS))
    state = normal_like(layer.initial_state((B,)))
    loss = lambda s, p: 100.0 * jnp.sum(jaxlstm.apply(p, XS, s)[0])
    assert jnp.abs(jax.grad(loss)(state, params).h).max() == 0.01
    assert jnp.abs(jax.grad(loss)(state, layer).h).max() > 0.1


KNOWN = [("lstm", 0), ("lstm", 2), ("tau_gru", 0), ("tau_gru", 2), ("scrn", 2)]


@pytest.mark.parametrize(
    ("name", "batch", "steps"),
    [
        *((*known, 3) for known in KNOWN),
        *some_of([(*known, 1) for known in KNOWN], [("lstm", 2, 1)]),
        *some_of([(name, 2, 3) for name in CELLS if name not in ("lstm", "tau_gru", "scrn")], ()),
    ],
)
def test_gradients_are_bounded_where_tangents_are_known(name, batch, steps):
    """Without jit, tangents that are known to be zero are computed with at once."""
    cell = CELLS[name]
    params = wrappers.clip_gradient(network(cell), 1e3)
    xs = XS[:steps, :batch]
    state = params.initial_state((batch,))
    reset = jnp.ones((steps, batch), bool)

    def pulled(params):
        out, pull = jax.vjp(lambda *a: jaxlstm.apply(*a, reset=reset), params, xs, state)
        return pull(out)

    close(pulled(params), jax.jit(pulled)(params))


@pytest.mark.parametrize("limit", [0, -1.0, float("nan")])
def test_a_limit_is_positive(limit):
    with pytest.raises(ValueError, match="positive number"):
        wrappers.clip_gradient(network(jaxlstm.lstm), limit)


@pytest.mark.parametrize("rate", [1.0, -0.1])
def test_a_rate_is_a_probability(rate):
    with pytest.raises(ValueError, match="probability below 1"):
        wrappers.zoneout(network(jaxlstm.lstm), rate)
