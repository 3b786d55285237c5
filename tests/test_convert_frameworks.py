"""Each framework's own equations, written from its documentation, beside the converted network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlstm
from jaxlstm import convert
from networks import network

T, B, N, H = 5, 2, 3, 4


def equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def torch_lstm(p, x, h, c):
    """torch.nn.LSTM: chunks i f g o."""
    a = x @ p["weight_ih_l0"].T + p["bias_ih_l0"] + h @ p["weight_hh_l0"].T + p["bias_hh_l0"]
    i, f, g, o = np.split(a, 4, -1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def torch_gru(p, x, h):
    """torch.nn.GRU: chunks r z n, the reset after the product and its bias."""
    a = x @ p["weight_ih_l0"].T + p["bias_ih_l0"]
    e = h @ p["weight_hh_l0"].T + p["bias_hh_l0"]
    (ar, az, an), (er, ez, en) = np.split(a, 3, -1), np.split(e, 3, -1)
    z = sigmoid(az + ez)
    return ((1 - z) * np.tanh(an + sigmoid(ar + er) * en) + z * h,)


def torch_projection(p, x, h, c):
    """torch.nn.LSTM with proj_size: h is projected."""
    h, c = torch_lstm(p, x, h, c)
    return h @ p["weight_hr_l0"].T, c


def keras_gru(p, x, h):
    """keras.layers.GRU: z r h, reset_after, bias (2, 3H)."""
    kernel, recurrent, bias = p
    (xz, xr, xh) = np.split(x @ kernel + bias[0], 3, -1)
    (hz, hr, hh) = np.split(h @ recurrent + bias[1], 3, -1)
    z = sigmoid(xz + hz)
    return (z * h + (1 - z) * np.tanh(xh + sigmoid(xr + hr) * hh),)


def keras_gru_before(p, x, h):
    """keras.layers.GRU(reset_after=False)."""
    kernel, recurrent, bias = p
    xz, xr, xh = np.split(x @ kernel + bias, 3, -1)
    rz, rr, rh = np.split(recurrent, 3, -1)
    z, r = sigmoid(xz + h @ rz), sigmoid(xr + h @ rr)
    return (z * h + (1 - z) * np.tanh(xh + (r * h) @ rh),)


def keras_lstm(p, x, h, c):
    """keras.layers.LSTM: i f c o."""
    i, f, g, o = np.split(x @ p[0] + h @ p[1] + p[2], 4, -1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def linen_gru(p, x, h):
    """flax.linen.GRUCell: every gate apart, and of the recurrent biases only hn."""
    at = lambda name, a: a @ p[name]["kernel"] + p[name].get("bias", 0)
    r = sigmoid(at("ir", x) + at("hr", h))
    z = sigmoid(at("iz", x) + at("hz", h))
    return ((1 - z) * np.tanh(at("in", x) + r * at("hn", h)) + z * h,)


def linen_update(p, x, h):
    """flax.linen.MGUCell(reset_gate=False)."""
    f, n = (x @ p[f"i{k}"]["kernel"] + p[f"i{k}"]["bias"] + h @ p[f"h{k}"]["kernel"] for k in "fn")
    f = sigmoid(f)
    return ((1 - f) * np.tanh(n) + f * h,)


def cudnn(p, gates):
    """keras.layers.CuDNNLSTM, CuDNNGRU: each gate's block is a matrix of rows for its units."""
    w, r = (
        np.concatenate([k.ravel().reshape(H, -1).T for k in np.split(a, gates, 1)], 1)
        for a in p[:2]
    )
    return w, r, p[2].reshape(2, gates * H)


def cudnn_lstm(p, x, h, c):
    w, r, b = cudnn(p, 4)
    return keras_lstm((w, r, b[0] + b[1]), x, h, c)


def cudnn_gru(p, x, h):
    return keras_gru(cudnn(p, 3), x, h)


