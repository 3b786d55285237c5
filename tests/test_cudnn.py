"""cuDNN's LSTM behind the door: what surrounds the kernel here, the kernel where there is a GPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import rnn

import jaxlstm
from jaxlstm._control import Controls
from jaxlstm._node import Plan, Problem
from jaxlstm._unroll import cudnn, scan
from networks import N, T, close, inputs, network, normal_like, some_mask, some_state

XS = inputs()


def reference(xs, h, c, weights, lengths, input_size, hidden_size, *rest):
    """JAX's own reference of the kernel, called as the kernel is."""
    assert rest == (1, 0.0, False, None)
    parts = rnn.unpack_lstm_weights(weights, input_size, hidden_size, 1, False)
    return rnn.lstm_ref(xs, h, c, *parts, lengths, input_size, hidden_size, 1, 0.0, False)


@pytest.fixture
def pretended(monkeypatch):
    """A GPU, float64 and the reference in the kernel's place."""
    monkeypatch.setattr(rnn, "lstm", reference)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jnp, "float32", jnp.float64)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("batch", [(), (3,), (3, 2)])
def test_what_surrounds_the_kernel_agrees_with_scan(pretended, batch, masked, reverse):
    layer = network(jaxlstm.lstm)
    xs, state = inputs(shape=(T, *batch, N)), some_state(layer, batch)
    mask = some_mask(shape=(T, *batch)) if masked else jnp.ones((T, *batch), bool)

    def results(run):
        def f(*args):
            node, xs, state = args
            initial = node.initial_state(batch)
            plan = Plan(reverse=reverse)
            ys, last = run(Problem(node, node, initial, state, xs, Controls(mask), plan))
            return jnp.where(mask[..., None], ys, 0.0), last

        out, pull = jax.vjp(f, layer, xs, state)
        return out, pull(normal_like(out))

    close(results(cudnn.run), results(scan.run))


@pytest.mark.parametrize(
    ("cell", "xs", "options", "reason"),
    [
        (jaxlstm.gru, XS, {}, "`jaxlstm.lstm` alone; this is gru"),
        (jaxlstm.lstm, XS, {}, "needs a GPU"),
    ],
)
def test_it_refuses_with_a_reason(cell, xs, options, reason):
    assert reason in jaxlstm.implementations(network(cell), xs, **options)["cudnn"]


@pytest.mark.parametrize(
    ("xs", "controls", "reason"),
    [
        (XS, Controls(), "runs in float32 alone; this is float64"),
        (XS.astype(np.float32), Controls(reset=some_mask()), "no resets"),
        (jnp.zeros((0, 3, N), np.float32), Controls(), "a step and a row at least"),
    ],
)
def test_it_refuses_on_a_gpu_too(monkeypatch, xs, controls, reason):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    layer = network(jaxlstm.lstm)
    state = layer.initial_state((3,))
    assert reason in cudnn.refusal(Problem(layer, layer, state, state, xs, controls, Plan()))


@pytest.mark.gpu
@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs a GPU")
@pytest.mark.parametrize(("precision", "bound"), [("highest", 1e-5), (None, 5e-3)])
def test_the_kernel_agrees_with_scan(precision, bound):
    layer = jax.tree.map(lambda a: a.astype(np.float32), network(jaxlstm.lstm))
    xs, mask = XS.astype(np.float32), some_mask()

    def results(name, precision):
        options = {"mask": mask, "implementation": name, "precision": precision}
        out, pull = jax.vjp(lambda p, x: jaxlstm.apply(p, x, **options), layer, xs)
        return out, pull(normal_like(out))

    close(results("cudnn", precision), results("scan", "highest"), bound, bound)
