"""Checks of arguments: errors say what was expected, what was passed and what to do.

Nothing here computes, except that masked inputs are zeroed first.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Collection, Hashable, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ._cell import Cell, shape_of
from ._containers import Bidirectional, Reverse, Stack, Static
from ._control import alike, of_rows
from ._layer import CellNode
from ._node import Node
from ._options import (
    array as array,
    count as count,
    describe as describe,
    flag as flag,
    floating as floating,
    key_of as key_of,
    number as number,
    numbers as numbers,
    outline,
    probability as probability,
    real as real,
    says_no_dtype as says_no_dtype,
    setting,
    short_repr as short_repr,
    whole as whole,
)
from ._types import DType, Key, KeyPath, Shape, State, TreeDef


def names(value: str | Sequence[str] | None, known: Collection[str]) -> tuple[str, ...] | None:
    """The implementations to try, in order."""
    if value is None:
        return None
    requested = value if isinstance(value, list | tuple) else [value]
    names = tuple(n for n in requested if isinstance(n, str) and n in known)
    if not names or len(names) < len(requested):
        raise ValueError(
            f"`implementation` must be None, or one or several of {sorted(known)}; got {value!r}."
        )
    return names


def products(precision: object) -> contextlib.AbstractContextManager[None]:
    """Sets the precision of matrix products inside; `None` is JAX's default."""
    if precision is None:
        return contextlib.nullcontext()
    if isinstance(precision, jax.lax.Precision):
        precision = precision.name.lower()
    return jax.default_matmul_precision(precision)


class Arguments(NamedTuple):
    """What a network runs on, once it is checked."""

    params: Node
    xs: Array
    state: State = None
    mask: Array | None = None
    reset: Array | None = None
    key: Key | None = None

    def time_first(self, axis: int, single: bool = False) -> "Arguments":
        """With time first (a time of 1 for a `single` step), and zeros where masked."""
        xs = self.xs if self.mask is None else _seen(self.mask, self.xs)
        first = (lambda a: a[None]) if single else (lambda a: jnp.moveaxis(a, axis, 0))
        xs, mask, reset = jax.tree.map(first, (xs, self.mask, self.reset))
        return self._replace(xs=xs, mask=mask, reset=reset)


# The keys of calls that passed the checks.
_valid: dict[Hashable, None] = {}
_MOST = 1024


def arrays(
    params: PyTree,
    xs: object,
    state: State,
    mask: object,
    reset: object,
    key: object,
    axis: int,
    checkpoint: int | bool | None,
    precision: object,
    single: bool = False,
) -> Arguments:
    """The checked arguments as arrays, with time at `axis`.

    Arrays of a `single` step have no time axis.  Validity does not depend on the numbers in the
    arrays, so that a call which passed once is not checked again.
    """
    call = _call(params, xs, state, mask, reset, axis, single)
    given: PyTree = params, xs, state, mask, reset
    if call is not None and call.known:
        if call.numpy:
            xs, mask, reset, *leaves = _read(call.leaves)
            params, state = call.tree.unflatten(leaves)
            given = params, xs, state, mask, reset
    else:
        given = _checked(params, xs, state, mask, reset, axis, single)
        if call is not None:
            if len(_valid) >= _MOST:
                _valid.clear()
            _valid[call.key] = None
    args = Arguments._make((*given, None if key is None else key_of(key)))
    segment(checkpoint)
    if precision is not None:
        try:
            with products(precision):
                pass
        except ValueError:
            raise ValueError(
                "`precision` must be None or what `jax.default_matmul_precision` takes, such as "
                f"'default', 'high', 'highest' or 'float32'; got {precision!r}."
            ) from None
    return args


class _Call(NamedTuple):
    """A call, identified by trees, shapes, dtypes and options."""

    key: Hashable
    known: bool  # to be valid
    numpy: bool  # has NumPy arrays
    leaves: list[PyTree]  # arrays, and None
    tree: TreeDef


def _call(
    params: PyTree, xs: object, state: State, mask: object, reset: object, axis: int, single: bool
) -> _Call | None:
    """None if a leaf is not a NumPy or JAX array, or cannot be compared."""
    try:
        leaves, tree = jax.tree.flatten((params, state))
        leaves = [xs, mask, reset, *leaves]
        kinds = [_kind(a) for a in leaves]
        # `True` equals 1, but is not an axis.
        key = (tree, *kinds, type(axis), axis, single, setting("jax_enable_x64"))
        return _Call(key, key in _valid, np.ndarray in map(type, leaves), leaves, tree)
    except Exception:  # any error of a user's tree or nodes
        return None


