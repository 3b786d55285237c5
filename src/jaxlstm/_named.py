"""What modules of other libraries share: weights by name, and networks of the size of an input."""

import inspect
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Array, PyTree

from . import _arguments
from ._cell import Cell
from ._node import Node
from ._types import Key, TreeDef


def named(params: PyTree) -> tuple[dict[str, Array], TreeDef]:
    """Every weight by its key path, such as `layers_0_w`, and the structure of the tree."""
    found, structure = jax.tree_util.tree_flatten_with_path(params)
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator="_")
    weights = {name(path): a for path, a in found}
    if len(weights) < len(found):
        names = [name(path) for path, _ in found]
        raise ValueError(f"two weights have one name among {names}: rename a field.")
    return weights, structure


def features(xs: object, single: bool = False) -> int:
    """The number of features of inputs, or of one step."""
    name = "x" if single else "xs"
    shape = np.shape(_arguments.inputs(name, xs, _arguments.numbers))
    if not shape:
        _arguments.inputs(name, xs)  # which says so if it is no array at all
        raise ValueError(
            f"`{name}` must have shape ({'' if single else 'time, '}*batch, input); got (). The "
            "last axis holds the features of one time step."
        )
    return shape[-1]


def maker(make: Callable[[Key, int], Node], input_size: int) -> Callable[[Key], Node]:
    """`make(key, input_size)` as a function of the key, with its result checked."""
    size = _arguments.count("input_size", input_size)
    what = "`make` must be a function `(key, input_size)` that returns a network"
    if not callable(make) or isinstance(make, Cell):
        there = " For weights that are there: `lambda key, input_size: params`."
        raise TypeError(
            f"{what}; got {_arguments.describe(make)}.{there if isinstance(make, Node) else ''}"
        )
    try:
        inspect.signature(make).bind(None, size)
    except TypeError as e:
        raise TypeError(f"{what}; got {make!r}, which takes others: {e}.") from None
    except ValueError:  # of a function that is not of Python
        pass

    def made(key: Key) -> Node:
        params = make(key, size)
        if not isinstance(params, Node):
            raise TypeError(
                f"{what}, such as `jaxlstm.init` does; it returned {_arguments.describe(params)}."
            )
        return params

    return made
