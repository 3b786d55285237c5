"""Initializers by role: what a weight is for decides how it is initialized.

An initializer takes `(key, shape, dtype)`, as those of `jax.nn.initializers` do, with shapes
`(input, gates, hidden)`, `(output, gates, hidden)` and `(gates, hidden)`.  A `Scheme` has
one for each role.  Change one of them with `_replace`:

```python
irnn = jaxlstm.initializers.default._replace(r=jaxlstm.initializers.identity)
params = jaxlstm.init(jax.random.key(0), jaxlstm.rnn_relu, 3, 5, scheme=irnn)
```
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, ArrayLike, PyTree

from . import _arguments, _layer
from ._cell import Initializer
from ._types import Key, Shape


class Scheme(NamedTuple):
    """The initializers of the weights of a layer, by role."""

    w: Initializer  # input weights
    r: Initializer  # recurrent weights
    b: Initializer  # bias
    recurrent_bias: Initializer  # where the cell has one
    gate_biases: bool  # add what the cell asks for, such as a forget bias of 1


def _uniform(key: Key, shape: Shape, dtype: DTypeLike, low: float, high: float) -> Array:
    """The numbers of `jax.random.uniform`, sampled along one axis.

    XLA compiles that much faster than the sampling of an array of three axes.
    """
    return jax.random.uniform(key, (math.prod(shape),), dtype, low, high).reshape(shape)


def _normal(key: Key, shape: Shape, dtype: DTypeLike) -> Array:
    """The numbers of `jax.random.normal`, sampled along one axis as those of `_uniform`."""
    return jax.random.normal(key, (math.prod(shape),), dtype).reshape(shape)


def zeros(key: Key, shape: Shape, dtype: DTypeLike) -> Array:
    """All zero."""
    return jnp.zeros(shape, dtype)


def ones(key: Key, shape: Shape, dtype: DTypeLike) -> Array:
    """All one."""
    return jnp.ones(shape, dtype)


def identity(key: Key, shape: Shape, dtype: DTypeLike) -> Array:
    """The identity matrix for each gate (Le, Jaitly and Hinton 2015)."""
    n, _, h = shape
    return jnp.broadcast_to(jnp.eye(n, h, dtype=dtype)[:, None], shape)


def hidden_uniform(key: Key, shape: Shape, dtype: DTypeLike) -> Array:
    """Uniform within `1 / sqrt(hidden)` of zero: PyTorch's, for weights and for biases."""
    limit = shape[-1] ** -0.5
    return _uniform(key, shape, dtype, -limit, limit)


def hidden_uniform_sum(key: Key, shape: Shape, dtype: DTypeLike) -> Array:
    """The sum of two samples of `hidden_uniform`: PyTorch's two biases, where a cell has one."""
    first, second = jax.random.split(key)
    return hidden_uniform(first, shape, dtype) + hidden_uniform(second, shape, dtype)


def glorot(key: Key, shape: Shape, dtype: DTypeLike) -> Array:
    """Glorot uniform for each gate's matrix (Glorot and Bengio 2010).

    Uniform within `sqrt(6 / (inputs + hidden))` of zero.
    """
    n, _, h = shape
    limit = math.sqrt(6 / (n + h))
    return _uniform(key, shape, dtype, -limit, limit)


def glorot_joined(key: Key, shape: Shape, dtype: DTypeLike) -> Array:
    """Glorot uniform for the matrix of all gates side by side: Keras's."""
    n, g, h = shape
    return glorot(key, (n, 1, g * h), dtype).reshape(shape)


def orthogonal(key: Key, shape: Shape, dtype: DTypeLike) -> Array:
    """A random orthogonal matrix for each gate (Saxe, McClelland and Ganguli 2014)."""
    n, g, h = shape
    return jnp.moveaxis(orthogonal_stack(key, (g, n, h), dtype), 0, 1)


