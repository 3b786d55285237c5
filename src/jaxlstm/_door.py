"""Errors at the door: what was wrong, what came, what to do.  Nothing here computes."""

import contextlib
from collections.abc import Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ._said import (
    count as count,
    flag as flag,
    floating as floating,
    key_of as key_of,
    outline,
    probability as probability,
    said,
    shown as shown,
    whole as whole,
)
from ._value import Cell


def names(
    told: str | Sequence[str] | None, automatic: tuple[str, ...], known: Collection[str]
) -> tuple[str, ...]:
    """The implementations to try, in order."""
    if told is None:
        return automatic
    asked: tuple[Any, ...] = tuple(told) if isinstance(told, list | tuple) else (told,)
    if not asked or not all(isinstance(name, str) and name in known for name in asked):
        raise ValueError(
            f"`implementation` must be None, or one or several of {sorted(known)}; got {told!r}."
        )
    return asked


def products(precision: Any) -> contextlib.AbstractContextManager[Any]:
    """The precision of every matrix product made inside; `None` leaves JAX's own default."""
    if precision is None:
        return contextlib.nullcontext()
    if isinstance(precision, jax.lax.Precision):
        precision = precision.name.lower()
    return jax.default_matmul_precision(precision)


def check(
    params: Any,
    xs: Any,
    state: Any,
    mask: Any,
    reset: Any,
    key: Any,
    axis: int,
    checkpoint: int | bool | None,
    precision: Any,
    single: bool = False,
) -> tuple[Any, ...]:
    """`(params, xs, state, mask, reset, key)` as arrays with time first, or one error.

    What comes for a `single` step has no time; it leaves with a time of 1.
    """
    params, dtype = _params(params)
    space = getattr(params, "space", 0)  # axes that one input has besides its features
    xs = _xs(xs, dtype, getattr(params, "input_size", None), axis, mask, space, single)
    rows = xs.shape[: -1 - space]
    mask, reset = (_rows(n, a, rows, single) for n, a in (("mask", mask), ("reset", reset)))
    first = (lambda a: a[None]) if single else (lambda a: jnp.moveaxis(a, axis, 0))
    xs, mask, reset = (a if a is None else first(a) for a in (xs, mask, reset))
    batch_first = " If batch comes first in `xs`, pass `axis=1`." if axis == 0 else ""
    a_step = " `step` takes one step without time; a sequence is run by `apply`."
    state = _state(state, params, xs.shape[1:-1], a_step if single else batch_first)
    key = None if key is None else key_of(key)
    if not (checkpoint is None or isinstance(checkpoint, bool) or (whole(checkpoint) or 0) > 0):
        raise ValueError(
            "`checkpoint` must be None, True (segments of the square root of time) or the "
            f"number of steps in a segment; got {shown(checkpoint)}."
        )
    try:
        with products(precision):
            pass
    except ValueError:
        raise ValueError(
            "`precision` must be None or what `jax.default_matmul_precision` takes, such as "
            f"'default', 'high', 'highest' or 'float32'; got {precision!r}."
        ) from None
    return params, xs, state, mask, reset, key


def _params(params: Any) -> tuple[Any, Any]:
    leaf = all(hasattr(params, name) for name in ("zeros", "project", "step"))
    if isinstance(params, type) or not (leaf or hasattr(params, "run")):
        raise TypeError(
            "`params` must be what `jaxlstm.init` returns, or be built of `Layer`, `Stack`, "
            f"`Bidirectional` and nodes of your own; got {said(params)}."
        )
    for path, a in jax.tree_util.tree_leaves_with_path(params):
        if not hasattr(a, "dtype"):
            raise TypeError(
                f"`params{_path(path)}` must be an array; got {said(a)}. What is not an "
                "array belongs into the tree as `jaxlstm.Static(value)`."
            )
    params = jax.tree.map(jnp.asarray, params)
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
    layer = lambda node: hasattr(node, "cell") and hasattr(node, "w")
    for path, node in jax.tree_util.tree_leaves_with_path(params, is_leaf=layer):
        if layer(node):
            _weights(_path(path), node)
    return params, real[0][1].dtype


