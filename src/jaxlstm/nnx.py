"""A network as a module of Flax nnx, whose weights are parameters of nnx.

`pip install "jaxlstm[flax]"`, and `import jaxlstm.nnx`, which nothing else of the library imports.
"""

from typing import Any

import jax
from flax import nnx  # pyright: ignore[reportMissingImports]

from ._apply import apply, step


class Recurrent(nnx.Module):
    """A network whose every weight is an `nnx.Param`, by its key path.

    Optimisers, `nnx.jit`, `nnx.grad`, `nnx.split` and checkpoints see the weights as those of any
    other layer.  A call is `jaxlstm.apply`, with its options.

        rnn = jaxlstm.nnx.Recurrent(jaxlstm.init(key, jaxlstm.lstm, 28, 64))
        ys, state = rnn(xs, mask=mask)
    """

    def __init__(self, params: Any) -> None:
        found, self.structure = jax.tree_util.tree_flatten_with_path(params)
        name = lambda path: jax.tree_util.keystr(path, simple=True, separator="_")
        self.names = tuple(name(path) for path, _ in found)
        if len(set(self.names)) < len(self.names) or any(
            map(self.__dict__.__contains__, self.names)
        ):
            raise ValueError(f"two weights have one name among {self.names}: rename a field.")
        for name_, (_, a) in zip(self.names, found, strict=True):
            setattr(self, name_, nnx.Param(a))

    @property
    def params(self) -> Any:
        """The network, as `jaxlstm.apply` takes it and `jaxlstm.convert.save` writes it."""
        weights = [getattr(self, name)[...] for name in self.names]
        return jax.tree.unflatten(self.structure, weights)

    def __call__(self, xs: Any, state: Any = None, **options: Any) -> Any:
        return apply(self.params, xs, state, **options)

    def step(self, x: Any, state: Any = None, **options: Any) -> Any:
        """One time step: `jaxlstm.step`."""
        return step(self.params, x, state, **options)