def orthogonal_joined(key: Key, shape: Shape, dtype: DTypeLike) -> Array:
    """A random orthogonal matrix for all gates side by side: Keras's."""
    n, g, h = shape
    return orthogonal_stack(key, (n, g * h), dtype).reshape(shape)


def lecun(key: Key, shape: Shape, dtype: DTypeLike) -> Array:
    """Normal of variance `1 / inputs` (LeCun et al. 1998, "Efficient backprop")."""
    return _normal(key, shape, dtype) / math.sqrt(shape[0])


def standard_normal(key: Key, shape: Shape, dtype: DTypeLike) -> Array:
    """Normal of variance 1."""
    return _normal(key, shape, dtype)


def small_normal(key: Key, shape: Shape, dtype: DTypeLike) -> Array:
    """Normal of standard deviation 0.001, as the input weights of the IRNN."""
    return _normal(key, shape, dtype) / 1000


def lru_ring(key: Key, shape: Shape, dtype: DTypeLike) -> Array:
    """`nu`, `theta` and `gamma` of the LRU: eigenvalues uniform on a ring of the unit disk.

    Radii between 0.9 and 0.999, uniform in area, phases between 0 and 2 pi; `gamma` is the
    logarithm of `sqrt(1 - |l|^2)`, with which white input makes a state of variance one
    (Orvieto et al. 2023, arXiv:2303.06349, appendix A).
    """
    radius, phase = _uniform(key, (2, shape[-1]), dtype, 0.0, 1.0)
    square = 0.9**2 + radius * (0.999**2 - 0.9**2)
    theta = jnp.log(2 * jnp.pi * jnp.maximum(phase, jnp.finfo(dtype).tiny))
    return jnp.stack([jnp.log(-0.5 * jnp.log(square)), theta, 0.5 * jnp.log1p(-square)])


def griffin_decay(key: Key, shape: Shape, dtype: DTypeLike) -> Array:
    """`decay` of the RG-LRU: `sigmoid(decay) ** 8` uniform between 0.9 and 0.999."""
    log_a = jnp.log(_uniform(key, shape, dtype, 0.9, 0.999)) / 8
    return log_a - jnp.log(-jnp.expm1(log_a))


def constant(value: float) -> Initializer:
    """All of one value."""

    def constant_of(key: Key, shape: Shape, dtype: DTypeLike) -> Array:
        return jnp.full(shape, value, dtype)

    return constant_of


def by_gate(*values: float) -> Initializer:
    """One value for each gate, the same for all of its units."""

    def values_of(key: Key, shape: Shape, dtype: DTypeLike) -> Array:
        return jnp.broadcast_to(jnp.array(values, dtype)[:, None], shape)

    return values_of


def orthogonal_stack(key: Key, shape: Shape, dtype: DTypeLike) -> Array:
    """Random orthogonal matrices in the last two axes, one for each index of the others."""
    if len(shape) == 2:
        return _orthogonal(key, *shape, dtype)
    each = jax.vmap(lambda k: orthogonal_stack(k, shape[1:], dtype))
    return each(jax.random.split(key, shape[0]))


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _orthogonal(key: Key, rows: int, columns: int, dtype: DTypeLike) -> Array:
    """The matrix of `jax.nn.initializers.orthogonal`, of numbers that `_normal` samples."""
    q, r = jnp.linalg.qr(_normal(key, (max(rows, columns), min(rows, columns)), dtype))
    q *= jnp.sign(jnp.diagonal(r))[None]
    return q if rows >= columns else q.T


def symmetric_uniform(key: Key, shape: Shape, dtype: DTypeLike) -> Array:
    """Uniform between -1 and 1."""
    return _uniform(key, shape, dtype, -1.0, 1.0)


def antisymmetric_normal(key: Key, shape: Shape, dtype: DTypeLike) -> Array:
    """Normal of variance `1 / hidden`, of which a cell takes the antisymmetric part."""
    return _normal(key, shape, dtype) / math.sqrt(shape[-1])


