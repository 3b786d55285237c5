"""A gated cell's equations in C++: as JAX traces them, operation by operation.

Equations are traced for one unit, so every value in them is a few numbers: a gate each, at most.
An array of such numbers becomes an array of names of C++ variables; what only moves numbers
(slices, reshapes) moves names, and what computes makes a line for each number.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

from ..._cell import Cell
from .._groups import Groups, Parts, u_of, v_of


@functools.cache
def source(cell: Cell, groups: Groups) -> str:
    """The counts and places of a cell's gates, and its equations forwards and backwards.

    Traced the same wherever it is first asked for: outside any mesh, with numbers of 32 bits.
    """
    nowhere = jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ()))
    with nowhere, jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        return _source(cell, groups)


def _source(cell: Cell, groups: Groups) -> str:
    given = dict(cell.options)
    state = [jax.ShapeDtypeStruct((1,), jnp.float32)] * len(cell.state._fields)
    part = lambda gates: jax.ShapeDtypeStruct((len(gates), 1), jnp.float32) if gates else None
    (apart,) = groups.v
    parts = Parts(part(groups.sums), part(groups.u), (part(apart),))

    def forward(s: Any, parts: Parts) -> Any:
        u, v = u_of(groups, parts), v_of(groups, parts, 0)
        return tuple(cell.equations(cell.state(*s), u, v, **given))

    def backward(s: Any, parts: Parts, d: Any) -> Any:
        ds, dparts = jax.vjp(forward, s, parts)[1](d)
        return ds, dparts

    names = lambda letter, n: [f"{letter}[{i}]" for i in range(n)]
    fields, slots = names("s", len(state)), names("z", len(groups.sums + groups.u + apart))
    d = names("d", len(state))
    places = {
        "FROM_X": [cell.gates.index(g) for g in groups.sums + groups.u],
        "FROM_H": [cell.recurrent.index(g) for g in groups.sums + apart],
    }
    counts = {
        "FIELDS": len(state),
        "SUMS": len(groups.sums),
        "INPUTS": len(groups.u),
        "PRODUCTS": len(apart),
        "GATES": len(cell.gates),
        "RECURRENT": len(cell.recurrent),
    }
    lines = [f"constexpr int {k} = {v};" for k, v in counts.items()]
    # C++ has no empty array.
    lines += [
        f"constexpr int {k}[] = {{{', '.join(map(str, v)) or '0'}}};" for k, v in places.items()
    ]
    lines += _function("forward", jax.make_jaxpr(forward)(tuple(state), parts), fields + slots)
    traced = jax.make_jaxpr(backward)(tuple(state), parts, tuple(state))
    lines += _function("backward", traced, fields + slots + d)
    return "\n".join(lines) + "\n"


def _function(name: str, traced: ClosedJaxpr, arguments: list[str]) -> list[str]:
    """A function of these arguments that writes its results to `out`, one after the other."""
    body: list[str] = []
    taken = iter(arguments)
    args = [_array([next(taken) for _ in range(v.aval.size)], v.aval) for v in traced.jaxpr.invars]
    outs = [str(x) for a in _evaluate(traced, args, body) for x in a.ravel()]
    letters = sorted({a[0] for a in arguments}, key="szd".index)
    pointers = ", ".join(f"const V* {letter}" for letter in letters)
    writes = [f"out[{i}] = {x};" for i, x in enumerate(outs)]
    inside = [f"  {line}" for line in body + writes]
    return [f"static inline void {name}({pointers}, V* out) {{", *inside, "}"]


def _array(values: list[str], aval: Any) -> np.ndarray:
    return np.array(values, dtype=object).reshape(aval.shape)


def _number(value: Any) -> np.ndarray:
    """Constants as C++ writes them."""
    a = np.asarray(value)
    if a.dtype == bool:
        text = lambda x: f"(M{{}} - {int(x)})"
    else:
        text = lambda x: f"all({_literal(float(x))})"
    return np.array([text(x) for x in a.ravel()], dtype=object).reshape(a.shape)


def _literal(x: float) -> str:
    if np.isfinite(x):
        return f"{x!r}f" if "e" in repr(x) or "." in repr(x) else f"{x!r}.0f"
    return '__builtin_nanf("")' if np.isnan(x) else f"{'-' if x < 0 else ''}__builtin_inff()"


# What computes, number by number.
_COMPUTED: dict[str, Callable[..., str]] = {
    "add": lambda a, b: f"{a} + {b}",
    "add_any": lambda a, b: f"{a} + {b}",
    "sub": lambda a, b: f"{a} - {b}",
    "mul": lambda a, b: f"{a} * {b}",
    "div": lambda a, b: f"{a} / {b}",
    "neg": lambda a: f"-{a}",
    "max": lambda a, b: f"max({a}, {b})",
    "min": lambda a, b: f"min({a}, {b})",
    "abs": lambda a: f"abs({a})",
    "sign": lambda a: f"sign({a})",
    "sqrt": lambda a: f"sqrt({a})",
    "square": lambda a: f"{a} * {a}",
    "one_minus_square": lambda a: f"(1.0f + {a}) * (1.0f - {a})",  # of newer JAX
    "exp": lambda a: f"exp({a})",
    "tanh": lambda a: f"tanh({a})",
    "logistic": lambda a: f"logistic({a})",
    "clamp": lambda low, a, high: f"min(max({a}, {low}), {high})",
    "select_n": lambda which, no, yes: f"where({which}, {yes}, {no})",
    "gt": lambda a, b: f"{a} > {b}",
    "ge": lambda a, b: f"{a} >= {b}",
    "lt": lambda a, b: f"{a} < {b}",
    "le": lambda a, b: f"{a} <= {b}",
    "eq": lambda a, b: f"{a} == {b}",
    "ne": lambda a, b: f"{a} != {b}",
    "and": lambda a, b: f"{a} & {b}",
    "or": lambda a, b: f"{a} | {b}",
    "not": lambda a: f"~{a}",
    "as number": lambda a: f"where({a}, all(1), all(0))",
}


def _power(a: np.ndarray, y: int, **_: Any) -> np.ndarray:
    one = np.full_like(a, "all(1.0f)")
    product = one if y == 0 else a
    for _more in range(abs(y) - 1):
        product = "(" + product + " * " + a + ")"
    return product if y >= 0 else "(" + one + " / " + product + ")"


def _pad(a: np.ndarray, value: np.ndarray, padding_config: Any) -> np.ndarray:
    shape = [low + n + high for n, (low, high, _) in zip(a.shape, padding_config, strict=True)]
    out = np.full(shape, value.item(), dtype=object)
    out[tuple(slice(c[0], c[0] + n) for n, c in zip(a.shape, padding_config, strict=True))] = a
    return out


def _broadcast(a: np.ndarray, shape: Any, broadcast_dimensions: Any, **_: Any) -> np.ndarray:
    inside = [a.shape[broadcast_dimensions.index(i)] if i in broadcast_dimensions else 1
              for i in range(len(shape))]  # fmt: skip
    return np.broadcast_to(a.reshape(inside), shape)


def _sum(a: np.ndarray, axes: Any, **_: Any) -> np.ndarray:
    total = np.moveaxis(a, axes, range(len(axes)))
    total = total.reshape(-1, *total.shape[len(axes) :])
    out = total[0]
    for row in total[1:]:
        out = "(" + out + " + " + row + ")"
    return np.asarray(out, dtype=object)


# What moves names, or writes an expression by itself.
_MOVED: dict[str, Callable[..., Any]] = {
    "slice": lambda a, start_indices, limit_indices, strides: a[
        tuple(map(slice, start_indices, limit_indices, strides or [1] * a.ndim))
    ],
    "split": lambda a, sizes, axis: np.split(a, np.cumsum(sizes)[:-1], axis),
    "squeeze": lambda a, dimensions: a.squeeze(tuple(dimensions)),
    "reshape": lambda a, new_sizes, **_: a.reshape(new_sizes),
    "expand_dims": lambda a, dimensions: np.expand_dims(a, tuple(dimensions)),
    "transpose": lambda a, permutation: a.transpose(permutation),
    "concatenate": lambda *a, dimension: np.concatenate(a, dimension),
    "stack": lambda *a, axis: np.stack(a, axis),
    "unstack": lambda a, axis: list(np.moveaxis(a, axis, 0)),
    "broadcast_in_dim": _broadcast,
    "pad": _pad,
    "reduce_sum": _sum,
    "integer_pow": _power,
    "stop_gradient": lambda a: a,
    "copy": lambda a: a,
    "jaxlstm_name": lambda a, **_: a,
}


def _evaluate(traced: ClosedJaxpr, args: list[np.ndarray], body: list[str]) -> list[np.ndarray]:
    env = dict(zip(traced.jaxpr.invars, args, strict=True))
    env |= dict(zip(traced.jaxpr.constvars, map(_number, traced.consts), strict=True))
    for eqn in traced.jaxpr.eqns:
        values = [_number(v.val) if isinstance(v, Literal) else env[v] for v in eqn.invars]
        env |= dict(zip(eqn.outvars, _computed(eqn, values, body), strict=True))
    return [_number(v.val) if isinstance(v, Literal) else env[v] for v in traced.jaxpr.outvars]


def _conversion(value: np.ndarray, old: Any, new: Any) -> str:
    constant = all(x.startswith("all(") for x in value.ravel())
    if old == new or (new == np.float32 and constant):
        return "copy"
    return "as number" if (old, new) == (bool, np.float32) else f"conversion of {old} to {new}"


def _computed(eqn: Any, values: list[np.ndarray], body: list[str]) -> list[np.ndarray]:
    name = eqn.primitive.name
    for key in ("jaxpr", "call_jaxpr"):
        if key in eqn.params and name not in ("scan", "while"):
            inner = eqn.params[key]
            inner = inner if isinstance(inner, ClosedJaxpr) else ClosedJaxpr(inner, ())
            return _evaluate(inner, values, body)
    if name == "convert_element_type":
        name = _conversion(values[0], *(v.aval.dtype for v in (eqn.invars[0], eqn.outvars[0])))
        if name == "copy":
            return values
    if name in _MOVED:
        out = _MOVED[name](*values, **eqn.params)
        return out if eqn.primitive.multiple_results else [out]
    if name not in _COMPUTED:
        raise NotImplementedError(f"has no {name!r} in C++ yet, which the equations call.")
    shape = eqn.outvars[0].aval.shape
    kind = "M" if eqn.outvars[0].aval.dtype == bool else "V"
    made = []
    for row in zip(*(np.broadcast_to(v, shape).ravel() for v in values), strict=True):
        variable = f"x{len(body)}"
        body.append(f"{kind} {variable} = {_COMPUTED[name](*row)};")
        made.append(variable)
    return [_array(made, eqn.outvars[0].aval)]
