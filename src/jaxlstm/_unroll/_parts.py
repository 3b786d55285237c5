"""What a gated cell's equations do with `u` and `v`: of most gates they take only the sum."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._cell import Cell, Weights, front
from .._layer import take, wide


class Parts(NamedTuple):
    """Three groups of gates: their letters, or arrays with a row a gate, None for no gate."""

    sums: Any  # `u + v`, of the gates that the equations take by it alone
    u: Any  # of the other gates
    v: Any


def groups(p: Weights) -> Parts:
    """Which gates of a layer belong to which group: of `gru` it is `rz`, `n` and `n`.

    Read from the equations as JAX traces them: each entry of `u` and `v` is followed through
    slices to what uses it.  Any use but the sum of one gate's `u` and `v` keeps these apart.
    """
    gates, recurrent, hidden = p.cell.gates, p.cell.recurrent, p.r.shape[-1]
    state = jax.eval_shape(lambda: p.zeros(()))
    u, v = (jax.ShapeDtypeStruct((len(n), hidden), wide(p.r.dtype)) for n in (gates, recurrent))
    jaxpr = jax.make_jaxpr(lambda u, v, s: p.cell.point(p, s, u, v))(u, v, state).jaxpr

    # An entry is told by the place of its gate in the alphabet, and its unit.
    numbered = lambda names: np.array([[ord(g)] for g in names]) * hidden + np.arange(hidden)
    held = {id(x): a for x, a in zip(jaxpr.invars, map(numbered, (gates, recurrent)), strict=False)}
    of_v = {id(jaxpr.invars[1])}
    apart: set[int] = set()
    for equation in jaxpr.eqns:
        names = [id(x) for x in equation.invars if id(x) in held]
        entries = [held[n] for n in names]
        if (cut := _CUTS.get(equation.primitive.name)) and names:
            outs = map(id, equation.outvars)
            new = dict(zip(outs, cut(entries[0], **equation.params), strict=True))
            held |= new
            of_v |= new.keys() if names[0] in of_v else set()
        elif not (
            equation.primitive.name == "add"
            and len(names) == 2
            and len(of_v.intersection(names)) == 1
            and np.array_equal(*entries)
        ):
            apart |= {int(i) // hidden for a in entries for i in np.unique(a)}
    apart |= {int(i) // hidden for x in jaxpr.outvars for i in np.unique(held.get(id(x), []))}

    sums = [g for g in gates if g in recurrent and ord(g) not in apart]
    rest = ([g for g in names if g not in sums] for names in (gates, recurrent))
    return Parts(*map("".join, (sums, *rest)))


def _split(a: np.ndarray, sizes: Any, axis: int) -> list[np.ndarray]:
    return np.split(a, np.cumsum(sizes)[:-1], axis)


def _slice(a: np.ndarray, start_indices: Any, limit_indices: Any, strides: Any) -> list[np.ndarray]:
    strides = strides or [1] * a.ndim
    return [a[tuple(map(slice, start_indices, limit_indices, strides))]]


_CUTS = {
    "slice": _slice,
    "split": _split,
    "squeeze": lambda a, dimensions: [a.squeeze(dimensions)],
    "jaxlstm_name": lambda a, **_: [a],
}


def of_u(gates: Parts, cell: Cell, u: Array) -> Parts:
    return Parts(take(u, cell.gates, gates.sums), take(u, cell.gates, gates.u), None)


def of_v(gates: Parts, cell: Cell, v: Array) -> Parts:
    return Parts(take(v, cell.recurrent, gates.sums), None, take(v, cell.recurrent, gates.v))


def add(a: Parts, b: Parts) -> Parts:
    return Parts(*map(lambda x, y: y if x is None else x if y is None else x + y, a, b))


def whole(gates: Parts, cell: Cell, parts: Parts) -> tuple[Array, Array]:
    """`u` and `v` as the equations take them, gates first; of a sum, `v` is zero."""
    fronts = Parts(*(None if a is None else front(a) for a in parts))
    like = fronts.u if fronts.sums is None else fronts.sums
    assert like is not None
    zeros = jnp.zeros(like.shape[1:], like.dtype)

    def rows(names: str, *groups: tuple[str, Array | None]) -> Array:
        for group, part in groups:
            if group == names and part is not None:
                return part
        found = {
            g: row for group, part in groups if part is not None for g, row in zip(group, part)
        }
        if not found:
            return jnp.broadcast_to(zeros, (len(names), *zeros.shape))
        # Not `stack`, which takes no network whose type says that it is one of several devices'.
        return jnp.concatenate([found.get(name, zeros)[None] for name in names])

    u = rows(cell.gates, (gates.sums, fronts.sums), (gates.u, fronts.u))
    return u, rows(cell.recurrent, (gates.v, fronts.v))
