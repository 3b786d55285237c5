"""Every argument of every recurrent constructor: who says it here, and that none is unknown.

`read`: the weights show it.  `argument`: they do not, and an argument of the converter says it.
`call`: it is of a call here, of `apply` or `step`.  `start`: it draws weights that are replaced.
`train`: it acts in training alone (a wrapper, a loss, a key).  `none`: it computes another thing,
has no place in the weights, and the page on conversions says what to do.
"""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlstm
from jaxlstm import convert

TORCH = {
    "mode": "read", "input_size": "read", "hidden_size": "read", "num_layers": "read",
    "bias": "read", "batch_first": "call", "dropout": "train", "bidirectional": "read",
    "proj_size": "read", "device": "call", "dtype": "read", "nonlinearity": "argument",
}  # fmt: skip
KERAS = {
    "units": "read", "activation": "argument", "recurrent_activation": "argument",
    "use_bias": "read",
    "kernel_initializer": "start", "recurrent_initializer": "start", "bias_initializer": "start",
    "unit_forget_bias": "start", "kernel_regularizer": "train", "recurrent_regularizer": "train",
    "bias_regularizer": "train", "activity_regularizer": "train", "kernel_constraint": "train",
    "recurrent_constraint": "train", "bias_constraint": "train", "dropout": "train",
    "recurrent_dropout": "train", "seed": "train", "return_sequences": "call",
    "return_state": "call", "go_backwards": "call", "stateful": "call", "unroll": "call",
    "reset_after": "argument", "use_cudnn": "call", "zero_output_for_mask": "call", "cell": "read",
    "cells": "read", "layer": "read", "backward_layer": "read", "weights": "start",
    "merge_mode": "none", "kwargs": "call",
}  # fmt: skip
FLAX = {
    "features": "read", "in_features": "read", "hidden_features": "read", "gate_fn": "argument",
    "activation_fn": "argument", "kernel_init": "start", "recurrent_kernel_init": "start",
    "bias_init": "start", "forget_bias_init": "start", "activation_bias_init": "start",
    "dtype": "call", "param_dtype": "read", "promote_dtype": "call", "carry_init": "call",
    "keep_rngs": "call", "rngs": "call", "kernel_metadata": "call", "bias_metadata": "call",
    "recurrent_kernel_metadata": "call", "reset_gate": "read", "residual": "none",
    "cell": "read", "time_major": "call", "return_carry": "call", "reverse": "call",
    "keep_order": "call", "unroll": "call", "variable_axes": "call", "variable_broadcast": "call",
    "variable_carry": "call", "split_rngs": "call", "state_axes": "call", "broadcast_rngs": "call",
    "forward_rnn": "read", "backward_rnn": "read", "merge_fn": "none", "parent": "call",
    "name": "call",
}  # fmt: skip
HAIKU = {
    "hidden_size": "read", "double_bias": "read", "w_i_init": "start", "w_h_init": "start",
    "b_init": "start", "layers": "argument", "core": "call", "name": "argument",
}  # fmt: skip
EQUINOX = {
    "input_size": "read", "hidden_size": "read", "use_bias": "read", "dtype": "read",
    "key": "start",
}  # fmt: skip


def arguments(kind):
    return {*inspect.signature(kind.__init__).parameters} - {"self", "args"}


def kinds(framework):
    if framework == "torch":
        nn = pytest.importorskip("torch.nn")
        return [nn.modules.rnn.RNNBase, nn.LSTMCell, nn.GRUCell, nn.RNNCell], TORCH
    if framework == "keras":
        layers = pytest.importorskip("keras.layers")
        names = ("LSTM", "GRU", "SimpleRNN", "LSTMCell", "GRUCell", "SimpleRNNCell", "RNN")
        names += ("StackedRNNCells", "Bidirectional")
        return [getattr(layers, name) for name in names], KERAS
    if framework in ("linen", "nnx"):
        flax = pytest.importorskip(f"flax.{framework}")
        names = ("LSTMCell", "OptimizedLSTMCell", "GRUCell", "SimpleCell", "RNN", "Bidirectional")
        names += ("MGUCell",) if framework == "linen" else ()
        return [getattr(flax, name) for name in names], FLAX
    if framework == "haiku":
        hk = pytest.importorskip("haiku")
        return [hk.LSTM, hk.GRU, hk.VanillaRNN, hk.DeepRNN, hk.ResetCore], HAIKU
    nn = pytest.importorskip("equinox.nn")
    return [nn.LSTMCell, nn.GRUCell], EQUINOX


@pytest.mark.parametrize("framework", ["torch", "keras", "linen", "nnx", "haiku", "equinox"])
def test_no_argument_is_unknown(framework):
    found, known = kinds(framework)
    unknown = {f"{kind.__name__}({name})" for kind in found for name in arguments(kind) - {*known}}
    assert not unknown
    assert {*known.values()} <= {"read", "argument", "call", "start", "train", "none"}


