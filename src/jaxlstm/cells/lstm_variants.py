"""Variants of the LSTM, and the LSTM with every option of other frameworks."""

from jax.nn import sigmoid
from jax.numpy import tanh

from .._cell import LSTMState, Weight, gated_cell, tag
from ..initializers import by_gate, hidden_uniform, ones, orthogonal_stack
from .activations import activation, clipped, normalized

PEEPHOLES = {name: Weight("... hidden", hidden_uniform) for name in ("pi", "pf", "po")}
OPTIONAL = {name: weight._replace(when="peephole") for name, weight in PEEPHOLES.items()}


@gated_cell("ifgo", LSTMState, bias={"f": 1.0}, weights=PEEPHOLES)
def peephole_lstm(s, u, v, *, pi, pf, po):
    """LSTM whose gates see the memory cell; the output gate sees the new one.

        i  = sigmoid(W_i x + R_i h + p_i * c + b_i)
        f  = sigmoid(W_f x + R_f h + p_f * c + b_f)
        g  = tanh(W_g x + R_g h + b_g)
        c' = f * c + i * g
        o  = sigmoid(W_o x + R_o h + p_o * c' + b_o)
        h' = o * tanh(c')

    Gates: `i f g o`.  State: `h c`.  Gers, Schraudolph and Schmidhuber 2002, "Learning
    precise timing with LSTM recurrent networks".
    """
    i, f, g, o = u + v
    i, f, g = tag(i=sigmoid(i + pi * s.c), f=sigmoid(f + pf * s.c), g=tanh(g))
    c = f * s.c + i * g
    o = tag(o=sigmoid(o + po * c))
    return o * tanh(c), c


def _step(
    c, i, f, g, o, *, gate="sigmoid", candidate="tanh", output="tanh", clip=None, cell_clip=None,
    norm=lambda letter, a: a, pi=None, pf=None, po=None,
):  # fmt: skip
    """`(h, c)` of an LSTM with options; a gate that is None is one minus its partner."""
    see = lambda letter, a, p, c: norm(letter, a if p is None else a + p * c)
    rate, wish = activation(gate, clip), activation(candidate, clip)
    if f is None:
        i = tag(i=rate(see("i", i, pi, c)))
        f = 1 - i
    else:
        f = tag(f=rate(see("f", f, pf, c)))
        i = 1 - f if i is None else tag(i=rate(see("i", i, pi, c)))
    c = clipped(f * c + i * tag(g=wish(norm("g", g))), cell_clip)
    return tag(o=rate(see("o", o, po, c))) * activation(output)(c), c


@gated_cell("ifgo", LSTMState, bias={"f": 1.0}, weights=OPTIONAL)
def lstm_variant(
    s, u, v, *, peephole=False, gate="sigmoid", candidate="tanh", output="tanh",
    clip=None, cell_clip=None, **weights,
):  # fmt: skip
    """LSTM with options.

        i  = gate(clip(W_i x + R_i h + p_i * c + b_i))
        f  = gate(clip(W_f x + R_f h + p_f * c + b_f))
        g  = candidate(clip(W_g x + R_g h + b_g))
        c' = cell_clip(f * c + i * g)
        o  = gate(clip(W_o x + R_o h + p_o * c' + b_o))
        h' = o * output(c')

    Options: `peephole`; the activations `gate`, `candidate`, `output` by name, with their
    numbers if any, as `("hard_sigmoid", 0.2, 0.5)`; `clip`, the bound on what goes into the
    gates and the candidate, as in ONNX; `cell_clip`, the bound on the memory cell, as in
    TFLite.  Gates: `i f g o`.  State: `h c`.  Without options it is `lstm`, with `peephole`
    it is `peephole_lstm`: Gers, Schraudolph and Schmidhuber 2002, "Learning precise timing
    with LSTM recurrent networks"; the operator `LSTM` of ONNX.
    """
    i, f, g, o = u + v
    options = {"gate": gate, "candidate": candidate, "output": output}
    return _step(s.c, i, f, g, o, clip=clip, cell_clip=cell_clip, **options, **weights)


@gated_cell("igo", LSTMState, weights={"pi": OPTIONAL["pi"], "po": OPTIONAL["po"]})
def coupled_input_lstm(
    s, u, v, *, peephole=False, gate="sigmoid", candidate="tanh", output="tanh",
    clip=None, cell_clip=None, **weights,
):  # fmt: skip
    """LSTM with coupled gates that keeps the input gate: `f = 1 - i`, as ONNX Runtime.

        i  = sigmoid(W_i x + R_i h + b_i)
        g  = tanh(W_g x + R_g h + b_g)
        o  = sigmoid(W_o x + R_o h + b_o)
        c' = (1 - i) * c + i * g
        h' = o * tanh(c')

    Options: those of `lstm_variant`.  Gates: `i g o`.  State: `h c`.  The CIFG of Greff et
    al. 2015, "LSTM: a search space odyssey", arXiv:1503.04069, which has peepholes.
    """
    i, g, o = u + v
    options = {"gate": gate, "candidate": candidate, "output": output}
    return _step(s.c, i, None, g, o, clip=clip, cell_clip=cell_clip, **options, **weights)


