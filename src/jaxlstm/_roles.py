"""What each weight is for, for optimizers: which are matrices, and along which axes.

The number of axes does not say: a bias is `(gates, hidden)`, a matrix `(input, gates, hidden)`,
and in an ensemble both have one more axis.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import jax
import numpy as np
from jaxtyping import PyTree

from . import cells
from ._cell import Cell, Weight
from ._conv import ConvLayer
from ._layer import CellNode
from ._node import Node
from ._types import KeyPath

MATRICES = ("input", "recurrent", "matrix")


def weight_roles(tree: PyTree) -> PyTree:
    """The role of every weight, as a tree of strings: labels for `optax.multi_transform`.

    - `"input"`, `"recurrent"`: the matrices `w` and `r` of a layer;
    - `"matrix"`: another matrix of a cell or of a wrapper, such as a highway's gate;
    - `"bias"`: the biases of a layer or of a wrapper;
    - `"vector"`: other weights that multiply or add unit by unit: peepholes, gains, decays;
    - `"initial_state"`: that of `wrappers.learn_initial_state`;
    - `"other"`: arrays outside of networks, and those of your own nodes that do not declare it
      (see `Node.roles`).

    The modules of `jaxlstm.nnx`, `jaxlstm.linen` and `jaxlstm.haiku` have the weights by their
    names in a dict, and there they are known by these: a dict of `layers_0_w`, with `layers_0_b`
    or `layers_0_r` of the same width beside it, is a network.

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
    return _map(lambda role, a, axes: role, tree)


def decay_mask(tree: PyTree) -> PyTree:
    """True for the weights to decay, which are the matrices: a `mask` for optax.

    It works on trees of weights and of gradients.  Arrays outside of networks count as matrices if
    they have at least two axes.

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

    def of(role: str, a: PyTree, axes: int) -> bool:
        return role in MATRICES or (role == "other" and np.ndim(a) > 1)

    return _map(of, tree)


def muon_dimension_numbers(tree: PyTree) -> PyTree:
    """The axes of every matrix for `optax.contrib.muon`, which treats each gate separately.

    Returns a tree with `optax.contrib.MuonDimensionNumbers` for matrices, and None for all other
    arrays, which muon leaves to Adam.  Arrays outside of networks count as matrices if they have
    two axes, as in optax; to leave an embedding or a readout to Adam, set it to None in the result.

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

    def of(role: str, a: PyTree, axes: int) -> PyTree:
        if role in ("input", "recurrent"):
            return MuonDimensionNumbers((*range(-axes, -2),), -1)
        if role == "matrix":
            return MuonDimensionNumbers(-2, -1)
        return MuonDimensionNumbers() if role == "other" and np.ndim(a) == 2 else None

    return _map(of, tree)


def _map(f: Callable[[str, PyTree, int], PyTree], tree: PyTree) -> PyTree:
    """`f(role, array, axes)` of every leaf of a tree; so many axes has a matrix of its layer."""
    of = lambda a: isinstance(a, Node) or _is_masked(a)
    found, structure = jax.tree_util.tree_flatten_with_path(tree, is_leaf=of)
    known = _by_name(found)
    made: list[PyTree] = []
    for number, (_, a) in enumerate(found):
        if isinstance(a, Node):
            made.append(_of_node(f, a))
        else:
            made.append(a if _is_masked(a) else f(*known.get(number, ("other", a, 3))))
    return jax.tree.unflatten(structure, made)


def _is_masked(a: object) -> bool:
    """Whether optax has put `MaskedNode` in the place of an array."""
    return type(a).__name__ == "MaskedNode"


