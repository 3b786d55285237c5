"""Errors at the door: what was wrong, what came, what to do.  Nothing here computes."""

import contextlib
from collections.abc import Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array


def names(
    told: str | Sequence[str] | None, automatic: tuple[str, ...], known: Collection[str]
) -> tuple[str, ...]:
    """The implementations to try, in order."""
    if told is None:
        return automatic
    asked = (told,) if isinstance(told, str) else tuple(told)
    if not asked or not set(asked) <= set(known):
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
) -> tuple[Any, ...]:
    """`(params, xs, state, mask, reset, key)` as arrays with time first, or one error."""
    params, dtype = _params(params)
    space = getattr(params, "space", 0)  # axes that one input has besides its features
    xs = _xs(xs, dtype, getattr(params, "input_size", None), axis, mask, space)
    rows = xs.shape[: -1 - space]
    mask, reset = _rows("mask", mask, rows), _rows("reset", reset, rows)
    xs, mask, reset = (a if a is None else jnp.moveaxis(a, axis, 0) for a in (xs, mask, reset))
    state = _state(state, params, xs.shape[1:-1], axis)
    key = None if key is None else key_of(key)
    whole = isinstance(checkpoint, int) and checkpoint >= 0
    if not (checkpoint is None or whole):
        raise ValueError(
            "`checkpoint` must be None, True (segments of the square root of time) or the "
            f"number of steps in a segment; got {checkpoint!r}."
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
            f"`Bidirectional` and nodes of your own; got a {_kind(params)}."
        )
    for path, a in jax.tree_util.tree_leaves_with_path(params):
        if not hasattr(a, "dtype"):
            raise TypeError(
                f"`params{_path(path)}` must be an array; got a {_kind(a)}. What is not an "
                "array belongs into the tree as a static value."
            )
    params = jax.tree.map(jnp.asarray, params)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    real = [(path, a) for path, a in leaves if jnp.issubdtype(a.dtype, jnp.floating)]
    if not real:
        raise TypeError("`params` has no weights of a floating dtype.")
    if len({a.dtype for _, a in real}) > 1:
        said = ", ".join(f"params{_path(path)} {a.dtype}" for path, a in real)
        raise TypeError(
            f"the weights must be of one dtype; got {said}. Cast them: "
            "`jax.tree.map(lambda a: a.astype(dtype), params)`."
        )
    for part in jax.tree.leaves(params, is_leaf=lambda node: hasattr(node, "w")):
        if hasattr(part, "w") and part.w.ndim != 3 and not hasattr(part, "space"):
            raise ValueError(
                f"a layer's `w` must have shape (input, gates, hidden); got {part.w.shape}. "
                "Weights of several networks in one tree are run by `jax.vmap(jaxlstm.apply, "
                "(0, None))`."
            )
    return params, real[0][1].dtype


def _xs(xs: Any, dtype: Any, size: int | None, axis: int, mask: Any, space: int) -> Array:
    try:
        xs = jnp.asarray(xs)
    except (TypeError, ValueError) as e:
        raise TypeError(f"`xs` must be an array of inputs; got a {_kind(xs)}: {e}") from None
    if not isinstance(axis, int) or not 0 <= axis < max(xs.ndim - 1 - space, 1):
        raise ValueError(
            f"`axis` must be an axis of `xs` before its last, counted from 0; got {axis!r} for "
            f"`xs` of shape {xs.shape}."
        )
    expected = ["*batch"] if axis else ["time", "*batch"]
    expected += ["time"] if axis else []
    expected += ["depth", "height", "width"][3 - space :]
    shape = f"({', '.join([*expected, str(size or 'input')])})"
    if xs.ndim < 2 + space or (size is not None and xs.shape[-1] != size):
        masked = "" if mask is None else f" with a mask of {jnp.shape(mask)}"
        raise ValueError(
            f"`xs` must have shape {shape}; got {xs.shape}{masked}. The last axis holds the "
            "features of one time step."
            + (
                " One step without a time axis is run by `jaxlstm.step`."
                if xs.ndim < 2 + space
                else ""
            )
        )
    if jnp.issubdtype(xs.dtype, jnp.integer) or xs.dtype == bool:
        raise TypeError(
            f"`xs` must be of the weights' dtype, {dtype}; got {xs.dtype}. Embed or one-hot "
            "encode symbols (`jax.nn.one_hot`), or cast numbers: `xs.astype(...)`."
        )
    if xs.dtype != dtype:
        raise TypeError(
            f"`xs` must be of the weights' dtype, {dtype}; got {xs.dtype}. Nothing is cast in "
            f"silence: cast one of them, such as `xs.astype('{dtype}')`."
        )
    return xs


