"""Simple recurrent networks with a gate."""

from jax.nn import sigmoid
from jax.numpy import tanh

from .._cell import HiddenState, LSTMState, Weight, gated_cell, general_cell, tag
from ..initializers import constant, ones, orthogonal_stack, zeros
from . import activations


@gated_cell("gn", HiddenState, bias={"g": 1.0})
def ugrnn(s, u, v):
    """Update gate network.

        g  = sigmoid(W_g x + R_g h + b_g)      update gate
        n  = tanh(W_n x + R_n h + b_n)         candidate
        h' = g * h + (1 - g) * n

    Gates: `g n`.  State: `h`.  Collins, Sohl-Dickstein and Sussillo 2016, "Capacity and
    trainability in recurrent neural networks", arXiv:1611.09913.
    """
    g, n = u + v
    g, n = tag(g=sigmoid(g), n=tanh(n))
    return (g * s.h + (1 - g) * n,)


@gated_cell("ifn", LSTMState, recurrent="if", bias={"f": 1.0})
def ran(s, u, v, *, activation="tanh"):
    """Recurrent additive network, whose memory is a weighted sum of inputs.

        i  = sigmoid(W_i x + R_i h + b_i)      input gate
        f  = sigmoid(W_f x + R_f h + b_f)      forget gate
        c' = f * c + i * (W_n x + b_n)         memory
        h' = activation(c')

    Options: `activation` by name, `"tanh"` or `"linear"` in the paper, which has no `b_n`.
    Gates: `i f n`.  State: `h c`.  Lee, Levy and Zettlemoyer 2017, "Recurrent additive
    networks", arXiv:1705.07393.
    """
    i, f = sigmoid(u[:2] + v)
    i, f, n = tag(i=i, f=f, n=u[2])
    c = f * s.c + i * n
    return activations.activation(activation)(c), c


@gated_cell(
    "n",
    HiddenState,
    recurrent="z",
    recurrent_bias=True,
    weights={"m": Weight("hidden hidden", orthogonal_stack)},
)
def minimal_rnn(s, u, v, *, m):
    """Minimal recurrent network: a latent input, and a gate between it and the state.

        n  = tanh(W_n x + b_n)                 latent input
        z  = sigmoid(R_z h + M n + d_z)        update gate
        h' = z * h + (1 - z) * n

    with `d` the recurrent bias.  Gates: `n`, and recurrent `z`.  State: `h`.  Chen 2017,
    "MinimalRNN: toward more interpretable and trainable recurrent neural networks",
    arXiv:1711.06788.
    """
    n = tag(n=tanh(u[0]))
    z = tag(z=sigmoid(v[0] + n @ m))
    return (z * s.h + (1 - z) * n,)


@gated_cell("fin", HiddenState, recurrent="fi", bias={"f": 1.0, "i": -1.0})
def cfn(s, u, v):
    """Chaos-free network: without input (and `b_n`) its state decays to zero.

        f  = sigmoid(W_f x + R_f h + b_f)      forget gate
        i  = sigmoid(W_i x + R_i h + b_i)      input gate
        h' = f * tanh(h) + i * tanh(W_n x + b_n)

    Gates: `f i n`.  State: `h`.  Laurent and von Brecht 2016, "A recurrent neural network
    without chaos", arXiv:1612.06212, which has no `b_n`; the biases of the gates start at 1
    and at -1, as there.
    """
    f, i = sigmoid(u[:2] + v)
    f, i, n = tag(f=f, i=i, n=tanh(u[2]))
    return (f * tanh(s.h) + i * n,)


@gated_cell(
    "n",
    HiddenState,
    weights={"a": Weight("... 1", constant(-3.0)), "k": Weight("... 1", constant(3.0))},
)
def fastrnn(s, u, v, *, a, k):
    """Fast recurrent network: a leaky state with a learned leak.

        n  = tanh(W x + R h + b)               candidate
        h' = sigmoid(a) * n + sigmoid(k) * h

    with `a` and `k` two numbers.  Gates: `n`.  State: `h`.  Kusupati et al. 2018, "FastGRNN:
    a fast, accurate, stable and tiny kilobyte sized gated recurrent neural network",
    arXiv:1901.02358.
    """
    n = tag(n=tanh(u[0] + v[0]))
    return (sigmoid(a) * n + sigmoid(k) * s.h,)


