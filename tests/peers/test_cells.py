"""Cells beside other frameworks that compute the same: run by `make test-peers`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlstm
from jaxlstm import cells
from networks import B, H, N, T, inputs, network

pytestmark = pytest.mark.peers
XS = inputs(dtype=jnp.float32)
LETTERS = {"LSTM": "iofg", "GRU": "zrn", "RNN": "h"}  # ONNX's orders


def onnx_run(kind, layer, **attributes):
    """What ONNX Runtime gives for the weights of a layer."""
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    cell = layer.cell
    order = [cell.gates.find(gate) for gate in LETTERS[kind]]

    def rows(a):  # (n, gates, hidden) or (gates, hidden), as (1, gates * hidden, ...)
        zero = jnp.zeros_like(a[..., 0, :])
        parts = [zero if k < 0 else a[..., k, :] for k in order]
        return np.concatenate([np.moveaxis(np.asarray(p), -1, 0) for p in parts], 0)[None]

    d = jnp.zeros_like(layer.b) if layer.recurrent_bias is None else layer.recurrent_bias
    arrays = {
        "W": rows(layer.w),
        "R": rows(layer.r),
        "B": np.concatenate([rows(layer.b), rows(d)], 1),
    }
    names = ["X", *arrays]
    if layer.weights and "po" in layer.weights:
        zero = np.zeros(H, np.float32)
        parts = [np.asarray(layer.weights.get(k, zero)) for k in ("pi", "po", "pf")]
        arrays["P"] = np.concatenate(parts)[None]
        names += ["", "", "", "P"]
    make = onnx.helper
    node = make.make_node(kind, names, ["Y"], hidden_size=H, **attributes)
    graph = make.make_graph(
        [node],
        "one",
        [make.make_tensor_value_info("X", onnx.TensorProto.FLOAT, [T, B, N])],
        [make.make_tensor_value_info("Y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(np.ascontiguousarray(a), k) for k, a in arrays.items()],
    )
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 14)], ir_version=8)
    session = runtime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"X": np.asarray(XS)})[0][:, 0]


HARD = ("hard_sigmoid", 0.3, 0.4)
ONNX = {
    "peephole": (cells.peephole_lstm, "LSTM", {}),
    "peephole option": (cells.lstm_variant(peephole=True), "LSTM", {}),
    "clip": (cells.lstm_variant(peephole=True, clip=0.3), "LSTM", {"clip": 0.3}),
    "coupled": (cells.coupled_input_lstm, "LSTM", {"input_forget": 1}),
    "coupled peephole": (cells.coupled_input_lstm(peephole=True), "LSTM", {"input_forget": 1}),
    "activations": (
        cells.lstm_variant(gate=HARD, candidate="softsign", output=("leaky_relu", 0.2)),
        "LSTM",
        {
            "activations": ["HardSigmoid", "Softsign", "LeakyRelu"],
            "activation_alpha": [0.3, 0.2],
            "activation_beta": [0.4],
        },
    ),
    "gru": (cells.gru, "GRU", {"linear_before_reset": 1}),
    "gru clip": (cells.gru_variant(clip=0.3), "GRU", {"linear_before_reset": 1, "clip": 0.3}),
    "gru before": (cells.gru_reset_before, "GRU", {}),
    "gru before clip": (cells.gru_reset_before_variant(clip=0.3), "GRU", {"clip": 0.3}),
    "gru activations": (
        cells.gru_reset_before_variant(gate=HARD, candidate="softplus"),
        "GRU",
        {
            "activations": ["HardSigmoid", "Softplus"],
            "activation_alpha": [0.3],
            "activation_beta": [0.4],
        },
    ),
    "rnn": (
        cells.rnn_variant(activation="softsign", clip=0.5),
        "RNN",
        {"activations": ["Softsign"], "clip": 0.5},
    ),
}


@pytest.mark.parametrize("name", ONNX)
def test_onnx_runtime(name):
    cell, kind, attributes = ONNX[name]
    layer = network(cell, dtype=jnp.float32)
    ys, _ = jaxlstm.apply(layer, XS)
    np.testing.assert_allclose(ys, onnx_run(kind, layer, **attributes), rtol=1e-5, atol=1e-6)


ALL = {"peephole": True, "cell_clip": 0.3}
TFLITE = [
    cells.lstm,
    cells.lstm_variant(**ALL),
    cells.coupled_forget_lstm(**ALL),
    cells.projected_lstm(projection=2),
    cells.projected_lstm(projection=2, projection_clip=0.1, **ALL),
    cells.gate_norm_lstm,
    cells.gate_norm_lstm(projection=2, projection_clip=0.1, **ALL),
]


@pytest.mark.parametrize("cell", TFLITE, ids=repr)
def test_tflite(cell):
    pytest.importorskip("ai_edge_litert")
    from .tflite import lstm_run

    layer = network(cell, dtype=jnp.float32)
    ys, _ = jaxlstm.apply(layer, XS)
    np.testing.assert_allclose(ys, lstm_run(layer, XS), rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_torch_projection():
    torch = pytest.importorskip("torch")
    layer = network(cells.projected_lstm(projection=2), dtype=jnp.float32)
    flat = lambda a: torch.tensor(np.asarray(a).reshape(a.shape[0], -1).T.copy())
    lstm = torch.nn.LSTM(N, H, proj_size=2)
    with torch.no_grad():
        lstm.weight_ih_l0.copy_(flat(layer.w))
        lstm.weight_hh_l0.copy_(flat(layer.r))
        lstm.weight_hr_l0.copy_(torch.tensor(np.asarray(layer.weights["q"]).T.copy()))
        lstm.bias_ih_l0.copy_(torch.tensor(np.asarray(layer.b).ravel()))
        lstm.bias_hh_l0.zero_()
        expected, (h, c) = lstm(torch.tensor(np.asarray(XS)))
    ys, state = jaxlstm.apply(layer, XS)
    pairs = [(ys, expected), (state.h, h[0]), (state.c, c[0])]
    for got, want in pairs:
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("space", [1, 2, 3])
def test_keras_conv_lstm(space):
    keras = pytest.importorskip("keras")
    places = (6, 5, 4)[:space]
    xs = inputs(shape=(T, B, *places, N), dtype=jnp.float32)
    layer = jaxlstm.init_conv(
        jax.random.key(0), jaxlstm.lstm, N, H, (3,) * space, dtype=jnp.float32
    )
    kind = getattr(keras.layers, f"ConvLSTM{space}D")
    other = kind(H, 3, padding="same", return_sequences=True, data_format="channels_last")
    other.build((B, T, *places, N))
    flat = lambda a: np.asarray(a).reshape(*a.shape[:-2], -1)
    other.set_weights([flat(layer.w), flat(layer.r), np.asarray(layer.b).ravel()])
    expected = np.asarray(other(np.asarray(xs).swapaxes(0, 1))).swapaxes(0, 1)
    ys, _ = jaxlstm.apply(layer, xs)
    np.testing.assert_allclose(ys, expected, rtol=1e-5, atol=1e-5)


def test_flax_mgu():
    nn = pytest.importorskip("flax.linen")
    layer = network(cells.mgu_reset_after, dtype=jnp.float32)
    bias = layer.recurrent_bias.at[0].set(0)  # Flax has none at the gate
    layer = layer._replace(recurrent_bias=bias)
    dense = lambda w, b: {"kernel": w, **({} if b is None else {"bias": b})}
    params = {
        "if": dense(layer.w[:, 0], layer.b[0]),
        "in": dense(layer.w[:, 1], layer.b[1]),
        "hf": dense(layer.r[:, 0], None),
        "hn": dense(layer.r[:, 1], bias[1]),
    }
    h = jnp.zeros((B, H), jnp.float32)
    ys, _ = jaxlstm.apply(layer, XS)
    for x, y in zip(XS, ys, strict=True):
        h, _ = nn.MGUCell(H).apply({"params": params}, h, x)
        np.testing.assert_allclose(y, h, rtol=1e-5, atol=1e-6)
