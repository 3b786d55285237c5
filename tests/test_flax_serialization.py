"""Networks, states and train states by `flax.serialization`."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import optax
import pytest

import jaxlstm
from jaxlstm import wrappers
from networks import B, N, T, close, inputs, network

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]
serialization = pytest.importorskip("flax.serialization")

NETWORKS = {
    "layer": lambda: network(jaxlstm.lstm),
    "no bias": lambda: network(jaxlstm.gru, bias=False),
    "stack": lambda: network(jaxlstm.gru, "stack", dropout=0.25),
    "bidirectional": lambda: network(jaxlstm.minlstm, "bidirectional"),
    "options": lambda: network(jaxlstm.cells.lstm_variant(clip=3.0)),
    "general": lambda: jaxlstm.Reverse(network(jaxlstm.cells.rhn(depth=3))),
    "wrappers": lambda: wrappers.zoneout(wrappers.learn_initial_state(network(jaxlstm.lstm)), 0.1),
    "tree": lambda: {"embed": jnp.ones((3, N)), "rnn": [network(jaxlstm.gru_reset_before)]},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_come_back(name):
    params = NETWORKS[name]()
    like = jax.tree.map(jnp.zeros_like, params)
    close(serialization.from_bytes(like, serialization.to_bytes(params)), params)
    state = serialization.to_state_dict(params)
    assert all(isinstance(a, jax.Array) for a in jax.tree.leaves(state))
    close(serialization.from_state_dict(like, state), params)


@pytest.mark.parametrize("name", ["layer", "stack", "bidirectional", "wrappers"])
def test_states_come_back(name):
    params = NETWORKS[name]()
    state = jaxlstm.apply(params, inputs(shape=(T, B, N)))[1]
    like = jax.tree.map(jnp.zeros_like, state)
    close(serialization.from_bytes(like, serialization.to_bytes(state)), state)


def test_a_train_state_goes_on():
    from flax.training.train_state import TrainState

    optimizer = optax.adamw(1e-2, mask=jaxlstm.decay_mask)
    grad = jax.grad(lambda p: (jaxlstm.apply(p, inputs())[0] ** 2).sum())

    def made(seed):
        return TrainState.create(
            apply_fn=jaxlstm.apply, params=network(jaxlstm.lstm, "stack", seed), tx=optimizer
        )

    step = lambda state: state.apply_gradients(grads=grad(state.params))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        one = step(made(0))
        again = serialization.from_bytes(made(1), serialization.to_bytes(one))
        close(step(again).params, step(one).params)
        assert again.step == one.step == 1


def test_another_architecture_is_refused():
    data = serialization.to_bytes(network(jaxlstm.cells.lstm_variant(clip=3.0)))
    for other in (jaxlstm.lstm, jaxlstm.cells.lstm_variant, jaxlstm.cells.lstm_variant(clip=2.0)):
        with pytest.raises(ValueError, match=r"cannot take the weights of.*clip=3.0"):
            serialization.from_bytes(network(other), data)
    data = serialization.to_bytes(network(jaxlstm.lstm, "stack", dropout=0.5))
    with pytest.raises(ValueError, match=r"Static\(value=0.25\).*0\.5"):
        serialization.from_bytes(network(jaxlstm.lstm, "stack", dropout=0.25), data)


FIRST = {
    "flax": "import flax.serialization, jaxlstm",
    "jaxlstm": "import jaxlstm, flax.serialization",
    "linen": "import jaxlstm.linen, flax.serialization",
    "in a function": "import jaxlstm\ndef f():\n    import flax.serialization\nf()\nimport flax",
}
SCRIPT = """
import jax
params = jaxlstm.init(jax.random.key(0), jaxlstm.lstm, 2, 3)
flax.serialization.from_bytes(params, flax.serialization.to_bytes(params))
"""


@pytest.mark.slow
@pytest.mark.parametrize("order", FIRST)
def test_in_any_order(order):
    subprocess.run([sys.executable, "-c", FIRST[order] + SCRIPT], check=True, timeout=300)


def test_flax_is_not_imported():
    script = "import sys, jax, jaxlstm, jaxlstm.convert; " + (
        "jaxlstm.init(jax.random.key(0), jaxlstm.lstm, 2, 3); assert 'flax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=300)
