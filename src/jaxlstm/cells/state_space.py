"""Linear recurrences with learned decay: diagonal, real or complex."""

import jax.numpy as jnp
from jax.nn import sigmoid, softplus

from .._cell import LSTMState, Weight, complex_of, linear_cell, tag
from ..initializers import griffin_decay, lecun, lru_ring, standard_normal
from .activations import root


@linear_cell(
    "abd",
    LSTMState,
    bias=False,
    weights={
        "ring": Weight("3 ... hidden", lru_ring),
        "c_re": Weight("hidden hidden", lecun),
        "c_im": Weight("hidden hidden", lecun),
    },
    sizes=("hidden", "complex hidden"),
)
def lru(u, *, ring, c_re, c_im):
    """Linear recurrent unit: a complex diagonal recurrence, with eigenvalues within the unit disk.

        l  = exp(-exp(nu) + i exp(theta))            eigenvalues
        c' = l * c + exp(gamma) * (W_a x + i W_b x)  memory, complex
        h' = Re(C c') + W_d x                        output

    `ring` holds `nu`, `theta` and `gamma`; `C = c_re + i c_im`.  Gates: `a b d`, the real and
    the imaginary part of `B` and the matrix `D`.  State: `h c`, with the real and imaginary
    parts of `c` side by side.  Orvieto et al. 2023, "Resurrecting recurrent neural networks
    for long sequences", arXiv:2303.06349.
    """
    nu, theta, gamma = ring
    a, b, d = tag(a=u[0], b=u[1], d=u[2])
    turn = jnp.exp(complex_of(-jnp.exp(nu), jnp.exp(theta)))
    real = lambda x: x.astype(d.dtype)
    read = lambda c: real(c.real) @ c_re - real(c.imag) @ c_im + d
    return turn, complex_of(jnp.exp(gamma) * a, jnp.exp(gamma) * b), read


@linear_cell("rin", weights={"decay": Weight("... hidden", griffin_decay)})
def rg_lru(u, *, decay, c=8.0):
    """Real-gated linear recurrent unit, the recurrence of Griffin.

        r  = sigmoid(W_r x + b_r)                    recurrence gate
        i  = sigmoid(W_i x + b_i)                    input gate
        n  = W_n x + b_n                             the input of the recurrence
        a  = sigmoid(decay) ** (c r)
        h' = a * h + sqrt(1 - a^2) * (i * n)

    Options: `c`.  Gates: `r i n`.  State: `h`.  De et al. 2024, "Griffin: mixing gated linear
    recurrences with local attention for efficient language models", arXiv:2402.19427, where
    `n` is the input of the unit, and the gates read it too.
    """
    r, i, n = tag(r=sigmoid(u[0]), i=sigmoid(u[1]), n=u[2])
    log_a = -c * r * softplus(-decay)
    # Where the gate is closed the derivative of the root, times that of the gate, goes to 0.
    return jnp.exp(log_a), root(-jnp.expm1(2 * log_a)) * i * n


@linear_cell(
    "n",
    LSTMState,
    weights={
        "alpha": Weight("... hidden order", standard_normal),
        "delta": Weight("... hidden order", standard_normal),
        "beta": Weight("... hidden order", standard_normal),
        "eta": Weight("... hidden order", standard_normal),
    },
    sizes=("hidden", "hidden order"),
)
def damped_average(u, *, alpha, delta, beta, eta, order=2):
    """Damped exponential averages at several rates for each unit, of Mega.

        n   = W_n x + b_n
        c'j = (1 - sigmoid(alpha_j) sigmoid(delta_j)) * c_j + sigmoid(alpha_j) * beta_j * n
        h'  = sum_j eta_j * c'_j

    Options: `order`, how many averages a unit has.  Gates: `n`.  State: `h c`.  Ma et al.
    2022, "Mega: moving average equipped gated attention", arXiv:2209.10655.
    """
    n = tag(n=u[0])
    alpha, delta = sigmoid(alpha), sigmoid(delta)
    return 1 - alpha * delta, alpha * beta * n[..., None], lambda c: (eta * c).sum(-1)