@gated_cell(
    "fgo",
    LSTMState,
    bias={"f": 1.0},
    weights={"pf": OPTIONAL["pf"], "po": OPTIONAL["po"]},
)
def coupled_forget_lstm(
    s, u, v, *, peephole=False, gate="sigmoid", candidate="tanh", output="tanh",
    clip=None, cell_clip=None, **weights,
):  # fmt: skip
    """LSTM with coupled gates that keeps the forget gate: `i = 1 - f`, as TFLite.

        f  = sigmoid(W_f x + R_f h + b_f)
        g  = tanh(W_g x + R_g h + b_g)
        o  = sigmoid(W_o x + R_o h + b_o)
        c' = f * c + (1 - f) * g
        h' = o * tanh(c')

    Options: those of `lstm_variant`.  Gates: `f g o`.  State: `h c`.  Greff et al. 2015,
    "LSTM: a search space odyssey", arXiv:1503.04069.  It equals `coupled_input_lstm` with the
    sign of that gate's weights changed.
    """
    f, g, o = u + v
    options = {"gate": gate, "candidate": candidate, "output": output}
    return _step(s.c, None, f, g, o, clip=clip, cell_clip=cell_clip, **options, **weights)


@gated_cell(
    "ifgo",
    LSTMState,
    bias={"f": 1.0},
    weights={**OPTIONAL, "q": Weight("hidden projection", orthogonal_stack)},
    sizes=("projection", "hidden"),
)
def projected_lstm(
    s, u, v, *, q, projection=None, projection_clip=None, peephole=False, gate="sigmoid",
    candidate="tanh", output="tanh", clip=None, cell_clip=None, **weights,
):  # fmt: skip
    """LSTM with a projection: its state `h`, which is its output, is narrower than its memory.

        i  = sigmoid(W_i x + R_i h + b_i)
        f  = sigmoid(W_f x + R_f h + b_f)
        g  = tanh(W_g x + R_g h + b_g)
        o  = sigmoid(W_o x + R_o h + b_o)
        c' = f * c + i * g
        h' = projection_clip((o * tanh(c')) Q)

    Options: `projection`, the width of `h`, by default that of `c`; `projection_clip`, a
    bound on `h`, as in TFLite; and those of `lstm_variant`.  Gates: `i f g o`.  State: `h c`.
    Sak, Senior and Beaufays 2014, "Long short-term memory based recurrent neural network
    architectures for large vocabulary speech recognition", arXiv:1402.1128, where it has
    peepholes; PyTorch's `proj_size`.
    """
    i, f, g, o = u + v
    options = {"gate": gate, "candidate": candidate, "output": output}
    h, c = _step(s.c, i, f, g, o, clip=clip, cell_clip=cell_clip, **options, **weights)
    return clipped(h @ q, projection_clip), c


@gated_cell(
    "ifgo",
    LSTMState,
    bias=False,
    weights={
        **OPTIONAL,
        "a": Weight("gates ... hidden", ones),
        "b_z": Weight("gates ... hidden", by_gate(0.0, 1.0, 0.0, 0.0)),
        "q": Weight("hidden projection", orthogonal_stack, when="projection"),
    },
    sizes=("projection", "hidden"),
)
def gate_norm_lstm(
    s, u, v, *, a, b_z, q=None, projection=None, projection_clip=None, peephole=False,
    cell_clip=None, epsilon=1e-8, **weights,
):  # fmt: skip
    """LSTM with a layer norm of each gate by itself, as in TFLite.

        i  = sigmoid(LN(W_i x + R_i h + p_i * c) * a_i + b_i)
        f  = sigmoid(LN(W_f x + R_f h + p_f * c) * a_f + b_f)
        g  = tanh(LN(W_g x + R_g h) * a_g + b_g)
        c' = cell_clip(f * c + i * g)
        o  = sigmoid(LN(W_o x + R_o h + p_o * c') * a_o + b_o)
        h' = o * tanh(c')

    where `LN` takes the units of one gate to mean 0 and variance 1 (`epsilon` added); `b_z`
    holds the biases, that of `f` 1 at first.  Options: `epsilon`; `peephole`, `cell_clip`,
    `projection` and `projection_clip` as in `projected_lstm`.  Gates: `i f g o`.  State:
    `h c`.  After Ba, Kiros and Hinton 2016, "Layer normalization", arXiv:1607.06450; TFLite's
    operator `UNIDIRECTIONAL_SEQUENCE_LSTM`.
    """
    at = "ifgo".index
    norm = lambda gate, z: normalized(z, -1, epsilon) * a[at(gate)] + b_z[at(gate)]
    h, c = _step(s.c, *(u + v), norm=norm, cell_clip=cell_clip, **weights)
    return h if q is None else clipped(h @ q, projection_clip), c