def linen_lstm(p, x, h, c):
    """flax.linen.LSTMCell: the biases are with the recurrent kernels."""
    i, f, g, o = (
        x @ p[f"i{k}"]["kernel"] + h @ p[f"h{k}"]["kernel"] + p[f"h{k}"]["bias"] for k in "ifgo"
    )
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def nnx_gru(p, x, h):
    """flax.nnx.GRUCell: joined, and no recurrent bias."""
    a = x @ p["dense_i"]["kernel"] + p["dense_i"]["bias"]
    (ar, az, an), (er, ez, en) = np.split(a, 3, -1), np.split(h @ p["dense_h"]["kernel"], 3, -1)
    z = sigmoid(az + ez)
    return ((1 - z) * np.tanh(an + sigmoid(ar + er) * en) + z * h,)


def haiku_lstm(p, x, h, c):
    """hk.LSTM: one matrix for [x, h], i g f o, and 1 is added to the forget gate."""
    a = np.concatenate([x, h], -1) @ p["lstm/linear"]["w"] + p["lstm/linear"]["b"]
    i, g, f, o = np.split(a, 4, -1)
    c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def haiku_gru(p, x, h):
    """hk.GRU: z r a, and z is the share of the candidate."""
    p = p["gru"]
    xz, xr, xa = np.split(x @ p["w_i"] + p["b"], 3, -1)
    hz, hr, ha = np.split(p["w_h"], 3, -1)
    z, r = sigmoid(xz + h @ hz), sigmoid(xr + h @ hr)
    return ((1 - z) * h + z * np.tanh(xa + (r * h) @ ha),)


def haiku_rnn(p, x, h):
    """hk.VanillaRNN: a rectifier, and a bias in each of its two linear maps."""
    a, b = p["vanilla_rnn/linear"], p["vanilla_rnn/linear_1"]
    return (np.maximum(0, x @ a["w"] + a["b"] + h @ b["w"] + b.get("b", 0)),)


def equinox_gru(p, x, h):
    """eqx.nn.GRUCell: rows r z n, and bias_n with the recurrent candidate."""
    ar, az, an = np.split(x @ p["weight_ih"].T + p["bias"], 3, -1)
    er, ez, en = np.split(h @ p["weight_hh"].T, 3, -1)
    n = np.tanh(an + sigmoid(ar + er) * (en + p["bias_n"]))
    return (n + sigmoid(az + ez) * (h - n),)


def shapes(rows):
    """A tree of random arrays of these shapes."""
    rng = np.random.default_rng(0)
    leaf = lambda a: isinstance(a, tuple) and all(isinstance(n, int) for n in a)
    return jax.tree.map(lambda a: rng.normal(size=a) / 2, rows, is_leaf=leaf)


def torch_shapes(gates, h=H, **more):
    w = {"weight_ih": (gates * H, N), "weight_hh": (gates * H, h)}
    names = {**w, "bias_ih": (gates * H,), "bias_hh": (gates * H,), **more}
    return {f"{name}_l0": shape for name, shape in names.items()}


