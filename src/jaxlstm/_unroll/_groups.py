"""What the equations of a step do with `u` and `v`: of most gates they take only the sum."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._layer import are_of_rows, take
from .._node import Problem, StepNode


class Parts(NamedTuple):
    """`u` and `v` of one step, or of all, as they are stored; None for no gate."""

    sums: Any  # `u + v`, of the gates that the equations take by it alone
    u: Any  # of the other gates
    v: Any  # of the other gates, an array for each product of the step


class Groups(NamedTuple):
    """The letters of the gates in each part; of `gru`, `rz`, `n` and `(n,)`.

    A step may multiply several times with its recurrent weights: `calls` has the letters of
    each product, `summed` those of them that only enter a sum, `v` the others.
    """

    gates: str
    sums: str
    u: str
    calls: tuple[str, ...]
    summed: tuple[str, ...]
    v: tuple[str, ...]
    operands: tuple[bool, ...]  # of each product: whether its operand is the first field of `s`
    own: bool  # whether the step has other weights, that it does not take row by row


def group(
    gates: str, calls: tuple[str, ...], operands: tuple[bool, ...], own: bool, apart: set[str]
) -> Groups:
    asked = "".join(calls)
    sums = [g for g in gates if asked.count(g) == 1 and g not in apart]
    in_sums = lambda names: "".join(g for g in names if g in sums)
    others = lambda names: "".join(g for g in names if g not in sums)
    return Groups(
        gates, in_sums(gates), others(gates), calls,
        tuple(map(in_sums, calls)), tuple(map(others, calls)), operands, own,
    )  # fmt: skip


def without_sums(groups: Groups) -> Groups:
    """With `u` and `v` of every gate stored by themselves."""
    return group(groups.gates, groups.calls, groups.operands, groups.own, set(groups.gates))


def groups_of(problem: Problem) -> Groups | None:
    """The groups of a node's gates; None if no weight of its step can be taken out of a loop.

    Read from one step of one row, as JAX traces it: each entry of `u` and of the products is
    followed through what only moves numbers to what uses it.  Any use but the sum of one gate's
    `u` and `v` keeps these apart.
    """
    node, xs, noisy = problem.single, problem.xs, problem.controls.noise is not None
    batch = (1,) * (len(xs.shape) - 2)
    s = jax.eval_shape(lambda node: node.initial_state(batch), node)
    x = jax.ShapeDtypeStruct((*batch, xs.shape[-1]), xs.dtype)
    u = jax.eval_shape(lambda node, x: node.project(x), node, x)
    key = jax.eval_shape(lambda: jax.random.key(0))
    noise = jax.eval_shape(lambda node, key: node.noise(key, batch), node, key) if noisy else None

    calls: list[str] = []
    operands: list[bool] = []
    products: list[Any] = []

    def look(node: StepNode, s: Any, u: Any, noise: Any) -> Any:
        def recur(h: Array, gates: str) -> Array:
            v = node.recur(h, gates)
            calls.append(gates)
            operands.append(h is s[0])
            products.append(jax.ShapeDtypeStruct(v.shape, v.dtype))
            return v

        return node.step(s, u, recur, noise)

    try:
        jax.eval_shape(look, node, s, u, noise)
    except jax.errors.UnexpectedTracerError:
        return None

    def given(u: Any, vs: list[Any], node: StepNode, s: Any, noise: Any) -> Any:
        rest = iter(vs)
        return node.step(s, u, lambda h, gates: next(rest), noise)

    jaxpr = jax.make_jaxpr(given)(u, products, node, s, noise).jaxpr
    first = len(jax.tree.leaves((u, products)))
    weights = jaxpr.invars[first : first + len(jax.tree.leaves(node))]
    used = {id(x) for equation in jaxpr.eqns for x in equation.invars} | {*map(id, jaxpr.outvars)}
    alone = [id(x) for x, of_rows in zip(weights, are_of_rows(node), strict=True) if not of_rows]
    own = not used.isdisjoint(alone)
    if not calls and not own:
        return None
    apart: set[str] = set()
    if node.gates:
        apart = _apart(jaxpr, [(node.gates, u), *zip(calls, products, strict=True)])
    return group(node.gates, tuple(calls), tuple(operands), own, apart)


def _apart(jaxpr: Any, given: list[tuple[str, Any]]) -> set[str]:
    """The gates of whose `u` and `v` a program uses more than the sum; they come first in it."""
    # An entry is known by the place of its gate in the alphabet, and its unit.
    numbered = lambda names, a: np.broadcast_to(
        np.array([[ord(g)] for g in names]) * a.shape[-1] + np.arange(a.shape[-1]), a.shape
    )
    entries = {id(x): numbered(*pair) for x, pair in zip(jaxpr.invars, given, strict=False)}
    hidden = given[0][1].shape[-1]
    of_v = {id(x) for x in jaxpr.invars[1 : len(given)]}
    apart: set[int] = set()
    for equation in jaxpr.eqns:
        names = [id(x) for x in equation.invars if id(x) in entries]
        moved = [entries[n] for n in names]
        if (move := _MOVES.get(equation.primitive.name)) and names:
            outs = map(id, equation.outvars)
            new = dict(zip(outs, move(moved[0], **equation.params), strict=True))
            entries |= new
            of_v |= new.keys() if names[0] in of_v else set()
        elif not (
            equation.primitive.name == "add"
            and len(names) == 2
            and len(of_v.intersection(names)) == 1
            and np.array_equal(moved[0], moved[1])
        ):
            apart |= {int(i) // hidden for a in moved for i in np.unique(a)}
    apart |= {int(i) // hidden for x in jaxpr.outvars for i in np.unique(entries.get(id(x), []))}
    return set(map(chr, apart))


def _slice(a: np.ndarray, start_indices: Any, limit_indices: Any, strides: Any) -> list[np.ndarray]:
    strides = strides or [1] * a.ndim
    return [a[tuple(map(slice, start_indices, limit_indices, strides))]]


_MOVES: dict[str, Callable[..., list[np.ndarray]]] = {
    "slice": _slice,
    "split": lambda a, sizes, axis: np.split(a, np.cumsum(sizes)[:-1], axis),
    "squeeze": lambda a, dimensions: [a.squeeze(dimensions)],
    "transpose": lambda a, permutation: [a.transpose(permutation)],
    "jaxlstm_name": lambda a, **_: [a],
    "name": lambda a, **_: [a],
}


def split(groups: Groups, u: Any, vs: list[Array]) -> Parts:
    """`u` and `v` as they are stored."""
    if not groups.gates:
        return Parts(None, u, tuple(vs))
    products = zip(groups.calls, groups.summed, vs, strict=True)
    summed = [(gates, take(v, asked, gates)) for asked, gates, v in products]
    sums = None
    if groups.sums:
        sums = take(u, groups.gates, groups.sums) + rows(groups.sums, summed)
    v = tuple(map(take, vs, groups.calls, groups.v))
    return Parts(sums, take(u, groups.gates, groups.u), v)


def plus(a: Parts, b: Parts) -> Parts:
    """The sum of the parts of `u` and of those of `v`."""
    add = lambda x, y: y if x is None else x if y is None else x + y
    return Parts(add(a.sums, b.sums), a.u, b.v)


def u_of(groups: Groups, parts: Parts) -> Any:
    """`u` as the equations take it; of a summed gate, the sum."""
    if not groups.gates:
        return parts.u
    return rows(groups.gates, [(groups.sums, parts.sums), (groups.u, parts.u)])


def v_of(groups: Groups, parts: Parts, call: int) -> Array:
    """A product as the equations take it; of a summed gate, zero."""
    if not groups.gates:
        return parts.v[call]
    of_a_gate = parts.u if parts.sums is None else parts.sums
    zeros = jnp.zeros_like(of_a_gate[..., 0, :])
    return rows(groups.calls[call], [(groups.v[call], parts.v[call])], zeros)


def rows(names: str, groups: Iterable[tuple[str, Any]], missing: Array | None = None) -> Array:
    """The array with a row for each of the names, from arrays that have some of them each.

    Gates first, as the equations want it: XLA sees through two transpositions.  Not by `stack`,
    which takes no network whose type says that it is one of several devices'.
    """
    groups = list(groups)
    for letters, part in groups:
        if letters == names and part is not None:
            return part
    found = {
        g: part[..., i, :] for letters, part in groups if part is not None
        for i, g in enumerate(letters)
    }  # fmt: skip
    if not found:
        assert missing is not None
        return jnp.concatenate([missing[..., None, :]] * len(names), -2)
    return jnp.moveaxis(jnp.concatenate([found.get(name, missing)[None] for name in names]), 0, -2)
