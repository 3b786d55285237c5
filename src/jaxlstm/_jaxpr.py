"""Reading jaxprs: a small interpreter, for all that must know what traced equations do.

`evaluate` goes through the equations, and a rule gives the results of each; the values may be
arrays, or arrays of whatever a rule follows through the program: which gate an entry is, say.
`MOVES` has what a program does to numbers without computing; it works on NumPy arrays of any kind.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var
from jaxtyping import ArrayLike, PyTree

from ._types import Shape, T

# (equation, its operands) -> its results
Rule: TypeAlias = Callable[[JaxprEqn, list[T]], Sequence[T]]


def evaluate(
    program: ClosedJaxpr | Jaxpr,
    args: Sequence[T],
    rule: Rule[T],
    constant: Callable[..., T] = lambda value: value,
) -> list[T]:
    """The results of a program; `constant` makes a value of each number that it holds."""
    program = closed(program)
    jaxpr = program.jaxpr
    env = dict(zip(jaxpr.invars, args, strict=True))
    env |= dict(zip(jaxpr.constvars, map(constant, program.consts), strict=True))

    def read(v: Var | Literal) -> T:
        return constant(v.val) if isinstance(v, Literal) else env[v]

    for eqn in jaxpr.eqns:
        with eqn.ctx.manager:
            outs = rule(eqn, [*map(read, eqn.invars)])
        env.update(zip(eqn.outvars, outs, strict=True))
    return [*map(read, jaxpr.outvars)]


def closed(program: ClosedJaxpr | Jaxpr) -> ClosedJaxpr:
    return program if isinstance(program, ClosedJaxpr) else ClosedJaxpr(program, ())


CALLS = ("jit", "pjit", "closed_call", "checkpoint", "remat2")
RULED = ("custom_jvp_call", "custom_vjp_call")  # calls with a derivative rule of their own


def called(eqn: JaxprEqn) -> ClosedJaxpr | None:
    """The program that an equation calls, with its operands and results; None if it is no call."""
    if eqn.primitive.name not in CALLS + RULED:
        return None
    return closed(eqn.params["jaxpr" if "jaxpr" in eqn.params else "call_jaxpr"])


def avals(of: Sequence[Var | Literal]) -> list[PyTree]:
    """What is known of values when a program is traced: shapes and dtypes."""
    return [v.aval for v in of]


def programs_in(eqn: JaxprEqn) -> Iterator[Jaxpr]:
    """The programs among the parameters of an equation."""
    for value in eqn.params.values():
        for program in value if isinstance(value, tuple | list) else [value]:
            if isinstance(program, ClosedJaxpr | Jaxpr):
                yield closed(program).jaxpr


def primitives(program: ClosedJaxpr | Jaxpr) -> set[str]:
    """The names of all primitives in a program, and in those that it calls."""
    names: set[str] = set()
    for eqn in closed(program).jaxpr.eqns:
        names |= {eqn.primitive.name}.union(*map(primitives, programs_in(eqn)))
    return names


def bind(eqn: JaxprEqn, values: list[ArrayLike]) -> Sequence[ArrayLike]:
    """The results of an equation as JAX computes them."""
    bound = eqn.primitive.get_bind_params(eqn.params)  # JAX before 0.10 gives two
    functions, params = bound if isinstance(bound, tuple) else ((), bound)
    outs = eqn.primitive.bind(*functions, *values, **params)
    return outs if eqn.primitive.multiple_results else [outs]


def without_prints(f: Callable[..., T]) -> Callable[..., T]:
    """The function without `jax.debug.print` and its like, for what is computed a second time.

    Those inside a loop or a function with a derivative rule of its own stay.
    """

    def rule(eqn: JaxprEqn, values: list[ArrayLike]) -> Sequence[ArrayLike]:
        if eqn.primitive.name in ("debug_callback", "debug_print"):
            return []
        program = called(eqn)
        if program is not None and program.effects and eqn.primitive.name in CALLS:
            return evaluate(program, values, rule)
        return bind(eqn, values)

    def silent(*args: PyTree) -> T:
        leaves, tree = jax.tree.flatten(args)
        program, shape = jax.make_jaxpr(
            lambda *leaves: f(*jax.tree.unflatten(tree, leaves)), return_shape=True
        )(*leaves)
        return jax.tree.unflatten(jax.tree.structure(shape), evaluate(program, leaves, rule))

    return silent


def moved(eqn: JaxprEqn, values: list[np.ndarray]) -> Sequence[np.ndarray] | None:
    """The results of an equation that only moves numbers; None of one that computes."""
    move = MOVES.get(eqn.primitive.name)
    if move is None:
        return None
    out = move(*values, **eqn.params)
    return out if eqn.primitive.multiple_results else [out]


def follow(
    program: ClosedJaxpr, operands: Sequence[np.ndarray], compute: Rule[np.ndarray]
) -> list[np.ndarray]:
    """What becomes of the entries of a program's first operands: arrays of integers, not zero.

    Zero is every other number.  `compute` gives the results of what computes with an entry.
    """

    def rule(eqn: JaxprEqn, values: list[np.ndarray]) -> Sequence[np.ndarray]:
        if not any(a.any() for a in values):
            return [np.broadcast_to(0, aval.shape) for aval in avals(eqn.outvars)]
        if (inside := called(eqn)) is not None:
            return evaluate(inside, values, rule, other)
        outs = moved(eqn, values)
        return compute(eqn, values) if outs is None else outs

    other = lambda value: np.broadcast_to(0, np.shape(value))
    more = avals(program.jaxpr.invars[len(operands) :])
    rest = [np.broadcast_to(0, aval.shape) for aval in more]
    return evaluate(program, [*operands, *rest], rule, other)


def _broadcast(a: np.ndarray, shape: Shape, broadcast_dimensions: Shape, **_: object) -> np.ndarray:
    inside = [
        a.shape[broadcast_dimensions.index(i)] if i in broadcast_dimensions else 1
        for i in range(len(shape))
    ]
    return np.broadcast_to(a.reshape(inside), shape)


def _pad(a: np.ndarray, value: np.ndarray, padding_config: PyTree) -> np.ndarray:
    """Negative padding cuts, and interior padding stands between the numbers."""
    for axis, (low, high, between) in enumerate(padding_config):
        length = a.shape[axis]
        inner = length + max(length - 1, 0) * between
        shape = [*a.shape]
        shape[axis] = max(low, 0) + inner + max(high, 0)
        out = np.full(shape, value, a.dtype)
        at = [slice(None)] * a.ndim
        at[axis] = slice(max(low, 0), max(low, 0) + inner, between + 1)
        out[tuple(at)] = a
        at[axis] = slice(max(-low, 0), shape[axis] - max(-high, 0))
        a = out[tuple(at)]
    return a


MOVES: dict[str, Callable[..., PyTree]] = {
    "slice": lambda a, start_indices, limit_indices, strides: a[
        tuple(map(slice, start_indices, limit_indices, strides or [1] * a.ndim))
    ],
    "split": lambda a, sizes, axis: np.split(a, np.cumsum(sizes)[:-1], axis),
    "squeeze": lambda a, dimensions: a.squeeze(tuple(dimensions)),
    "reshape": lambda a, new_sizes, **_: a.reshape(new_sizes),
    "expand_dims": lambda a, dimensions: np.expand_dims(a, tuple(dimensions)),
    "transpose": lambda a, permutation: a.transpose(permutation),
    "rev": lambda a, dimensions: np.flip(a, tuple(dimensions)),
    "concatenate": lambda *a, dimension: np.concatenate(a, dimension),
    "stack": lambda *a, axis: np.stack(a, axis),
    "unstack": lambda a, axis: list(np.moveaxis(a, axis, 0)),
    "broadcast_in_dim": _broadcast,
    "tile": lambda a, reps: np.tile(a, reps),
    "pad": _pad,
    "copy": lambda a: a,
    "name": lambda a, **_: a,
    "jaxlstm_name": lambda a, **_: a,
}