def _weights(path: str, node: Any) -> None:
    """A layer's weights must be those of its cell, or a product may fit by chance."""
    if not isinstance(node.cell, Cell):
        raise TypeError(
            f"`params{path}.cell` must be a cell, such as `jaxlstm.lstm`; got {said(node.cell)}."
        )
    if node.w.ndim != 3 and not hasattr(node, "space"):
        raise ValueError(
            f"a layer's `w` must have shape (input, gates, hidden); got {node.w.shape}. "
            "Weights of several networks in one tree are run by `jax.vmap(jaxlstm.apply, "
            "(0, None))`."
        )
    *kernel, n, _, h = node.w.shape
    for role, shape in node.cell.shapes(n, h).items():
        a = getattr(node, role)
        if a is None and role not in ("w", "r"):  # a layer may go without biases
            continue
        if role in ("w", "r") and shape is not None:
            shape = (*kernel, *shape)
        if shape != getattr(a, "shape", None):
            raise ValueError(
                f"`params{path}.{role}` of the cell {node.cell} (gates {node.cell.gates!r}) must "
                f"{'be None' if shape is None else f'have shape {shape}'}; got {said(a)}. Weights "
                "from elsewhere are read by `jaxlstm.convert`."
            )


def _xs(
    xs: Any, dtype: Any, size: int | None, axis: int, mask: Any, space: int, single: bool
) -> Array:
    name = "x" if single else "xs"
    given = xs
    try:
        xs = jnp.asarray(xs)
    except (TypeError, ValueError):
        ragged = (
            " Sequences of different lengths are padded to one array, and "
            "`jaxlstm.lengths_to_mask` tells where they end."
        )
        raise TypeError(
            f"`{name}` must be one array of inputs; got {said(given)}."
            + (ragged if isinstance(given, list | tuple) else "")
        ) from None
    number = whole(axis)
    if number is None or not 0 <= number < max(xs.ndim - 1 - space, 1):
        raise ValueError(
            f"`axis` must be an axis of `xs` of shape {xs.shape} before its last, counted from 0; "
            f"got {shown(axis)}."
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
    if jnp.issubdtype(xs.dtype, jnp.integer) or xs.dtype == bool:
        raise TypeError(
            f"`{name}` must be of the weights' dtype, {dtype}; got {xs.dtype}. Embed or one-hot "
            f"encode symbols (`jax.nn.one_hot`), or cast numbers: `{name}.astype('{dtype}')`."
        )
    if xs.dtype != dtype:
        raise TypeError(
            f"`{name}` must be of the weights' dtype, {dtype}; got {xs.dtype}. Nothing is cast in "
            f"silence: cast one of them, such as `{name}.astype('{dtype}')`."
        )
    return xs


def _rows(name: str, rows: Any, expected: tuple[int, ...], single: bool) -> Array | None:
    if rows is None:
        return None
    given, xs = rows, "x" if single else "xs"
    try:
        rows = jnp.asarray(rows)
    except (TypeError, ValueError):
        raise TypeError(
            f"`{name}` must be an array of booleans of shape {expected}; got {said(given)}."
        ) from None
    by_lengths = name == "mask" and not single
    if rows.shape != expected:
        swapped = rows.ndim > 1 and rows.shape[1::-1] + rows.shape[2:] == expected
        remedy = (
            f" Time and batch are swapped: pass `{name}.swapaxes(0, 1)`, or `axis=1` if batch "
            "comes first in all of them."
            if swapped
            else " Lengths become a mask by `jaxlstm.lengths_to_mask(lengths, time)`."
            if by_lengths
            else ""
        )
        raise ValueError(
            f"`{name}` must have the shape of `{xs}` without its features, {expected}; got "
            f"{rows.shape}.{remedy}"
        )
    if rows.dtype != bool:
        lengths = ", or for lengths `jaxlstm.lengths_to_mask(lengths, time)`" if by_lengths else ""
        raise TypeError(
            f"`{name}` must be of dtype bool; got {rows.dtype}. Pass `{name} != 0`{lengths}."
        )
    return rows


def _state(state: Any, params: Any, batch: tuple[int, ...], hint: str) -> Any:
    if state is None:
        return None
    remedy = "`state` must be what an earlier call with these `params` returned"
    try:
        state = jax.tree.map(jnp.asarray, state)
    except (TypeError, ValueError):
        raise TypeError(f"{remedy}; got {outline(state)}.") from None
    expected = jax.eval_shape(lambda p: p.zeros(batch), params)
    if jax.tree.structure(state) != jax.tree.structure(expected):
        raise ValueError(
            f"{remedy}; got the state of another network: {outline(state)} in place of "
            f"{outline(expected)}."
        )
    pairs = zip(jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(expected), strict=True)
    for (path, a), b in pairs:
        if a.shape != b.shape:
            raise ValueError(
                f"{remedy}: `state{_path(path)}` must have shape {b.shape}; got {a.shape}.{hint}"
            )
        if a.dtype != b.dtype:
            raise TypeError(
                f"{remedy}: `state{_path(path)}` must be of dtype {b.dtype}; got {a.dtype}."
            )
    return state


def _path(path: Any) -> str:
    return jax.tree_util.keystr(path)