def _kind(a: object) -> Hashable:
    if a is None:
        return None
    if isinstance(a, jax.Array):
        return a.shape, a.dtype
    if type(a) is np.ndarray:
        return a.shape, a.dtype, "NumPy"
    raise TypeError


def _read(leaves: list[PyTree]) -> list[PyTree]:
    """JAX arrays of all leaves, as `array` makes them one by one."""
    copied = [np.array(a, a.dtype.newbyteorder("=")) for a in leaves if type(a) is np.ndarray]
    placed = iter(jax.device_put(copied))
    return [next(placed) if type(a) is np.ndarray else a for a in leaves]


def _checked(
    params: PyTree,
    inputs: object,
    state: State,
    mask: object,
    reset: object,
    axis: int,
    single: bool,
) -> tuple[Node, Array, State, Array | None, Array | None]:
    node, dtype = _params(params)
    space = node.spatial_axes  # axes between the batch and the features
    xs = _xs(inputs, dtype, node.input_size, axis, mask, space, single)
    rows = xs.shape[: -1 - space]
    called = ("mask", mask), ("reset", reset)
    seen, begun = (_rows(name, a, rows, axis, single) for name, a in called)
    others = (*xs.shape[:axis], *xs.shape[axis + 1 :])
    shape = (1, *xs.shape) if single else (xs.shape[axis], *others)
    return node, xs, _state(state, node, shape, space, axis, single), seen, begun


def segment(checkpoint: object) -> int | Literal["sqrt"] | None:
    """`checkpoint` as a plan has it; True is a word there, for it equals the number 1."""
    if checkpoint is None or isinstance(checkpoint, bool | np.bool_):
        return "sqrt" if checkpoint else None
    number = whole(checkpoint)
    if number is None or number < 1:
        raise ValueError(
            "`checkpoint` must be None, True (segments of the square root of time) or the "
            f"number of steps in a segment; got {short_repr(checkpoint)}."
        )
    return number


@functools.partial(jax.jit, inline=True)
def _seen(mask: Array, xs: Array) -> Array:
    """Inputs with zeros under the mask: NaN there must not reach even a product with zero.

    This comes first, since `jax_debug_nans` stops at any operation on a NaN.
    """
    seen = jnp.broadcast_to(of_rows(mask, xs), xs.shape)
    # Not `jnp.where`, which would first convert its operands.
    return jax.lax.select(*alike(seen, xs, jnp.zeros_like(xs)))


def params_node(params: PyTree) -> Node:
    """A network, which is a node."""
    if not isinstance(params, Node):
        raise TypeError(
            "`params` must be what `jaxlstm.init` returns, or be built of `Layer`, `Stack`, "
            f"`Bidirectional` and nodes of your own; got {describe(params)}."
        )
    return params


def _params(params: PyTree) -> tuple[Node, DType]:
    params = params_node(params)
    for path, a in jax.tree_util.tree_leaves_with_path(params):
        if not hasattr(a, "dtype"):
            raise TypeError(
                f"`params{_path(path)}` must be an array; got {describe(a)}. What is not an "
                "array belongs into the tree as `jaxlstm.Static(value)`."
            )
    params = jax.tree_util.tree_map_with_path(_weight, params)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    real = [(path, a) for path, a in leaves if jnp.issubdtype(a.dtype, jnp.floating)]
    if not real:
        raise TypeError("`params` has no weights of a floating dtype.")
    if len({a.dtype for _, a in real}) > 1:
        dtypes = ", ".join(f"params{_path(path)} {a.dtype}" for path, a in real)
        raise TypeError(
            f"the weights must be of one dtype; got {dtypes}. Cast them: "
            "`jax.tree.map(lambda a: a.astype(dtype), params)`."
        )
    dtype = real[0][1].dtype
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise TypeError(
            f"`params` are of {dtype}, and `jax_enable_x64` is off: JAX would compute in 32 bits. "
            "Turn it on, or cast them: `jax.tree.map(lambda a: a.astype('float32'), params)`."
        )
    _nodes("", params)
    return params, dtype


def network(params: PyTree) -> Node:
    """What a wrapper wraps whole, which must be a node."""
    if not isinstance(params, Node):
        raise no_network(params)
    return params


def no_network(params: object) -> TypeError:
    return TypeError(
        "a wrapper takes a network, such as `jaxlstm.init` returns, with a layer in it; got "
        f"{describe(params)}."
    )


