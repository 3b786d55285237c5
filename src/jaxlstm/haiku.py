"""A network as a module of Haiku, whose weights are parameters of Haiku.

It needs Haiku, `pip install "jaxlstm[haiku]"`, and is imported by name: `import jaxlstm.haiku`.
"""

import functools
from collections.abc import Callable
from typing import Any

import haiku  # pyright: ignore[reportMissingImports]
import jax
from jaxtyping import Array, ArrayLike, Float, PyTree

from ._apply import apply, step
from ._named import features, maker, named
from ._node import Node, State
from ._types import Key

hk: Any = haiku  # which a type checker takes for this very file


class Recurrent(hk.Module):
    """A network in which every weight is a parameter of Haiku, named by its key path.

    `make(key, input_size)` creates the network.  Calling the module is `jaxlstm.apply`, with its
    options.

        def f(xs):
            rnn = jaxlstm.haiku.Recurrent(lambda key, n: jaxlstm.init(key, jaxlstm.lstm, n, 64))
            ys, state = rnn(xs)
            return hk.Linear(1)(ys[-1])
    """

    def __init__(self, make: Callable[[Key, int], Node], name: str | None = None) -> None:
        super().__init__(name)
        self.make = make

    def network(self, input_size: int) -> Node:
        """The network, as `jaxlstm.apply` takes it and `jaxlstm.convert.save` writes it."""
        make = maker(self.make, input_size)
        shapes, structure = named(jax.eval_shape(make, jax.random.key(0)))
        drawn = functools.cache(lambda: named(make(hk.next_rng_key()))[0])
        found = [
            hk.get_parameter(name, a.shape, a.dtype, init=lambda *_, name=name: drawn()[name])
            for name, a in shapes.items()
        ]
        return jax.tree.unflatten(structure, found)

    def __call__(
        self, xs: Float[ArrayLike, "time *batch input"], state: State = None, **options: PyTree
    ) -> tuple[Array, State]:
        return apply(self.network(features(xs)), xs, state, **options)

    def step(
        self, x: Float[ArrayLike, "*batch input"], state: State = None, **options: PyTree
    ) -> tuple[Array, State]:
        """One time step: `jaxlstm.step`."""
        return step(self.network(features(x, single=True)), x, state, **options)