BIASED_IN = {"kernel": (N, H), "bias": (H,)}
DENSE, BIASED = {"kernel": (N, H)}, {"kernel": (H, H), "bias": (H,)}
LINEN_LSTM = {f"i{k}": DENSE for k in "ifgo"} | {f"h{k}": BIASED for k in "ifgo"}
HAIKU_GRU = {"gru": {"w_i": (N, 3 * H), "w_h": (H, 3 * H), "b": (3 * H,)}}
LINEN_GRU = {f"i{k}": {"kernel": (N, H), "bias": (H,)} for k in "rzn"}
LINEN_GRU |= {"hr": {"kernel": (H, H)}, "hz": {"kernel": (H, H)}, "hn": BIASED}
CASES = {
    "torch lstm": (convert.from_torch, torch_lstm, torch_shapes(4)),
    "torch gru": (convert.from_torch, torch_gru, torch_shapes(3)),
    "torch projection": (
        convert.from_torch, torch_projection, torch_shapes(4, 2, weight_hr=(2, H)),
    ),
    "keras lstm": (convert.from_keras, keras_lstm, [(N, 4 * H), (H, 4 * H), (4 * H,)]),
    "keras gru": (convert.from_keras, keras_gru, [(N, 3 * H), (H, 3 * H), (2, 3 * H)]),
    "keras gru before": (convert.from_keras, keras_gru_before, [(N, 3 * H), (H, 3 * H), (3 * H,)]),
    "linen lstm": (
        convert.from_flax, linen_lstm, LINEN_LSTM,
    ),
    "linen gru": (convert.from_flax, linen_gru, LINEN_GRU),
    "nnx gru": (
        convert.from_flax, nnx_gru,
        {"dense_i": {"kernel": (N, 3 * H), "bias": (3 * H,)}, "dense_h": {"kernel": (H, 3 * H)}},
    ),
    "haiku lstm": (
        convert.from_haiku, haiku_lstm, {"lstm/linear": {"w": (N + H, 4 * H), "b": (4 * H,)}},
    ),
    "haiku rnn of one bias": (
        convert.from_haiku, haiku_rnn,
        {"vanilla_rnn/linear": {"w": (N, H), "b": (H,)}, "vanilla_rnn/linear_1": {"w": (H, H)}},
    ),
    "linen mgu without reset": (
        convert.from_flax, linen_update,
        {"if": BIASED_IN, "in": BIASED_IN, "hf": {"kernel": (H, H)}, "hn": {"kernel": (H, H)}},
    ),
    "cudnn lstm": (convert.from_keras, cudnn_lstm, [(N, 4 * H), (H, 4 * H), (8 * H,)]),
    "cudnn gru": (convert.from_keras, cudnn_gru, [(N, 3 * H), (H, 3 * H), (6 * H,)]),
    "haiku gru": (
        convert.from_haiku, haiku_gru, HAIKU_GRU,
    ),
    "haiku rnn": (
        convert.from_haiku, haiku_rnn,
        {"vanilla_rnn/linear": {"w": (N, H), "b": (H,)},
         "vanilla_rnn/linear_1": {"w": (H, H), "b": (H,)}},
    ),
    "equinox gru": (
        convert.from_equinox, equinox_gru,
        {"weight_ih": (3 * H, N), "weight_hh": (3 * H, H), "bias": (3 * H,), "bias_n": (H,)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_equations_of_the_framework(name):
    come, equations, rows = CASES[name]
    weights = shapes(rows)
    params = come(weights)
    xs = np.random.default_rng(1).normal(size=(T, B, N))
    ys, last = jaxlstm.apply(params, jnp.asarray(xs))
    state = [np.zeros(a.shape) for a in last]
    for t in range(T):
        state = equations(weights, xs[t], *state)
        np.testing.assert_allclose(ys[t], state[0], rtol=1e-13, atol=1e-14)
    for ours, theirs in zip(last, state, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-13, atol=1e-14)


def test_names_prefixes_and_directions():
    params = network(jaxlstm.gru, "bidirectional")
    state_dict = convert.to_torch(params, prefix="encoder.rnn.")
    assert "encoder.rnn.weight_ih_l1_reverse" in state_dict
    whole = {"head.weight": np.ones((2, 2)), **state_dict}
    with pytest.raises(ValueError, match=r"head.weight.*belong to no recurrent layer of PyTorch"):
        convert.from_torch(whole)
    equal(convert.from_torch(whole, prefix="encoder.rnn."), params)
    equal(convert.from_torch(whole, prefix="encoder.rnn"), params)
    back = convert.to_torch(params, prefix="encoder.rnn", like=whole)
    assert list(back) == list(whole)
    with pytest.raises(ValueError, match=r"no recurrent weights below the prefix 'decoder'"):
        convert.from_torch(whole, prefix="decoder")


def test_stacks_in_a_stack_lose_no_layer():
    whole = jaxlstm.init(jax.random.key(0), jaxlstm.lstm, N, H, layers=3)
    nested = jaxlstm.Stack((jaxlstm.Stack(whole.layers[:2]), whole.layers[2]))
    equal(convert.from_torch(convert.to_torch(nested)), whole)


def test_a_variant_without_options_is_the_cell_itself():
    params = network(jaxlstm.cells.lstm_variant)
    equal(convert.from_torch(convert.to_torch(params)), params._replace(cell=jaxlstm.lstm))


@pytest.mark.parametrize("framework", ["keras", "flax", "equinox"])
@pytest.mark.parametrize("arrangement", ["layer", "stack", "bidirectional"])
def test_default_names_come_back(framework, arrangement):
    params = network(jaxlstm.gru, arrangement)
    if framework != "keras":  # these have no second bias for the gates r and z
        zero = lambda p: p._replace(recurrent_bias=p.recurrent_bias.at[:2].set(0))
        params = jax.tree.map(zero, params, is_leaf=lambda p: isinstance(p, jaxlstm.Layer))
    options = {"bidirectional": arrangement == "bidirectional"} if framework == "keras" else {}
    weights = getattr(convert, f"to_{framework}")(params)
    equal(getattr(convert, f"from_{framework}")(weights, **options), params)


@pytest.mark.parametrize("framework", ["keras", "flax"])
def test_activations_are_the_cell_s(framework):
    come, go = getattr(convert, f"from_{framework}"), getattr(convert, f"to_{framework}")
    weights = go(network(jaxlstm.lstm))
    cell = jaxlstm.cells.lstm_variant(gate=("hard_sigmoid", 1 / 6, 0.5), candidate="softsign")
    params = come(weights, cell=cell)
    assert params.cell == cell
    equal(params._replace(cell=jaxlstm.lstm), come(weights))
    jax.tree.map(np.testing.assert_array_equal, go(params), weights)
    with pytest.raises(ValueError, match="PyTorch has no `lstm_variant"):
        convert.to_torch(params)


def test_two_biases_are_summed_or_kept():
    weights = shapes(torch_shapes(4))
    summed, kept = convert.from_torch(weights), convert.from_torch(weights, sum_biases=False)
    np.testing.assert_array_equal(summed.b, kept.b + kept.recurrent_bias)
    assert summed.recurrent_bias is None
    back = convert.to_torch(kept)
    jax.tree.map(np.testing.assert_array_equal, back, weights)
    assert not convert.to_torch(summed)["bias_hh_l0"].any()
    xs = np.random.default_rng(0).normal(size=(6, 2, summed.input_size))
    for implementation in ("scan", "deferred"):
        run = [jaxlstm.apply(p, xs, implementation=implementation) for p in (summed, kept)]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-14), *run)


def test_a_forget_bias_of_one_that_is_kept_apart_keeps_every_bit():
    weights = shapes(CASES["haiku lstm"][2])
    back = convert.to_haiku(convert.from_haiku(weights, sum_biases=False))
    jax.tree.map(np.testing.assert_array_equal, back, weights)
    back = convert.to_haiku(convert.from_haiku(weights))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-15), back, weights)


def test_what_cudnn_stores_comes_back():
    for name in ("cudnn lstm", "cudnn gru"):
        arrays = shapes(CASES[name][2])
        weights = dict(
            zip(("cu_dnn/kernel:0", "cu_dnn/recurrent_kernel:0", "cu_dnn/bias:0"), arrays)
        )
        params = convert.from_keras(weights)
        back = convert.to_keras(params, like=weights)
        equal(convert.from_keras(back), params)
        for key in [*weights][: 2 if "lstm" in name else 3]:  # an LSTM's two biases are summed
            np.testing.assert_array_equal(back[key], weights[key])
