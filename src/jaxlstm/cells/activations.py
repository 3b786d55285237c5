"""Activations by name: a cell's options are data, so its activations are names with numbers."""

import inspect
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array

Named: TypeAlias = str | tuple[str | float, ...]
"""A name, or a name and its numbers: `"tanh"`, `("hard_sigmoid", 0.2, 0.5)`."""

# In the definitions of ONNX, `alpha` and `beta` by position, with its defaults.
ACTIVATIONS: dict[str, Callable[..., Array]] = {
    "affine": lambda x, alpha=1.0, beta=0.0: alpha * x + beta,
    "elu": lambda x, alpha=1.0: jax.nn.elu(x, alpha),
    "exponential": lambda x: jnp.exp(x),
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "hard_sigmoid": lambda x, alpha=0.2, beta=0.5: jnp.clip(alpha * x + beta, 0, 1),
    "leaky_relu": lambda x, alpha=0.01: jax.nn.leaky_relu(x, alpha),
    "linear": lambda x: x,
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "scaled_tanh": lambda x, alpha=1.0, beta=1.0: alpha * jnp.tanh(beta * x),
    "selu": jax.nn.selu,
    "sigmoid": jax.nn.sigmoid,
    "silu": jax.nn.silu,
    "softplus": jax.nn.softplus,
    "softsign": jax.nn.soft_sign,
    "tanh": jnp.tanh,
    "thresholded_relu": lambda x, alpha=1.0: jnp.where(x >= alpha, x, jnp.zeros_like(x)),
}


def clipped(x: Array, limit: float | None) -> Array:
    """`x` within `limit` of zero; `None` is no limit."""
    return x if limit is None else jnp.clip(x, -limit, limit)


def root(x: Array) -> Array:
    """The square root of what is not negative, with the derivative 0 at 0.

    That of `sqrt` is infinite there, and times the zero of a gate at its limit it is NaN.
    """
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, jnp.ones_like(x))), 0 * x)


def normalized(x: Array, axes: int | tuple[int, ...], epsilon: float) -> Array:
    """`x` with mean 0 and variance 1 over some axes."""
    for _ in range(2):  # once more: rounding a large mean may leave more than epsilon forgives
        x = x - x.mean(axes, keepdims=True)
    return x * jax.lax.rsqrt((x * x).mean(axes, keepdims=True) + epsilon)


def _numbers(name: str) -> int:
    """How many numbers an activation takes."""
    return len(inspect.signature(ACTIVATIONS[name]).parameters) - 1


def activation(value: Named, clip: float | None = None) -> Callable[[Array], Array]:
    """The activation of this name, of what is first clipped to within `clip` of zero."""
    name, *numbers = value if isinstance(value, (tuple, list)) else (value,)
    if name not in ACTIVATIONS or len(numbers) > _numbers(str(name)):
        raise ValueError(
            f"an activation must be one of {sorted(ACTIVATIONS)}, or a tuple of one and its "
            f"numbers, as many as it takes, such as ('hard_sigmoid', 0.2, 0.5); got {value!r}."
        )
    return lambda x: ACTIVATIONS[str(name)](clipped(x, clip), *numbers)