def _nodes(path: str, tree: PyTree) -> None:
    """Checks what the library's own layers and containers hold, wherever they stand in a tree."""
    if isinstance(tree, CellNode):
        return _weights(path, tree)
    if isinstance(tree, Stack):
        layers = tree.layers
        if isinstance(layers, Node) or not isinstance(layers, tuple | list) or not layers:
            raise TypeError(
                f"`params{path}.layers` must be a tuple of one node or more, `Stack((layer,))`; "
                f"got {describe(layers)}."
            )
        rate = tree.dropout.value if isinstance(tree.dropout, Static) else tree.dropout
        probability(f"params{path}.dropout", rate)
        parts: dict[str, PyTree] = {f".layers[{i}]": node for i, node in enumerate(layers)}
    elif isinstance(tree, Bidirectional | Reverse):
        parts = {f".{name}": node for name, node in zip(tree._fields, tree, strict=True)}
    else:
        parts = {}
    for name, node in parts.items():
        if not isinstance(node, Node):
            raise TypeError(f"`params{path}{name}` must be a node; got {describe(node)}.")
    for key, part in jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda a: a is not tree):
        if part is not tree:
            _nodes(path + _path(key), part)


def _weight(path: KeyPath, a: object) -> Array:
    try:
        return array(a)
    except TypeError as e:
        raise _with(e, f"`params{_path(path)}` must be an array; got {describe(a)}.") from None


def _with(remedy: Exception, message: str) -> TypeError:
    return TypeError(f"{message} {remedy}".rstrip())


def _weights(path: str, node: CellNode) -> None:
    """Checks the weights of a layer by its cell, as wrong ones might fit by chance."""
    if not isinstance(node.cell, Cell):
        raise TypeError(
            f"`params{path}.cell` must be a cell, such as `jaxlstm.lstm`; got "
            f"{describe(node.cell)}."
        )
    if not hasattr(node.w, "shape"):
        raise TypeError(f"`params{path}.w` must be an array; got {describe(node.w)}.")
    if node.w.ndim != 3 and not node.spatial_axes:
        raise ValueError(
            f"a layer's `w` must have shape (input, gates, hidden); got {node.w.shape}. "
            "Weights of several networks in one tree are run by `jax.vmap(jaxlstm.apply, "
            "(0, None))`."
        )
    *kernel, n, _, h = node.w.shape
    for role, shape in node.cell.shapes(n, h).items():
        a = getattr(node, role)
        if a is None and role not in ("w", "r"):  # a layer may lack biases
            continue
        if role in ("w", "r") and shape is not None:
            shape = (*kernel, *shape)
        if shape != getattr(a, "shape", None):
            raise ValueError(
                f"`params{path}.{role}` of the cell {node.cell} (gates {node.cell.gates!r}) must "
                f"{'be None' if shape is None else f'have shape {shape}'}; got {describe(a)}. "
                "Use `jaxlstm.convert` for weights of other frameworks."
            )
    dims = node.cell.dims(math.prod(kernel) * n, h)
    own = {k: shape_of(weight.shape, dims) for k, weight in node.cell.own_weights().items()}
    more = {} if node.weights is None else node.weights
    if not isinstance(more, dict) or more.keys() != own.keys():
        raise ValueError(
            f"`params{path}.weights` of the cell {node.cell} must be "
            f"{f'a dict of {sorted(own)}' if own else 'None'}; got "
            f"{sorted(more) if isinstance(more, dict) else describe(more)}."
        )
    for name, shape in own.items():
        if getattr(more[name], "shape", None) != shape:
            raise ValueError(
                f"`params{path}.weights[{name!r}]` of the cell {node.cell} must have shape "
                f"{shape}; got {describe(more[name])}."
            )


def inputs(name: str, given: object, read: Callable[[object], PyTree] = array) -> PyTree:
    """Inputs as one array."""
    try:
        return read(given)
    except TypeError as e:
        ragged = (
            " Sequences of different lengths are padded to one array, and "
            "`jaxlstm.lengths_to_mask` gives their mask."
        )
        raise _with(
            e,
            f"`{name}` must be one array of inputs; got {describe(given)}."
            + (ragged if isinstance(given, list | tuple) else ""),
        ) from None


