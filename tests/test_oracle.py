"""Every exported cell against its equations, transcribed from the paper gate by gate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlstm
from jaxlstm import cells
from networks import CELLS, B, N, by_numpy, inputs, normal_like, some_of
from oracle import ORACLES, run

HARD = ("hard_sigmoid", 0.3, 0.4)
OPTIONS = {
    "rnn_variant": cells.rnn_variant(activation="softsign", clip=0.4),
    "lstm_variant": cells.lstm_variant(
        peephole=True, clip=0.7, cell_clip=0.3, gate=HARD, candidate="softsign", output="softsign"
    ),
    "coupled_input_lstm": cells.coupled_input_lstm(peephole=True, clip=0.5),
    "coupled_forget_lstm": cells.coupled_forget_lstm(peephole=True, cell_clip=0.2),
    "projected_lstm": cells.projected_lstm(projection=2, projection_clip=0.2, peephole=True),
    "gru_variant": cells.gru_variant(clip=0.5, gate=HARD),
    "gru_reset_before_variant": cells.gru_reset_before_variant(clip=0.5, gate=HARD),
    "rhn": cells.rhn(depth=3),
    "janet": cells.janet(beta=0.0),
    "slstm": cells.slstm(heads=2),
    "mlstm": cells.mlstm(heads=3, cap=2.0),
    "damped_average": cells.damped_average(order=3),
    "cornn": cells.cornn(step=0.5, frequency=0.4, damping=0.3),
    "antisymmetric_rnn": cells.antisymmetric_rnn(step=0.7, damping=0.3),
    "lem": cells.lem(step=0.6),
    "ctrnn": cells.ctrnn(alpha=0.6, activation="tanh"),
    "tau_gru": cells.tau_gru(delay=3, alpha=0.7, beta=1.3),
    "rg_lru": cells.rg_lru(c=3.0),
    "scrn": cells.scrn(alpha=0.4),
    "ran": cells.ran(activation="linear"),
    "gate_norm_lstm": cells.gate_norm_lstm(
        peephole=True, projection=2, projection_clip=0.2, cell_clip=0.3, epsilon=0.1
    ),
    "layer_norm_lstm": cells.layer_norm_lstm(epsilon=0.1),
}
TABLE = {**CELLS, **{f"{name} with options": cell for name, cell in OPTIONS.items()}}


def test_every_cell_has_an_oracle():
    assert {cell.name for cell in CELLS.values()} == set(ORACLES)


@pytest.mark.parametrize("name", TABLE)
def test_the_cell_is_its_equations(name):
    """From a random state, with weights of which none is zero or one."""
    scheme = by_numpy(np.random.default_rng(0))
    layer = jaxlstm.init(jax.random.key(0), TABLE[name], N, 6, scheme=scheme)
    noisy = lambda a, noise: jnp.asarray(np.asarray(a) + 0.5 * np.asarray(noise))
    layer = jax.tree.map(noisy, layer, normal_like(layer))
    xs = inputs()
    state = jax.tree.map(lambda a: 0.5 * np.asarray(a), normal_like(layer.initial_state((B,)), 7))
    if "n" in state._fields:  # a normaliser is positive
        state = state._replace(n=abs(state.n) + 0.1)
    ys, last = jaxlstm.apply(layer, xs, state)
    for row in range(B):
        start = [np.asarray(a[row]) for a in state]
        expected, end = run(layer, xs[:, row], start)
        np.testing.assert_allclose(ys[:, row], expected, rtol=1e-12, atol=1e-12)
        for a, b in zip(last, end, strict=True):
            np.testing.assert_allclose(a[row], b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("closed", some_of((-60.0, -200.0), (-200.0,)))
def test_the_slstm_starts_behind_a_closed_gate(closed):
    """In float32, where the exponential of what goes into the input gate is zero."""
    layer = jaxlstm.init(jax.random.key(0), cells.slstm, N, 6, dtype=jnp.float32)
    layer = layer._replace(b=layer.b.at[0].add(closed))
    xs = inputs(dtype=jnp.float32)
    ys, grads = jax.value_and_grad(lambda p: jaxlstm.apply(p, xs)[0].sum())(layer)
    assert jnp.isfinite(ys)
    assert all(jnp.isfinite(a).all() for a in jax.tree.leaves(grads))
    first = jaxlstm.apply(layer, xs[:1])[0]
    _, _, g, o = jnp.moveaxis(layer.project(xs[:1]), -2, 0)
    np.testing.assert_allclose(first, jax.nn.sigmoid(o) * jnp.tanh(g), rtol=1e-6)
