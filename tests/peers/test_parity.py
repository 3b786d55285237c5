"""Random architectures and weights through every framework, and through ours."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlstm
from jaxlstm import convert

from . import runs

# framework -> what runs it, the converters, the cells it has, and whether it knows directions,
# layers without a bias, and biases that can be kept apart
CONVERTERS = {
    "torch": (convert.from_torch, convert.to_torch, {"sum_biases": False}),
    "keras": (convert.from_keras, convert.to_keras, {}),
    "linen": (convert.from_flax, convert.to_flax, {}),
    "nnx": (convert.from_flax, convert.to_flax, {}),
    "haiku": (convert.from_haiku, convert.to_haiku, {"sum_biases": False}),
    "equinox": (convert.from_equinox, convert.to_equinox, {}),
}
CELLS = {
    "torch": ("lstm", "projected_lstm", "gru", "rnn", "rnn_relu"),
    "keras": ("lstm", "lstm_variant", "gru", "gru_reset_before", "rnn", "rnn_relu"),
    "linen": ("lstm", "gru", "mgu_reset_after", "rnn", "rnn_relu"),
    "nnx": ("lstm", "gru", "rnn", "rnn_relu"),
    "haiku": ("lstm", "gru_reset_before", "rnn_relu"),
    "equinox": ("lstm", "gru"),
}
BOUNDS = {"float64": 1e-13, "float32": 1e-5}  # relative to the largest entry


def tasks():
    for framework, cells in CELLS.items():
        for cell in cells:
            for seed in range(3):
                rng = np.random.default_rng([seed, len(framework), len(cell)])
                directions = framework not in ("haiku", "equinox") and bool(seed % 2)
                unbiased = framework in ("torch", "keras", "equinox") and seed == 2
                sizes = [int(n) for n in rng.integers(2, 6, 2)]
                layers = 1 + seed if framework != "haiku" else 2 - seed % 2
                dtype = "float32" if framework == "keras" else "float64"
                task = runs.Task(cell, *sizes, layers, directions, not unbiased, seed, dtype)
                yield pytest.param(framework, task, id=f"{framework}-{cell}-{seed}")


def difference(ours, theirs):
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    return float(np.max(np.abs(ours - theirs)) / max(1.0, float(np.max(np.abs(theirs)))))


def layers(params):
    return jax.tree.leaves(params, is_leaf=lambda a: isinstance(a, jaxlstm.Layer))


def converters(framework, task):
    come, go, options = CONVERTERS[framework]
    if framework == "linen":  # `SimpleCell_0` and `SimpleCell_1` do not say their directions
        options = {**options, "bidirectional": task.bidirectional}
    cell = getattr(jaxlstm.cells, task.cell)
    if task.cell == "lstm_variant":
        hard = ("hard_sigmoid", 1 / 6, 0.5)
        cell = cell(gate=hard, candidate="softsign", output="softsign")
    order = {"prefix": [*modules]} if (modules := runs.run(framework, task).modules) else {}
    return functools.partial(come, cell=cell, **order, **options), functools.partial(go, **order)


@pytest.mark.parametrize(("framework", "task"), list(tasks()))
def test_outputs_states_and_gradients(framework, task, measured):
    come, _ = converters(framework, task)
    theirs = runs.run(framework, task)
    params = come(theirs.weights)

    def loss(params, xs):
        ys, state = jaxlstm.apply(params, xs)
        return jnp.sum(ys * task.cotangent), (ys, state)

    grad = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    (_, (ys, state)), (dparams, dxs) = grad(params, jnp.asarray(task.xs))
    found = [difference(ys, theirs.ys), difference(dxs, theirs.dxs)]
    states = [tuple(s) for s in jax.tree.leaves(state, is_leaf=lambda s: hasattr(s, "h"))]
    assert len(states) == len(theirs.states)
    found += [difference(a, b) for s, t in zip(states, theirs.states) for a, b in zip(s, t)]
    expected = come(theirs.gradients)
    for one, two in zip(layers(dparams), layers(expected), strict=True):
        for role in ("w", "r", "b"):
            a, b = getattr(one, role), getattr(two, role)
            assert (a is None) == (b is None)
            found += [] if a is None else [difference(a, b)]
        for name, a in (two.weights or {}).items():
            found.append(difference(one.weights[name], a))
        d = two.recurrent_bias
        if d is not None and framework != "haiku":  # Haiku's second bias is the constant 1
            kept = np.asarray(d).any(-1)
            found += [difference(a, b) for a, b in zip(one.recurrent_bias[kept], d[kept])]
    measured(framework, task.cell, task.dtype, max(found))
    assert max(found) < BOUNDS[task.dtype]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_tensors_as_they_are(dtype):
    import torch

    module = torch.nn.LSTM(3, 5, num_layers=2, bidirectional=True, dtype=getattr(torch, dtype))
    params = convert.from_torch(dict(module.named_parameters()))  # they ask for gradients
    wide = {k: v.double().numpy() for k, v in module.state_dict().items()}
    w = convert.from_torch(wide).layers[1].forward.w
    np.testing.assert_array_equal(params.layers[1].forward.w.astype(float), w)
    back = convert.to_torch(params)
    assert {str(a.dtype) for a in back.values()} == {dtype}
    module.load_state_dict({k: torch.tensor(a.astype("float64")) for k, a in back.items()})
    again = convert.from_torch(module.state_dict())
    jax.tree.map(np.testing.assert_array_equal, again, params)


@pytest.mark.parametrize(("framework", "task"), list(tasks()))
def test_there_and_back_changes_no_bit(framework, task):
    come, go = converters(framework, task)
    weights = runs.run(framework, task).weights
    params = come(weights)
    back = go(params, like=weights)
    assert jax.tree.structure(back) == jax.tree.structure(weights)
    jax.tree.map(np.testing.assert_array_equal, back, weights)
    again = come(back)
    assert jax.tree.structure(again) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, again, params)