def _rows(name: str, rows: Any, expected: tuple[int, ...]) -> Array | None:
    if rows is None:
        return None
    rows = jnp.asarray(rows)
    if rows.shape != expected:
        swapped = rows.shape[1::-1] + rows.shape[2:] == expected
        remedy = (
            f" Time and batch are swapped: pass `{name}.T`, or `axis=1` if batch comes first "
            "in all of them."
            if swapped and rows.ndim > 1
            else " Lengths become a mask by `jaxlstm.lengths_to_mask(lengths, time)`."
        )
        raise ValueError(
            f"`{name}` must have the shape of `xs` without its features, {expected}; got "
            f"{rows.shape}.{remedy}"
        )
    if rows.dtype != bool:
        raise TypeError(
            f"`{name}` must be of dtype bool; got {rows.dtype}. Pass `{name} != 0`, or for "
            "lengths `jaxlstm.lengths_to_mask(lengths, time)`."
        )
    return rows


def _state(state: Any, params: Any, batch: tuple[int, ...], axis: int) -> Any:
    if state is None:
        return None
    state = jax.tree.map(jnp.asarray, state)
    expected = jax.eval_shape(lambda p: p.zeros(batch), params)
    remedy = "`state` must be what an earlier call with these `params` returned"
    if jax.tree.structure(state) != jax.tree.structure(expected):
        raise ValueError(
            f"{remedy}; got the state of another network: {_outline(state)} in place of "
            f"{_outline(expected)}."
        )
    pairs = zip(jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(expected), strict=True)
    for (path, a), b in pairs:
        if a.shape != b.shape:
            first = " If batch comes first in `xs`, pass `axis=1`." if axis == 0 else ""
            raise ValueError(
                f"{remedy}: `state{_path(path)}` must have shape {b.shape}; got {a.shape}.{first}"
            )
        if a.dtype != b.dtype:
            raise TypeError(
                f"{remedy}: `state{_path(path)}` must be of dtype {b.dtype}; got {a.dtype}."
            )
    return state


def key_of(key: Any) -> Array:
    new = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if new and key.shape == ():
        return key
    try:
        return jax.random.wrap_key_data(jnp.asarray(key))
    except (TypeError, ValueError):
        raise TypeError(
            f"`key` must be one `jax.random.key(seed)`; got {_said(key)}. A batch of keys is "
            "for `jax.vmap`."
        ) from None


def _path(path: Any) -> str:
    return jax.tree_util.keystr(path)


def _kind(a: Any) -> str:
    return a.__name__ + " class" if isinstance(a, type) else type(a).__name__


def _said(a: Any) -> str:
    return f"{a.dtype}{list(a.shape)}" if hasattr(a, "dtype") else f"a {_kind(a)}"


def _outline(tree: Any) -> str:
    """A state in a few words: `HiddenCell(h=float32[2, 5], c=float32[2, 5])`."""
    fields = getattr(tree, "_fields", None)
    if fields is not None:
        parts = (f"{k}={_outline(v)}" for k, v in zip(fields, tree, strict=True))
        return f"{type(tree).__name__}({', '.join(parts)})"
    if isinstance(tree, (tuple, list)):
        return f"({', '.join(map(_outline, tree))})"
    return _said(tree)


def count(name: str, n: Any, least: int = 1) -> None:
    """A size must be a whole number."""
    if not isinstance(n, int) or isinstance(n, bool) or n < least:
        raise ValueError(f"`{name}` must be a whole number, {least} or more; got {n!r}.")