def _xs(
    given: object, dtype: DType, size: int | None, axis: int, mask: PyTree, space: int, single: bool
) -> Array:
    name = "x" if single else "xs"
    xs = inputs(name, given)
    if isinstance(given, list | tuple):
        cast = f"np.asarray({name}, '{dtype}')"
    else:
        cast = f"{name if hasattr(given, 'astype') else f'jnp.array({name})'}.astype('{dtype}')"
    if jnp.issubdtype(xs.dtype, jnp.integer) or xs.dtype == bool:
        numbers = xs.ndim >= 2 + space - single and xs.shape[-1] == size
        raise TypeError(
            f"`{name}` must be of the weights' dtype, {dtype}; got {describe(xs)}. Embed or "
            "one-hot encode symbols (`jax.nn.one_hot`)"
            + (f", or cast numbers: `{cast}`." if numbers else ", a row of features for each.")
        )
    number = whole(axis)
    if number is None or not 0 <= number < max(xs.ndim - 1 - space, 1):
        raise ValueError(
            f"`axis` must be an axis of `xs` of shape {xs.shape} before its last, counted from 0; "
            f"got {short_repr(axis)}."
        )
    expected = ["*batch"] if axis or single else ["time", "*batch"]
    expected += ["time"] if axis else []
    expected += ["depth", "height", "width"][3 - space :]
    shape = f"({', '.join([*expected, str(size or 'input')])})"
    few = xs.ndim < 2 + space - single
    if few or (size is not None and xs.shape[-1] != size):
        masked = "" if mask is None else f" with a mask of {np.shape(mask)}"
        raise ValueError(
            f"`{name}` must have shape {shape}; got {xs.shape}{masked}. The last axis holds the "
            "features of one time step."
            + (
                " One step without a time axis is run by `jaxlstm.step`."
                if few and not single
                else ""
            )
        )
    if xs.dtype != dtype:
        real = jnp.issubdtype(xs.dtype, jnp.floating)
        remedy = f"cast one of them, such as `{cast}`" if real else "pass real numbers"
        raise TypeError(
            f"`{name}` must be of the weights' dtype, {dtype}; got {xs.dtype}. Nothing is cast "
            f"silently: {remedy}."
        )
    return xs


def _rows(name: str, given: object, expected: Shape, axis: int, single: bool) -> Array | None:
    if given is None:
        return None
    xs = "x" if single else "xs"
    try:
        rows = array(given)
    except TypeError as e:
        message = (
            f"`{name}` must be an array of booleans of shape {expected}; got {describe(given)}."
        )
        raise _with(e, message) from None
    if rows.shape != expected:
        swapped = not single and rows.ndim > 1 and _swapped(rows.shape) == expected
        lengths = name == "mask" and not single and rows.ndim == len(expected) - 1
        called = f"lengths, time{f', axis={axis}' if axis else ''}"
        remedy = (
            f" Time and batch are swapped: pass `{name}.swapaxes(0, 1)`"
            + (", or `axis=1` if batch comes first in all of them." if axis == 0 else ".")
            if swapped
            else f" Lengths become a mask by `jaxlstm.lengths_to_mask({called})`."
            if lengths
            else ""
        )
        raise ValueError(
            f"`{name}` must have the shape of `{xs}` without its features, {expected}; got "
            f"{rows.shape}.{remedy}"
        )
    if says_no_dtype(given, rows):
        rows = rows.astype(bool)
    if rows.dtype != bool:
        test = f"{name} != 0" if hasattr(given, "astype") else f"np.asarray({name}) != 0"
        raise TypeError(f"`{name}` must be of dtype bool; got {rows.dtype}. Pass `{test}`.")
    return rows


def _swapped(shape: Shape) -> Shape:
    return (*shape[1::-1], *shape[2:])


def _state(state: State, params: Node, shape: Shape, space: int, axis: int, single: bool) -> State:
    """`shape` is that of the inputs, time first."""
    if state is None:
        return None
    remedy = "`state` must be what an earlier call with these `params` returned"
    given = state
    try:
        state = jax.tree.map(array, state)
    except TypeError as e:
        raise _with(e, f"{remedy}; got {outline(given)}.") from None
    batch = shape[1:-1]
    rows = len(batch) - space
    expected = jax.eval_shape(lambda p: p.initial_state(batch), params)
    if jax.tree.structure(state) != jax.tree.structure(expected):
        raise ValueError(
            f"{remedy}; got the state of another network: {outline(state)} in place of "
            f"{outline(expected)}."
        )
    pairs = zip(jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(expected), strict=True)
    for (path, a), b in pairs:
        if a.shape != b.shape:
            hint = ""
            if single and a.shape == b.shape[1:]:
                hint = " `step` takes one step without time; a sequence is run by `apply`."
            elif not single and axis == 0 and a.shape == (shape[0], *b.shape[1:]) and rows:
                hint = " If batch comes first in `xs`, pass `axis=1`."
            raise ValueError(
                f"{remedy}: `state{_path(path)}` must have shape {b.shape}; got {a.shape}.{hint}"
            )
        if a.dtype != b.dtype:
            raise TypeError(
                f"{remedy}: `state{_path(path)}` must be of dtype {b.dtype}; got {a.dtype}."
            )
    return state


def _path(path: KeyPath) -> str:
    return jax.tree_util.keystr(path)
