"""The weights of a network by name, as modules of other libraries hold them."""

import jax
from jaxtyping import Array, PyTree

from ._types import TreeDef


def named(params: PyTree) -> tuple[dict[str, Array], TreeDef]:
    """Every weight by its key path, such as `layers_0_w`, and the structure of the tree."""
    found, structure = jax.tree_util.tree_flatten_with_path(params)
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator="_")
    weights = {name(path): a for path, a in found}
    if len(weights) < len(found):
        names = [name(path) for path, _ in found]
        raise ValueError(f"two weights have one name among {names}: rename a field.")
    return weights, structure