@gated_cell(
    "n",
    HiddenState,
    bias=False,
    weights={
        "b_z": Weight("... hidden", constant(1.0)),
        "b_n": Weight("... hidden", constant(1.0)),
        "zeta": Weight("... 1", constant(1.0)),
        "nu": Weight("... 1", constant(-4.0)),
    },
)
def fastgrnn(s, u, v, *, b_z, b_n, zeta, nu):
    """Fast gated recurrent network: gate and candidate share their matrices.

        z  = sigmoid(W x + R h + b_z)          gate
        n  = tanh(W x + R h + b_n)             candidate
        h' = (sigmoid(zeta) (1 - z) + sigmoid(nu)) * n + z * h

    with `zeta` and `nu` two numbers.  Gates: `n`.  State: `h`.  Kusupati et al. 2018,
    "FastGRNN: a fast, accurate, stable and tiny kilobyte sized gated recurrent neural
    network", arXiv:1901.02358.
    """
    (both,) = u + v
    z, n = tag(z=sigmoid(both + b_z), n=tanh(both + b_n))
    return ((sigmoid(zeta) * (1 - z) + sigmoid(nu)) * n + z * s.h,)


@gated_cell("nk", HiddenState, recurrent="k")
def star(s, u, v):
    """Stackable recurrent cell.

        n  = tanh(W_n x + b_n)                 candidate
        k  = sigmoid(W_k x + R_k h + b_k)      gate
        h' = tanh((1 - k) * h + k * n)

    Gates: `n k`.  State: `h`.  Turkoglu et al. 2019, "Gating revisited: deep multi-layer
    RNNs that can be trained", arXiv:1911.11033.
    """
    n, k = tag(n=tanh(u[0]), k=sigmoid(u[1] + v[0]))
    return (tanh((1 - k) * s.h + k * n),)


@general_cell(
    "acn",
    HiddenState,
    recurrent="",
    weights={"r_a": Weight("... hidden", ones), "r_c": Weight("... hidden", ones)},
)
def brc(s, u, recur, *, r_a, r_c):
    """Bistable recurrent cell: each unit sees only its own state.

        a  = 1 + tanh(W_a x + r_a * h + b_a)         above 1 the unit has two rests
        c  = sigmoid(W_c x + r_c * h + b_c)          update gate
        h' = c * h + (1 - c) * tanh(W_n x + a * h + b_n)

    `r_a` and `r_c` start at 1, as in the authors' code.  Gates: `a c n`.  State: `h`.  Vecoven,
    Ernst and Drion 2020, "A bio-inspired bistable recurrent cell allows for long-lasting
    memory", arXiv:2006.05252, without `b_n`.
    """
    a, c = tag(a=1 + tanh(u[0] + r_a * s.h), c=sigmoid(u[1] + r_c * s.h))
    n = tag(n=tanh(u[2] + a * s.h))
    return (c * s.h + (1 - c) * n,)


@gated_cell("acn", HiddenState, recurrent="ac")
def nbrc(s, u, v):
    """Neuromodulated bistable recurrent cell: the gates see all of the state.

        a  = 1 + tanh(W_a x + R_a h + b_a)           above 1 the unit has two rests
        c  = sigmoid(W_c x + R_c h + b_c)            update gate
        h' = c * h + (1 - c) * tanh(W_n x + a * h + b_n)

    Gates: `a c n`.  State: `h`.  Vecoven, Ernst and Drion 2020, "A bio-inspired bistable
    recurrent cell allows for long-lasting memory", arXiv:2006.05252.
    """
    a, c = tag(a=1 + tanh(u[0] + v[0]), c=sigmoid(u[1] + v[1]))
    n = tag(n=tanh(u[2] + a * s.h))
    return (c * s.h + (1 - c) * n,)


@general_cell(
    "nt",
    HiddenState,
    recurrent="",
    bias=False,
    weights={
        "m": Weight("depth 2 hidden hidden", orthogonal_stack),
        "b_n": Weight("depth ... hidden", zeros),
        "b_t": Weight("depth ... hidden", constant(-2.0)),
    },
)
def rhn(s, u, recur, *, m, b_n, b_t, depth=2):
    """Recurrent highway network: several highway layers in one step of time.

        n  = tanh(R_n,l y + b_n,l [+ W_n x in the first])       for l = 1 ... depth,
        t  = sigmoid(R_t,l y + b_t,l [+ W_t x in the first])    from y = h
        y  = t * n + (1 - t) * y                                to h' = y

    Options: `depth`.  Gates: `n t`; `m` holds the `R`.  State: `h`.  Zilly et al. 2016,
    "Recurrent highway networks", arXiv:1607.03474, with coupled gates.
    """
    y = s.h
    for k in range(depth):
        n, t = y @ m[k, 0] + b_n[k], y @ m[k, 1] + b_t[k]
        n, t = (n + u[0], t + u[1]) if k == 0 else (n, t)
        n, t = tag(n=tanh(n), t=sigmoid(t))
        y = t * n + (1 - t) * y
    return (y,)