default = Scheme(glorot, orthogonal, zeros, zeros, gate_biases=True)
"""Glorot uniform input weights, orthogonal recurrent ones, a forget bias of 1.

The recurrent weights of each gate are orthogonal: a product of orthogonal matrices neither
lengthens nor shortens a vector (Saxe et al. 2014; Le et al. 2015), so a simple network starts
without the decay that uniform weights within `1 / sqrt(hidden)` have (their spectral radius is
near 0.58).  With a forget bias of 1 most of the cell state is kept at first (Gers et al. 2000;
Jozefowicz et al. 2015).
"""

torch = Scheme(
    hidden_uniform, hidden_uniform, hidden_uniform_sum, hidden_uniform, gate_biases=False
)
"""Exactly PyTorch's distributions; a single bias has that of the sum of PyTorch's two."""

keras = Scheme(glorot_joined, orthogonal_joined, zeros, zeros, gate_biases=True)
"""Exactly Keras's distributions: Glorot uniform, orthogonal, zero biases, a forget bias of 1."""

irnn = Scheme(small_normal, identity, zeros, zeros, gate_biases=False)
"""For `rnn_relu`: identity recurrent weights, small input weights, no bias (Le, Jaitly and
Hinton 2015, "A simple way to initialize recurrent networks of rectified linear units",
arXiv:1504.00941)."""

SCHEMES = {"default": default, "torch": torch, "keras": keras, "irnn": irnn}


def chrono(
    key: ArrayLike, params: PyTree, longest: float | int, *, keep: str = "f", write: str = "i"
) -> PyTree:
    """Sets biases so that the units start with memories of different lengths, up to `longest`.

        b_keep = log(t),   b_write = -log(t),   t uniform between 1 and longest - 1

    for the gates that keep and those that write, in every layer; the two share `t`.  For a cell
    that has only one of them, leave the other empty: `keep="z", write=""` for the GRU,
    `keep="", write="z"` for the minimal GRU, whose gate has the opposite sense.  Tallec and
    Ollivier 2018, "Can recurrent neural networks warp time?", arXiv:1804.11188.

    ```python
    params = jaxlstm.init(jax.random.key(0), jaxlstm.lstm, input_size=3, hidden_size=5)
    params = jaxlstm.initializers.chrono(jax.random.key(1), params, longest=100)
    ```
    """
    steps = _arguments.real(longest)
    if steps is None or not 2 < steps < math.inf:
        raise ValueError(
            "`longest` must be more than 2 steps, and finite; got "
            f"{_arguments.short_repr(longest)}."
        )
    has_biases = lambda node: hasattr(node, "cell") and hasattr(node, "b")
    nodes, tree = jax.tree.flatten(params, is_leaf=has_biases)
    if not any(map(has_biases, nodes)):
        raise TypeError(
            "`params` must be a network, such as `jaxlstm.init` returns; got a "
            f"{type(params).__name__}."
        )
    keys = jax.random.split(_arguments.key_of(key), len(nodes))
    return jax.tree.unflatten(
        tree,
        [
            _chrono(k, node, steps, keep, write) if has_biases(node) else node
            for k, node in zip(keys, nodes, strict=True)
        ],
    )


def _chrono(
    key: Key, layer: _layer.CellNode, longest: float, keep: str, write: str
) -> _layer.CellNode:
    gates, b = layer.cell.gates, layer.b
    if b is None or not set(keep + write) <= set(gates):
        raise ValueError(
            f"`keep` and `write` must be letters of gates with a bias, of {layer.cell}: "
            f"{list(gates) if b is not None else 'none'}; got {keep!r} and {write!r}."
        )
    t = jnp.log(jax.random.uniform(key, b.shape[-1:], b.dtype, 1, longest - 1))
    for letters, value in ((keep, t), (write, -t)):
        for letter in letters:
            b = b.at[gates.index(letter)].set(value)
    return layer._replace(b=b)