XS = np.random.default_rng(0).normal(size=(2, 6, 3)).astype("float32")


def close(params, expected, **options):
    ys, _ = jaxlstm.apply(params, jnp.asarray(XS), axis=1, **options)
    np.testing.assert_allclose(ys, np.asarray(expected), rtol=1e-5, atol=1e-6)


def drawn(tree):
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda a: rng.normal(size=np.shape(a)).astype("float32") / 2, tree)


def altered(torch, how):
    utils, prune = torch.nn.utils, pytest.importorskip("torch.nn.utils.prune")
    module, name = torch.nn.LSTM(3, 4, batch_first=True), "weight_hh_l0"
    plain = utils.parametrize.remove_parametrizations
    ways = {
        "weight_norm": (utils.weight_norm, utils.remove_weight_norm),
        "spectral_norm": (utils.spectral_norm, utils.remove_spectral_norm),
        "weight_norm again": (utils.parametrizations.weight_norm, plain),
        "spectral_norm again": (utils.parametrizations.spectral_norm, plain),
        "orthogonal": (utils.parametrizations.orthogonal, plain),
        "prune": (lambda m, n: prune.l1_unstructured(m, n, 0.5), prune.remove),
    }
    do, undo = ways[how]
    return do(module, name), lambda m: undo(m, name)


KINDS = ["weight_norm", "spectral_norm", "weight_norm again", "spectral_norm again"]


@pytest.mark.parametrize("how", [*KINDS, "orthogonal", "prune"])
def test_the_advice_on_altered_modules_helps(how):
    torch = pytest.importorskip("torch")
    module, undo = altered(torch, how)
    with pytest.raises(ValueError, match=r"remove.*'weight_hh_l0'"):
        convert.from_torch(module.state_dict())
    module(torch.from_numpy(XS))
    undo(module)
    close(convert.from_torch(module.state_dict()), module(torch.from_numpy(XS))[0].detach())


def test_the_advice_on_quantised_modules_helps():
    torch = pytest.importorskip("torch")
    whole = torch.nn.Sequential(torch.nn.LSTM(3, 4, batch_first=True, bidirectional=True))
    kinds = {torch.nn.LSTM}
    q = torch.ao.quantization.quantize_dynamic(whole, kinds, dtype=torch.qint8)[0]
    with pytest.raises(ValueError, match="dynamically quantised"):
        convert.from_torch(q.state_dict())
    weights = {k: w.dequantize() for k, w in q.get_weight().items()} | q.get_bias()
    ys, _ = jaxlstm.apply(convert.from_torch(weights), jnp.asarray(XS), axis=1)
    expected = q(torch.from_numpy(XS))[0].detach().numpy()
    assert np.abs(ys - expected).max() < 0.03  # its inputs are rounded to 8 bits as well
    with pytest.raises(TypeError, match="dequantize"):
        convert.from_torch({**q.get_weight(), **q.get_bias()})


def test_torch_loads_what_it_is_given():
    torch = pytest.importorskip("torch")
    nn = torch.nn
    make = lambda: nn.ModuleDict(
        {"rnn": nn.LSTM(3, 4, 2, bidirectional=True, batch_first=True), "norm": nn.BatchNorm1d(8)}
    )
    one, two = make(), make()
    params = convert.from_torch(one.state_dict(), prefix="rnn")
    like = two.state_dict()
    back = convert.to_torch(params, prefix="rnn", like=like)
    assert type(back) is type(like)
    assert back._metadata == like._metadata
    two.load_state_dict(back)
    close(params, two["rnn"](torch.from_numpy(XS))[0].detach())
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        half = nn.LSTM(3, 4, dtype=dtype)
        given = convert.from_torch(half.state_dict(), sum_biases=False)
        back = convert.to_torch(given, like=nn.LSTM(3, 4, dtype=dtype).state_dict())
        assert all(torch.equal(a, half.state_dict()[k]) for k, a in back.items())


@pytest.mark.parametrize("framework", ["torch", "keras", "linen", "nnx", "haiku", "transformed"])
def test_a_module_in_place_of_its_weights(framework):
    def made():
        if framework == "torch":
            return convert.from_torch, pytest.importorskip("torch").nn.LSTM(3, 4)
        if framework == "keras":
            return convert.from_keras, pytest.importorskip("keras").layers.LSTM(4)
        if framework == "linen":
            return convert.from_flax, pytest.importorskip("flax.linen").LSTMCell(4)
        if framework == "nnx":
            nnx = pytest.importorskip("flax.nnx")
            return convert.from_flax, nnx.LSTMCell(3, 4, rngs=nnx.Rngs(0))
        hk = pytest.importorskip("haiku")
        if framework == "transformed":
            return convert.from_haiku, hk.transform(lambda x: x)
        found = []
        hk.transform(lambda: found.append(hk.LSTM(4))).init(jax.random.key(0))
        return convert.from_haiku, found[0]

    come, module = made()
    with pytest.raises(TypeError, match=r"must be a mapping; got a.* pass "):
        come(module)