def _of_node(
    f: Callable[[str, PyTree, int], PyTree], tree: PyTree, role: str = "other", axes: int = 3
) -> PyTree:
    if not isinstance(tree, Node):
        inner = lambda a: _of_node(f, a) if isinstance(a, Node) else f(role, a, axes)
        return jax.tree.map(inner, tree, is_leaf=lambda a: isinstance(a, Node))
    parts, structure = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda a: a is not tree)
    made: list[PyTree] = []
    for (key,), part in parts:
        name = jax.tree_util.keystr((key,), simple=True)
        if name == "weights" and isinstance(tree, CellNode) and isinstance(part, dict):
            own = dict(tree.cell.weights)
            made.append({k: _of_node(f, a, _role(own.get(k))) for k, a in part.items()})
        else:
            axes = np.ndim(part) if isinstance(tree, ConvLayer) else 3
            made.append(_of_node(f, part, tree.roles.get(name, "other"), axes))
    return jax.tree.unflatten(structure, made)


def _role(weight: Weight | None) -> str:
    """A matrix has two sizes as its last words; `...` stands where a vector has the batch."""
    words = weight.shape.split() if weight else []
    sizes = [word for word in words[-2:] if not word.isdigit() and word != "gates"]
    return "matrix" if len(sizes) == 2 and "..." not in words else "vector"


Named: TypeAlias = dict[str, tuple[int, PyTree]]  # where each stands among all leaves


def _by_name(found: Sequence[tuple[KeyPath, PyTree]]) -> dict[int, tuple[str, PyTree, int]]:
    """The weights of networks that stand in a dict by their key paths, as in a module of Flax."""
    dicts: dict[tuple[str, ...], Named] = {}
    for number, (path, a) in enumerate(found):
        *above, name = [jax.tree_util.keystr((key,), simple=True) for key in path] or [""]
        if name == "value" and above:  # of a variable of nnx
            *above, name = above
        if not isinstance(a, Node):
            dicts.setdefault(tuple(above), {})[name] = number, a
    known: dict[int, tuple[str, PyTree, int]] = {}
    for one in dicts.values():
        layers = {name[:-1]: axes for name in one if (axes := _layer(name, one))}
        if not layers:
            continue
        for name, (number, a) in one.items():
            at = max((p for p in layers if name.startswith(p)), key=len, default="")
            role = _role_by_name(name.removeprefix(at), at in layers)
            known[number] = role, a, layers.get(at, 3)
    return known


def _layer(name: str, among: Named) -> int:
    """How many axes `w` of a layer has, those of an ensemble left out; 0 if it is none.

    What stands beside it tells: `r` of the same width, `b` of the same gates and width, or other
    weights of a cell.
    """
    if name != "w" and not name.endswith("_w"):
        return 0
    arrays = {role: among[at][1] for role in "wrb" if (at := name[:-1] + role) in among}
    w, r, b = (None if _is_masked(a := arrays.get(role)) else a for role in "wrb")
    if len(arrays) < 2 and not any(at.startswith(f"{name[:-1]}weights_") for at in among):
        return 0
    if w is None:
        return 3
    axes, shape = np.ndim(w), np.shape(w)
    fits = axes >= 3
    if r is not None:
        fits = fits and np.ndim(r) == axes and np.shape(r)[-1] == shape[-1]
    if b is None:
        return 3 if fits else 0
    axes += 2 - np.ndim(b)
    return axes if fits and axes >= 3 and np.ndim(b) >= 2 and np.shape(b)[-2:] == shape[-2:] else 0


def _role_by_name(name: str, of_a_layer: bool) -> str:
    """What a weight is for by its name; after that of its layer, if it is of one."""
    if of_a_layer:
        if name in CellNode.roles:
            return CellNode.roles[name]
        if name.startswith("weights_"):
            kinds = {_role(dict(cell.weights).get(name[8:])) for cell in _cells_with(name[8:])}
            return kinds.pop() if len(kinds) == 1 else "other"
    words = name.split("_")
    roles = {role for kind in _kinds(Node) for k, role in kind.roles.items() if k in words}
    return roles.pop() if len(roles) == 1 else "other"


def _cells_with(weight: str) -> list[Cell]:
    return [c for c in vars(cells).values() if isinstance(c, Cell) and weight in dict(c.weights)]


def _kinds(of: type[Node]) -> Iterator[type[Node]]:
    for kind in of.__subclasses__():
        if not issubclass(kind, CellNode):
            yield kind
            yield from _kinds(kind)
