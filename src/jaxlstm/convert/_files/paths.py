"""Weights by name: a tree of arrays as a flat mapping from key paths, and back."""

from collections.abc import Callable, Mapping

import jax
import numpy as np
from jaxtyping import ArrayLike, PyTree

from ..._node import Node
from ..._types import T, Tree
from .._arrays import concrete, loaded


def named_leaves(tree: PyTree) -> dict[str, PyTree]:
    """The leaves of a tree by key path, such as `layers.0.forward.w`."""
    found: dict[str, PyTree] = {}
    try:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
    except ValueError as e:
        raise ValueError(
            f"JAX must be able to sort the keys of a dict, such as all strings or all numbers: {e}"
        ) from None
    for path, leaf in leaves:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        if name in found:
            raise ValueError(f"two leaves have the one key path `{name}`: rename one of them.")
        found[name] = leaf
    return found


def weights(tree: PyTree) -> list[bool]:
    """Of every leaf of a tree, whether it is of a network."""
    node = lambda part: isinstance(part, Node)
    parts = jax.tree.leaves(tree, is_leaf=node)
    return [node(part) for part in parts for _ in jax.tree.leaves(part)]


def likeness(
    like: PyTree, others: Callable[[object], bool] = lambda leaf: False
) -> dict[str, PyTree]:
    """The leaves of a tree that arrays are put into, each with a shape and a dtype, or others."""
    leaves = named_leaves(like)
    for name, leaf in leaves.items():
        is_array = hasattr(leaf, "dtype") and hasattr(leaf, "shape")
        if not is_array and not others(leaf):
            raise TypeError(f"`like` must hold arrays; `{name}` is a {type(leaf).__name__}.")
    return leaves


def native(dtype: T) -> T | np.dtype:
    """The dtype in the byte order of this machine, the only one that JAX takes."""
    return dtype.newbyteorder("=") if isinstance(dtype, np.dtype) else dtype


def to_dict(params: PyTree) -> dict[str, np.ndarray]:
    """The arrays of any tree, by key path.

    ```python
    params = jaxlstm.init(jax.random.key(0), jaxlstm.gru, 3, 5, layers=2, bidirectional=True)
    arrays = convert.to_dict(params)
    assert arrays["layers.0.forward.w"].shape == (3, 3, 5)  # input, gates, hidden
    ```
    """
    leaves = named_leaves(params)
    return {name: np.asarray(concrete(name, leaf)) for name, leaf in leaves.items()}


def from_dict(arrays: Mapping[str, ArrayLike], like: Tree) -> Tree:
    """The tree `like` with the arrays of `to_dict`.

    `arrays` must have exactly the leaves of `like`, with the same shapes and dtypes.

    Raises:
        ValueError: a leaf is missing or unexpected, or has another shape or dtype.
        TypeError: `arrays` is not a mapping, a leaf is not an array, or a weight has a dtype that
            JAX would truncate.

    ```python
    params = jaxlstm.init(jax.random.key(0), jaxlstm.gru, 3, 5)
    again = convert.from_dict(convert.to_dict(params), like=params)
    assert (again.w == params.w).all()
    ```
    """
    expected, weighty = likeness(like), weights(like)
    if not isinstance(arrays, Mapping):
        raise TypeError(f"`arrays` must map key paths to arrays; got a {type(arrays).__name__}.")
    missing, extra = expected.keys() - arrays.keys(), arrays.keys() - expected.keys()
    if missing or extra:
        raise ValueError(
            f"the arrays must be those of `like`; missing {sorted(missing)[:8]}, too many "
            f"{sorted(extra, key=str)[:8]}."
        )
    leaves: list[jax.Array | np.ndarray] = []
    for (name, leaf), weight in zip(expected.items(), weighty):
        a = np.asarray(concrete(name, arrays[name]))
        a = a.astype(native(a.dtype), copy=False)
        if a.shape != leaf.shape or a.dtype != native(leaf.dtype):
            raise ValueError(
                f"`{name}` must be {leaf.dtype}{list(leaf.shape)} as in `like`; got "
                f"{a.dtype}{list(a.shape)}."
            )
        leaves.append(loaded(name, a, weight))
    return jax.tree.unflatten(jax.tree.structure(like), leaves)