def test_files_of_keras(tmp_path):
    keras, h5py = pytest.importorskip("keras"), pytest.importorskip("h5py")
    layers = keras.layers
    with jax.enable_x64(False):
        model = keras.Sequential(
            [
                keras.Input((6, 3)),
                layers.LSTM(4, return_sequences=True, dropout=0.1, name="one"),
                layers.Bidirectional(layers.GRU(4, return_sequences=True), name="two"),
                layers.RNN([layers.LSTMCell(4), layers.LSTMCell(5)], True, name="three"),
                layers.SimpleRNN(4, return_sequences=True, name="backward_lm"),
            ]
        )
        model.compile("adam", "mse")
        for w in model.weights:
            w.assign(drawn(np.asarray(w)))
        model.save_weights(tmp_path / "a.weights.h5")
        model.save(tmp_path / "b.h5")
        expected = np.asarray(model(XS))
        names = ["one", "two", "three", "backward_lm"]
        paths = {w.path: np.asarray(w) for w in model.weights}
        paths |= {v.path: np.asarray(v) for v in model.variables if "seed" in v.path}
        with pytest.raises(ValueError, match="do not say which layer comes first"):
            convert.from_keras(paths)
        close(convert.from_keras(paths, prefix=[f"{model.name}/{n}" for n in names]), expected)
        places = [f"layers/{n}" for n in ("lstm", "bidirectional", "rnn", "simple_rnn")]
        with h5py.File(tmp_path / "a.weights.h5") as file:
            close(convert.from_keras(file, prefix=places), expected)
        with h5py.File(tmp_path / "b.h5") as file:
            groups = [f"model_weights/{n}" for n in names]
            close(convert.from_keras(file, prefix=groups), expected)


def test_linen_without_its_reset_gate_and_with_a_residual():
    nn = pytest.importorskip("flax.linen")
    for cell in (nn.MGUCell(4, reset_gate=False), nn.SimpleCell(4, residual=True)):
        module = nn.RNN(cell)
        weights = drawn(module.init(jax.random.key(0), XS))
        expected = module.apply(weights, XS)
        params = convert.from_flax(weights)
        if isinstance(cell, nn.SimpleCell):  # as the page on conversions has it
            params = params._replace(r=params.r + jnp.eye(4)[:, None].astype(params.r.dtype))
        close(params, expected)


def test_haiku_with_one_bias_and_with_a_name():
    hk = pytest.importorskip("haiku")

    def run(make):
        def f(xs):
            core = make()
            return hk.dynamic_unroll(core, xs, core.initial_state(2), time_major=False)[0]

        f = hk.without_apply_rng(hk.transform(f))
        weights = drawn(f.init(jax.random.key(0), XS))
        return weights, f.apply(weights, XS)

    with jax.enable_x64(False):
        weights, expected = run(lambda: hk.VanillaRNN(4, double_bias=False))
        params = convert.from_haiku(weights)
        close(params, expected)
        jax.tree.map(np.testing.assert_array_equal, convert.to_haiku(params, like=weights), weights)
        weights, expected = run(lambda: hk.LSTM(4, name="encoder"))
        with pytest.raises(ValueError, match="need not be a layer `lstm`"):
            convert.from_haiku(weights)
        close(convert.from_haiku(weights, prefix="encoder"), expected)
        close(convert.from_haiku(weights, cell=jaxlstm.lstm), expected)
        weights, _ = run(lambda: hk.deep_rnn_with_skip_connections([hk.LSTM(4), hk.LSTM(4)]))
        with pytest.raises(ValueError, match="they are no stack"):
            convert.from_haiku(weights, prefix=["lstm", "lstm_1"])


def test_equinox_modules():
    eqx = pytest.importorskip("equinox")
    key = jax.random.key(0)
    with jax.enable_x64(False):
        cells = [eqx.nn.LSTMCell(3, 4, key=key), eqx.nn.GRUCell(4, 5, use_bias=False, key=key)]
        assert len(convert.from_equinox(cells).layers) == 2

        class Model(eqx.Module):
            cells: list
            head: eqx.nn.Linear

        model = Model(cells, eqx.nn.Linear(5, 2, key=key))
        with pytest.raises(ValueError, match="head/weight"):
            convert.from_equinox(model)
        with pytest.raises(ValueError, match="do not say which layer comes first"):
            convert.from_equinox(model, prefix="cells")
        assert len(convert.from_equinox(model, prefix=["cells/0", "cells/1"]).layers) == 2

        class Mine(eqx.nn.LSTMCell):
            pass

        with pytest.raises(TypeError, match="whose equations are known"):
            convert.from_equinox(Mine(3, 4, key=key))
