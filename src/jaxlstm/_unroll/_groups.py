"""What the equations of a step do with `u` and `v`: of most gates they take only the sum."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn, get_opaque_trace_state
from jaxtyping import Array, PyTree

from .._jaxpr import avals, follow, primitives
from .._layer import are_of_rows, take, take_some
from .._node import Problem, State, StepNode


class Preactivations(NamedTuple):
    """`u` and `v` of one step, or of all, as they are stored; None for no gate."""

    sums: PyTree  # `u + v`, of the gates that the equations take by it alone
    u: PyTree  # of the other gates
    v: tuple[PyTree, ...]  # of the other gates, an array for each product of the step


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
    prints: bool = False  # whether the step has effects, such as `jax.debug.print`


def group(
    gates: str, calls: tuple[str, ...], operands: tuple[bool, ...], own: bool, apart: set[str]
) -> Groups:
    called_gates = "".join(calls)
    sums = [g for g in gates if called_gates.count(g) == 1 and g not in apart]
    in_sums = lambda names: "".join(g for g in names if g in sums)
    others = lambda names: "".join(g for g in names if g not in sums)
    return Groups(
        gates, in_sums(gates), others(gates), calls,
        tuple(map(in_sums, calls)), tuple(map(others, calls)), operands, own,
    )  # fmt: skip


def without_sums(groups: Groups) -> Groups:
    """With `u` and `v` of every gate stored by themselves."""
    apart = set(groups.gates)
    found = group(groups.gates, groups.calls, groups.operands, groups.own, apart)
    return found._replace(prints=groups.prints)


def abstract_step(problem: Problem) -> tuple[StepNode, State, PyTree, PyTree]:
    """Node, state, `u` and noise of one step of one row: shapes and dtypes, to trace it."""
    node, xs, noisy = problem.single, problem.xs, problem.controls.noise is not None
    batch = (1,) * (len(xs.shape) - 2)

    def once(node: StepNode, x: Array) -> tuple[State, PyTree, PyTree]:
        noise = node.noise(jax.random.key(0), batch) if noisy else None
        return node.initial_state(batch), node.project(x), noise

    x = jax.ShapeDtypeStruct((*batch, xs.shape[-1]), xs.dtype)
    s, u, noise = jax.eval_shape(once, node, x)
    return node, s, u, noise


def groups_of(problem: Problem) -> Groups | None:
    """The groups of a node's gates; None if its step is such that no rule can be made of it.

    Read from one step of one row, as JAX traces it: each entry of `u` and of the products is
    followed through what only moves numbers to what uses it.  Any use but the sum of one gate's
    `u` and `v` keeps these apart.  Traced once for a problem, however many implementations ask.
    """
    known = vars(problem)
    if "groups" not in known:
        known["groups"] = _traced(problem)
    return known["groups"]


def _traced(problem: Problem) -> Groups | None:
    node, s, u, noise = abstract_step(problem)
    calls: list[str] = []
    operands: list[bool] = []
    products: list[jax.ShapeDtypeStruct] = []
    inside: list[bool] = []  # of each product: whether it is inside a transformation of the step's

    def look(node: StepNode, s: State, u: PyTree, noise: PyTree) -> State:
        step = _trace()

        def recur(h: Array, gates: str) -> Array:
            inside.append(_trace() != step)
            v = node.recur(h, gates)
            calls.append(gates)
            operands.append(h is s[0])
            products.append(jax.ShapeDtypeStruct(v.shape, v.dtype))
            return v

        return node.step(s, u, recur, noise)

    jax.eval_shape(look, node, s, u, noise)
    if any(inside):  # then its operand is known there alone
        return None

    def given(u: PyTree, vs: list[Array], node: StepNode, s: State, noise: PyTree) -> State:
        rest = iter(vs)
        return node.step(s, u, lambda h, gates: next(rest), noise)

    program = jax.make_jaxpr(given)(u, products, node, s, noise)
    if branches(program):
        return None
    jaxpr = program.jaxpr
    first = len(jax.tree.leaves((u, products)))
    weights = jaxpr.invars[first : first + len(jax.tree.leaves(node))]
    used = {id(x) for equation in jaxpr.eqns for x in equation.invars} | {*map(id, jaxpr.outvars)}
    alone = [id(x) for x, of_rows in zip(weights, are_of_rows(node), strict=True) if not of_rows]
    own = not used.isdisjoint(alone)
    apart: set[str] = set()
    if node.gates:
        apart = _apart(program, [(node.gates, u), *zip(calls, products, strict=True)])
    found = group(node.gates, tuple(calls), tuple(operands), own, apart)
    return found._replace(prints=bool(jaxpr.effects))


NO_BRANCHES = "needs a step without `jax.lax.cond` and `switch`."


def branches(program: ClosedJaxpr) -> bool:
    """Whether a step has `jax.lax.cond`, which no derivative rule may contain.

    With a mapped condition JAX applies `stop_gradient` to what enters it: to tangents in a rule,
    where it has no transpose.
    """
    return "cond" in primitives(program)


def _trace() -> object:
    """What is being traced: another thing inside a loop, a `jit` or a `grad`."""
    return get_opaque_trace_state(convention="flax")


def _apart(program: ClosedJaxpr, operands: list[tuple[str, jax.ShapeDtypeStruct]]) -> set[str]:
    """The gates of whose `u` and `v` a program uses more than the sum; they come first in it."""
    # An entry of `u` or of a product is followed as a number: which of these arrays it is of, its
    # gate, its unit.  Zero is every other value.
    letters = sorted({g for names, _ in operands for g in names})
    hidden = operands[0][1].shape[-1]
    size = len(letters) * hidden
    apart: set[str] = set()

    def entries(index: int, names: str, a: jax.ShapeDtypeStruct) -> np.ndarray:
        rows = np.array([[letters.index(g)] for g in names]) * hidden + np.arange(hidden)
        return np.broadcast_to(1 + index * size + rows, a.shape)

    def use(a: np.ndarray) -> None:
        apart.update(letters[i] for i in np.unique((a[a > 0] - 1) % size // hidden))

    def compute(eqn: JaxprEqn, values: list[np.ndarray]) -> Sequence[np.ndarray]:
        if eqn.primitive.name == "add":
            (a, of_a), (b, of_b) = (((x - 1) % size, (x - 1) // size) for x in values)
            # The entry of `u` and that of one product, of the same gate and unit.
            sums = (a == b) & ((of_a == 0) != (of_b == 0)) & (values[0] > 0) & (values[1] > 0)
            values = [np.where(sums, 0, x) for x in values]
        for a in values:
            use(a)
        return [np.broadcast_to(0, aval.shape) for aval in avals(eqn.outvars)]

    first = [entries(i, *pair) for i, pair in enumerate(operands)]
    for out in follow(program, first, compute):
        use(out)
    return apart


def split(groups: Groups, u: PyTree, vs: list[Array]) -> Preactivations:
    """`u` and `v` as they are stored."""
    if not groups.gates:
        return Preactivations(None, u, tuple(vs))
    products = zip(groups.calls, groups.summed, vs, strict=True)
    summed = [(gates, take_some(v, names, gates)) for names, gates, v in products]
    sums = None
    if groups.sums:
        sums = take(u, groups.gates, groups.sums) + rows(groups.sums, summed)
    v = tuple(map(take_some, vs, groups.calls, groups.v))
    return Preactivations(sums, take_some(u, groups.gates, groups.u), v)


def plus(a: Preactivations, b: Preactivations) -> Preactivations:
    """The sum of those of the inputs and those of the products."""
    add = lambda x, y: y if x is None else x if y is None else x + y
    return Preactivations(add(a.sums, b.sums), a.u, b.v)


def u_of(groups: Groups, pre: Preactivations) -> PyTree:
    """`u` as the equations take it; of a summed gate, the sum."""
    if not groups.gates:
        return pre.u
    return rows(groups.gates, [(groups.sums, pre.sums), (groups.u, pre.u)])


def v_of(groups: Groups, pre: Preactivations, call: int) -> Array:
    """A product as the equations take it; of a summed gate, zero."""
    if not groups.gates:
        return pre.v[call]
    of_a_gate = pre.u if pre.sums is None else pre.sums
    zeros = jnp.zeros_like(of_a_gate[..., 0, :])
    return rows(groups.calls[call], [(groups.v[call], pre.v[call])], zeros)


def rows(
    names: str, groups: Iterable[tuple[str, Array | None]], missing: Array | None = None
) -> Array:
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
    each = [found[name] if missing is None else found.get(name, missing) for name in names]
    return jnp.moveaxis(jnp.concatenate([a[None] for a in each]), 0, -2)
