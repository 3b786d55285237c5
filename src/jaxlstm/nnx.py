"""A network as a module of Flax nnx, whose weights are parameters of nnx.

It needs Flax, `pip install "jaxlstm[flax]"`, and is imported by name: `import jaxlstm.nnx`.
"""

import jax
from flax import nnx  # pyright: ignore[reportMissingImports]
from jaxtyping import Array, ArrayLike, Float, PyTree

from . import _arguments, _flax
from ._apply import apply, step
from ._named import named
from ._node import State

_flax.register()


class Recurrent(nnx.Module):
    """A network in which every weight is an `nnx.Param`, named by its key path.

    Optimizers, `nnx.jit`, `nnx.grad`, `nnx.split` and checkpoints treat the weights like those of
    any other layer.  Calling the module is `jaxlstm.apply`, with its options.

        rnn = jaxlstm.nnx.Recurrent(jaxlstm.init(key, jaxlstm.lstm, 28, 64))
        ys, state = rnn(xs, mask=mask)
    """

    def __init__(self, params: PyTree) -> None:
        weights, self.structure = named(_arguments.params_node(params))
        self.names = tuple(weights)
        taken = [name for name in weights if name in vars(self) or hasattr(type(self), name)]
        if taken:
            raise ValueError(f"a module has {taken} of its own, and no weight of that name.")
        for name, a in weights.items():
            setattr(self, name, nnx.Param(a))

    @property
    def params(self) -> PyTree:
        """The network, as `jaxlstm.apply` takes it and `jaxlstm.convert.save` writes it."""
        weights = [getattr(self, name)[...] for name in self.names]
        return jax.tree.unflatten(self.structure, weights)

    def __call__(
        self, xs: Float[ArrayLike, "time *batch input"], state: State = None, **options: PyTree
    ) -> tuple[Array, State]:
        return apply(self.params, xs, state, **options)

    def step(
        self, x: Float[ArrayLike, "*batch input"], state: State = None, **options: PyTree
    ) -> tuple[Array, State]:
        """One time step: `jaxlstm.step`."""
        return step(self.params, x, state, **options)
