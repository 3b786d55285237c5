"""What each weight is for, as optimisers ask: which are matrices, and of which axes.

The number of axes does not tell: a bias is `(gates, hidden)`, a matrix `(input, gates, hidden)`,
and an ensemble has one axis more of each.
"""

from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import PyTree

from ._cell import Weight
from ._conv import ConvLayer
from ._layer import CellNode
from ._node import Node

MATRICES = ("input", "recurrent", "matrix")


def weight_roles(tree: PyTree) -> PyTree:
    """The role of every weight: a tree of strings, as labels of `optax.multi_transform`.

    - `"input"`, `"recurrent"`: the matrices `w` and `r` of a layer;
    - `"matrix"`: another matrix of a cell or of a wrapper, such as a highway's gate;
    - `"bias"`: the biases of a layer or of a wrapper;
    - `"vector"`: other weights that multiply or add unit by unit: peepholes, gains, decays;
    - `"initial_state"`: that of `wrappers.learn_initial_state`;
    - `"other"`: arrays outside of networks, and those of a node of your own that does not say
      (see `Node.roles`).

    Args:
        tree: a network, or any tree that holds networks among other arrays.

    ```python
    import optax

    params = jaxlstm.init(jax.random.key(0), jaxlstm.lstm, input_size=3, hidden_size=5)
    optimizer = optax.multi_transform(
        {"recurrent": optax.adam(1e-3), "rest": optax.adam(1e-2)},
        lambda params: jax.tree.map(
            lambda role: "recurrent" if role == "recurrent" else "rest",
            jaxlstm.weight_roles(params),
        ),
    )
    assert jaxlstm.weight_roles(params).b == "bias"
    ```
    """
    return _map(lambda role, a, node: role, tree)


def decay_mask(tree: PyTree) -> PyTree:
    """True for the weights to decay, the matrices: a `mask` for optax, of arrays or of gradients.

    Of arrays outside of networks, those with two axes or more are matrices.

    Args:
        tree: a network, or any tree that holds networks among other arrays.

    ```python
    import optax

    params = {"rnn": jaxlstm.init(jax.random.key(0), jaxlstm.lstm, 3, 5), "b": jnp.zeros(5)}
    optimizer = optax.adamw(1e-3, weight_decay=0.1, mask=jaxlstm.decay_mask)
    state = optimizer.init(params)
    assert jaxlstm.decay_mask(params)["rnn"].w and not jaxlstm.decay_mask(params)["rnn"].b
    ```
    """

    def of(role: str, a: PyTree, node: Node | None) -> bool:
        return role in MATRICES or (role == "other" and np.ndim(a) > 1)

    return _map(of, tree)


def muon_dimension_numbers(tree: PyTree) -> PyTree:
    """The axes of every matrix for `optax.contrib.muon`, which takes each gate by itself.

    A tree with `optax.contrib.MuonDimensionNumbers` at the matrices and None, which is Adam's
    part, at all else.  Of arrays outside of networks, those with two axes are matrices, as in
    optax; an embedding or a readout that is Adam's part is None in the tree that is given on.

    Args:
        tree: a network, or any tree that holds networks among other arrays.

    ```python
    import optax

    params = jaxlstm.init(jax.random.key(0), jaxlstm.lstm, input_size=3, hidden_size=5)
    optimizer = optax.contrib.muon(
        1e-3, muon_weight_dimension_numbers=jaxlstm.muon_dimension_numbers
    )
    state = optimizer.init(params)
    assert jaxlstm.muon_dimension_numbers(params).b is None
    ```
    """
    from optax.contrib import MuonDimensionNumbers  # of optax alone, which users of it have

    def of(role: str, a: PyTree, layer: Node | None) -> PyTree:
        if role in ("input", "recurrent"):
            first = -np.ndim(a) if isinstance(layer, ConvLayer) else -3
            return MuonDimensionNumbers((*range(first, -2),), -1)
        if role == "matrix":
            return MuonDimensionNumbers(-2, -1)
        return MuonDimensionNumbers() if role == "other" and np.ndim(a) == 2 else None

    return _map(of, tree)


def _map(
    f: Callable[[str, PyTree, Node | None], PyTree],
    tree: PyTree,
    role: str = "other",
    of: Node | None = None,
) -> PyTree:
    """`f(role, array, the node that has it)` of every leaf of a tree."""
    is_node = lambda a: isinstance(a, Node)
    if not is_node(tree):
        inner = lambda a: _map(f, a) if is_node(a) else f(role, a, of)
        return jax.tree.map(inner, tree, is_leaf=is_node)
    parts, structure = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda a: a is not tree)
    made: list[PyTree] = []
    for (key,), part in parts:
        name = jax.tree_util.keystr((key,), simple=True)
        if name == "weights" and isinstance(tree, CellNode) and isinstance(part, dict):
            known = dict(tree.cell.weights)
            made.append({k: _map(f, a, _role(known.get(k)), tree) for k, a in part.items()})
        else:
            made.append(_map(f, part, tree.roles.get(name, "other"), tree))
    return jax.tree.unflatten(structure, made)


def _role(weight: Weight | None) -> str:
    """A matrix has two sizes as its last words; `...` stands where a vector has the batch."""
    words = weight.shape.split() if weight else []
    sizes = [word for word in words[-2:] if not word.isdigit() and word != "gates"]
    return "matrix" if len(sizes) == 2 and "..." not in words else "vector"
