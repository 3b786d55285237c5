"""A network as a module of Flax linen, whose weights are parameters of linen.

It needs Flax, `pip install "jaxlstm[flax]"`, and is imported by name: `import jaxlstm.linen`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn  # pyright: ignore[reportMissingImports]
from jaxtyping import Array, ArrayLike, Float, PyTree

from . import _flax
from ._apply import apply, step
from ._named import features, maker, named
from ._node import Node, State
from ._types import Key

_flax.register()


def _initializer(key: Key, a: Array | jax.ShapeDtypeStruct) -> Array:
    """A weight that is sampled already; if it exists in linen, only its shape is asked for."""
    return jnp.zeros(a.shape, a.dtype) if isinstance(a, jax.ShapeDtypeStruct) else jnp.asarray(a)


class Recurrent(nn.Module):
    """A network in which every weight is a parameter of linen, named by its key path.

    `make(key, input_size)` creates the network.  Calling the module is `jaxlstm.apply`, with its
    options.

        rnn = jaxlstm.linen.Recurrent(lambda key, n: jaxlstm.init(key, jaxlstm.lstm, n, 64))
        variables = rnn.init(key, xs)
        ys, state = rnn.apply(variables, xs, mask=mask)
        params = rnn.apply(variables, 28, method="network")
    """

    make: Callable[[Key, int], Node]

    @nn.compact
    def network(self, input_size: int) -> Node:
        """The network, as `jaxlstm.apply` takes it and `jaxlstm.convert.save` writes it."""
        make = maker(self.make, input_size)
        weights, structure = named(jax.eval_shape(make, jax.random.key(0)))
        missing = any(not self.has_variable("params", name) for name in weights)
        if missing and self.is_mutable_collection("params"):
            weights, _ = named(make(self.make_rng("params")))
        return structure.unflatten(self.param(name, _initializer, a) for name, a in weights.items())

    def __call__(
        self, xs: Float[ArrayLike, "time *batch input"], state: State = None, **options: PyTree
    ) -> tuple[Array, State]:
        return apply(self.network(features(xs)), xs, state, **options)

    def step(
        self, x: Float[ArrayLike, "*batch input"], state: State = None, **options: PyTree
    ) -> tuple[Array, State]:
        """One time step: `jaxlstm.step`."""
        return step(self.network(features(x, single=True)), x, state, **options)
