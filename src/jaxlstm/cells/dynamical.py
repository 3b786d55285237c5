"""Recurrent networks read off a differential equation, and others without gates."""

from typing import NamedTuple

from jax.nn import sigmoid
from jax.numpy import tanh
from jaxtyping import Array, Float

from .._cell import HiddenState, Weight, gated_cell, general_cell, tag
from ..initializers import antisymmetric_normal, orthogonal_stack, symmetric_uniform
from . import activations


@general_cell(
    "h", HiddenState, recurrent="", weights={"r": Weight("... hidden", symmetric_uniform)}
)
def indrnn(s, u, recur, *, r, activation="relu"):
    """Independently recurrent network: each unit sees only its own state.

        h' = activation(W x + r * h + b)

    Options: `activation`, by name.  Gates: `h`.  State: `h`.  Li et al. 2018, "Independently
    recurrent neural network (IndRNN): building a longer and deeper RNN", arXiv:1803.04831.
    """
    return (tag(h=activations.activation(activation)(u[0] + r * s.h)),)


@general_cell(
    "h", HiddenState, recurrent="", weights={"m": Weight("hidden hidden", antisymmetric_normal)}
)
def antisymmetric_rnn(s, u, recur, *, m, step=0.1, damping=0.01):
    """Antisymmetric network: a step along a differential equation that keeps distances.

        h' = h + step * tanh(W x + (M - M^T - damping I) h + b)

    Options: `step`, `damping`.  Gates: `h`.  State: `h`.  Chang et al. 2019,
    "AntisymmetricRNN: a dynamical system view on recurrent neural networks",
    arXiv:1902.09689.
    """
    turn = s.h @ (m - m.T) - damping * s.h
    return (s.h + step * tag(h=tanh(u[0] + turn)),)


@general_cell(
    "hz", HiddenState, recurrent="", weights={"m": Weight("hidden hidden", antisymmetric_normal)}
)
def gated_antisymmetric_rnn(s, u, recur, *, m, step=0.1, damping=0.01):
    """Antisymmetric network with an input gate that shares its matrix.

        v  = (M - M^T - damping I) h
        z  = sigmoid(W_z x + v + b_z)
        h' = h + step * z * tanh(W_h x + v + b_h)

    Options: `step`, `damping`.  Gates: `h z`.  State: `h`.  Chang et al. 2019,
    "AntisymmetricRNN: a dynamical system view on recurrent neural networks",
    arXiv:1902.09689.
    """
    turn = s.h @ (m - m.T) - damping * s.h
    h, z = tag(h=tanh(u[0] + turn), z=sigmoid(u[1] + turn))
    return (s.h + step * z * h,)


class Oscillator(NamedTuple):
    """State of a network of oscillators: their places and their velocities."""

    y: Float[Array, "*batch hidden"]
    z: Float[Array, "*batch hidden"]


@general_cell("n", Oscillator, recurrent="yz")
def cornn(s, u, recur, *, step=0.042, frequency=2.7, damping=4.7):
    """Coupled oscillatory network.

        z' = z + step * (tanh(W x + R_y y + R_z z + b) - frequency y - damping z)
        y' = y + step * z'

    Options: `step`, `frequency` (the paper's gamma) and `damping` (its epsilon), by default
    those of its sequential MNIST.  Gates: `n`, and recurrent `y z`.  State: `y z`.
    Rusch and Mishra 2021, "Coupled oscillatory recurrent neural network (coRNN): an accurate
    and (gradient) stable architecture for learning long time dependencies", arXiv:2010.00951.
    """
    n = tag(n=tanh(u[0] + recur(s.y, "y")[0] + recur(s.z, "z")[0]))
    z = s.z + step * (n - frequency * s.y - damping * s.z)
    return s.y + step * z, z


@general_cell("abzy", Oscillator)
def lem(s, u, recur, *, step=1.0):
    """Long expressive memory: two states, each with its own learned time scale.

        a  = step * sigmoid(W_a x + R_a y + b_a)
        b  = step * sigmoid(W_b x + R_b y + b_b)
        z' = (1 - a) * z + a * tanh(W_z x + R_z y + b_z)
        y' = (1 - b) * y + b * tanh(W_y x + R_y z' + b_y)

    Options: `step`.  Gates: `a b z y`.  State: `y z`.  Rusch et al. 2022, "Long expressive
    memory for sequence modeling", arXiv:2110.04744.
    """
    a, b, z = u[:3] + recur(s.y, "abz")
    a, b, z = tag(a=step * sigmoid(a), b=step * sigmoid(b), z=tanh(z))
    z = (1 - a) * s.z + a * z
    y = tag(y=tanh(u[3] + recur(z, "y")[0]))
    return (1 - b) * s.y + b * y, z


class Context(NamedTuple):
    """State with a slow context: the output, the hidden vector, the context."""

    y: Float[Array, "*batch hidden"]
    h: Float[Array, "*batch hidden"]
    c: Float[Array, "*batch hidden"]


@general_cell(
    "ch",
    Context,
    recurrent="h",
    bias=False,
    weights={name: Weight("hidden hidden", orthogonal_stack) for name in ("p", "q_h", "q_c")},
)
def scrn(s, u, recur, *, p, q_h, q_c, alpha=0.95):
    """Structurally constrained network: a slowly changing context next to the hidden vector.

        c' = (1 - alpha) W_c x + alpha c
        h' = sigmoid(P c' + W_h x + R_h h)
        y' = Q_h h' + Q_c c'

    Options: `alpha`.  Gates: `c h`.  State: `y h c`.  Mikolov et al. 2014, "Learning longer
    memory in recurrent neural networks", arXiv:1412.7753, where `y` goes into a softmax.
    """
    c = tag(c=(1 - alpha) * u[0] + alpha * s.c)
    h = tag(h=sigmoid(c @ p + u[1] + recur(s.h, "h")[0]))
    return h @ q_h + c @ q_c, h, c


@general_cell("mh", HiddenState)
def multiplicative_rnn(s, u, recur):
    """Multiplicative network: the input selects the recurrent matrix, in factors.

        m  = (W_m x + b_m) * (R_m h)
        h' = tanh(W_h x + R_h m + b_h)

    Gates: `m h`.  State: `h`.  Sutskever, Martens and Hinton 2011, "Generating text with
    recurrent neural networks".
    """
    m = tag(m=u[0] * recur(s.h, "m")[0])
    return (tag(h=tanh(u[1] + recur(m, "h")[0])),)


@gated_cell("h", HiddenState)
def ctrnn(s, u, v, *, alpha=0.2, activation="softplus"):
    """Continuous-time network with leak: firing rates, as neuroscience trains them.

        h' = (1 - alpha) h + alpha * activation(W x + R h + b)

    a step of Euler's method for `tau dh/dt = -h + activation(W x + R h + b)`, with
    `alpha = dt / tau`.  Its private noise is `jaxlstm.wrappers.recurrent_noise`, within the
    activation, of standard deviation `sqrt(2 / alpha) sigma`.  Options: `alpha`;
    `activation`, by name.  Gates: `h`.  State: `h`.  Yang, Joglekar, Song, Newsome and Wang
    2019, "Task representations in neural networks trained to perform many cognitive tasks",
    Nature Neuroscience 22.
    """
    (z,) = u + v
    return ((1 - alpha) * s.h + alpha * tag(h=activations.activation(activation)(z)),)
