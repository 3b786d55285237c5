"""Names of the types that recur."""

from collections.abc import Callable, Hashable, Iterable
from typing import TYPE_CHECKING, Protocol, Self, TypeAlias, TypeVar

import numpy as np
from jaxtyping import Array, PyTree

T = TypeVar("T")
Tree = TypeVar("Tree")  # a pytree that comes back with other leaves

Key: TypeAlias = Array  # of `jax.random.key`
Shape: TypeAlias = tuple[int, ...]
DType: TypeAlias = np.dtype  # of arrays, where `DTypeLike` is what a caller may write
State: TypeAlias = PyTree  # of arrays; that of a step node is a NamedTuple, the output first
KeyPath: TypeAlias = tuple[Hashable, ...]  # of a leaf, as `jax.tree_util.keystr` takes it
TreeDef: TypeAlias = PyTree  # a `jax.tree_util.PyTreeDef`, of which type checkers know nothing
Recur: TypeAlias = Callable[[Array, str], Array]  # (h, gates) -> (*batch, gates, hidden)

if TYPE_CHECKING:

    class Fields(Protocol):
        """A NamedTuple of arrays."""

        _fields: tuple[str, ...]
        _field_defaults: dict[str, PyTree]

        @classmethod
        def _make(cls, iterable: Iterable[Array], /) -> Self: ...

else:
    Fields = tuple
