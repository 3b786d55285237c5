"""The equations of a cell in C++: as JAX traces them, operation by operation.

The kernel computes each unit by itself, and all alike.  Whether equations are such is seen here:
they are traced as they are, for all units, and every number is followed as an expression in the
values of one unit.  What only moves numbers (slices, reshapes) moves expressions, and what
computes makes a new one, which equal operands share.  If each unit's results are the same
expressions in that unit's own values, they are the equations of one unit, and are written out.
"""

import functools
import math
from collections.abc import Callable, Hashable, Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn
from jaxtyping import Array, ArrayLike, PyTree

from ..._cell import Cell, Layer, shape_of
from ..._jaxpr import avals, called, evaluate, moved
from ..._types import DType, State
from .._groups import Groups, Preactivations, u_of, v_of


@functools.cache
def source(cell: Cell, groups: Groups, hidden: int, weights: tuple[str, ...]) -> str:
    """The counts and places of a cell's gates, and its equations forwards and backwards.

    Traced the same wherever it is first asked for: outside any mesh, with numbers of 32 bits.
    `NotImplementedError` says what the kernel cannot take.
    """
    nowhere = jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ()))
    with nowhere, jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        return _source(cell, groups, hidden, weights)


def per_unit(cell: Cell, names: Iterable[str]) -> bool:
    """Whether weights of a cell's equations are numbers for each unit, or one for all of them."""
    words = {name: weight.shape.removeprefix("gates ") for name, weight in cell.weights}
    return all(words[name] in ("... hidden", "... 1") for name in names)


def _source(cell: Cell, groups: Groups, hidden: int, weights: Sequence[str]) -> str:
    state = [jax.ShapeDtypeStruct((hidden,), jnp.float32)] * len(cell.state._fields)
    part = lambda gates: jax.ShapeDtypeStruct((len(gates), hidden), jnp.float32) if gates else None
    pre = Preactivations(part(groups.sums), part(groups.u), tuple(map(part, groups.v)))
    dims = {"gates": len(cell.gates), "hidden": hidden}
    declared = dict(cell.weights)  # more than there are, if some depend on options
    # One number for all units comes as one for each.
    shape = lambda name: (*shape_of(declared[name].shape, dims)[:-1], hidden)
    own = {name: jax.ShapeDtypeStruct(shape(name), jnp.float32) for name in weights}

    def step(s: State, pre: Preactivations, own: dict[str, Array]) -> tuple[State, list[Array]]:
        """The state after it, and what each product is made of."""
        operands: list[Array] = []

        def recur(h: Array, gates: str) -> Array:
            operands.append(h)
            return v_of(groups, pre, len(operands) - 1)

        w = jnp.zeros((0, len(cell.gates), hidden))  # no equation takes the products' weights
        layer = Layer(cell, w, None, None, weights=own or None)
        new = cell.step(layer, cell.state._make(s), u_of(groups, pre), recur)
        return tuple(new), operands

    names = lambda letter, n: [f"{letter}[{i}]" for i in range(n)]
    slots = [*groups.sums, *groups.u, *"".join(groups.v)]
    rows = sum(math.prod(a.shape[:-1]) for a in own.values())
    arguments = [*names("s", len(state)), *names("z", len(slots)), *names("p", rows)]
    given = tuple(state), pre, own

    # Of every row of a product: which it is, its call, and where it is added.
    products = []
    before = len(groups.sums + groups.u)
    for call, gates in enumerate(groups.calls):
        places = {g: slots.index(g) for g in groups.summed[call]}
        places |= {g: before + i for i, g in enumerate(groups.v[call])}
        products += [(cell.recurrent.index(g), call, places[g]) for g in gates]
        before += len(groups.v[call])
    of_slots = [-1] * len(slots)
    for _, call, slot in products:
        of_slots[slot] = call
    from_h, of_h, to = zip(*products, strict=True) if products else ((), (), ())
    tables = {
        "FROM_X": [cell.gates.index(g) for g in groups.sums + groups.u],
        "FROM_H": from_h,
        "CALL_OF_H": of_h,
        "SLOT_OF_H": to,
        "CALL_OF_SLOT": of_slots,
        "APART": list(map(len, groups.v)),
    }
    counts = {
        "FIELDS": len(state),
        "SUMS": len(groups.sums),
        "INPUTS": len(groups.u),
        "PRODUCTS": len("".join(groups.v)),
        "OF_H": len(products),
        "CALLS": len(groups.calls),
        "GATES": len(cell.gates),
        "RECURRENT": len(cell.recurrent),
        "OWN": rows,
    }
    lines = [f"constexpr int {k} = {v};" for k, v in counts.items()]
    # C++ has no empty array.
    lines += [
        f"constexpr int {k}[] = {{{', '.join(map(str, v)) or '0'}}};" for k, v in tables.items()
    ]

    def write(name: str, f: Callable[..., PyTree]) -> None:
        """A function, and its transposed derivative."""
        traced, out = jax.make_jaxpr(f, return_shape=True)(*given)
        lines.extend(_function(name, traced, "szp", arguments))
        traced = jax.make_jaxpr(lambda *given, d: jax.vjp(f, *given)[1](d))(*given, d=out)
        d = names("d", len(jax.tree.leaves(out)))
        lines.extend(_function(f"{name}_back", traced, "szpd", [*arguments, *d]))

    write("new_state", lambda *given: step(*given)[0])
    later = range(1, len(groups.calls))
    for call in later:
        write(f"operand_{call}", lambda *given, call=call: step(*given)[1][call])
    for back, letters in (("", "szp"), ("_back", "szpd")):
        pointers = ", ".join(f"const V* {a}" for a in letters)
        given_on = ", ".join([*letters, "out"])
        which = [f"  if (call == {c}) return operand_{c}{back}({given_on});" for c in later]
        head = f"static inline void operand{back}(int call, {pointers}, V* out) {{"
        lines.extend([head, *which, "}"])
    return "\n".join(lines) + "\n"


def _function(name: str, traced: ClosedJaxpr, letters: str, arguments: Sequence[str]) -> list[str]:
    """A function of these arguments that writes its results to `out`, one after the other."""
    given = avals(traced.jaxpr.invars)
    first = given[0].shape[-1]
    unit = _Unit(first)
    taken = iter(arguments)
    args: list[np.ndarray] = []
    for a in given:
        rows = [unit.argument(next(taken)) for _ in range(a.size // first)]
        args.append(np.stack(rows).reshape(a.shape))
    outs = evaluate(traced, args, unit.rule, unit.constant)
    results = [unit.result(row) for a in outs for row in a.reshape(-1, a.shape[-1])]
    pointers = ", ".join(f"const V* {a}" for a in letters)
    writes = [f"out[{i}] = {x};" for i, x in enumerate(results)]
    inside = [f"  {line}" for line in unit.lines + writes]
    return [f"static inline void {name}({pointers}, V* out) {{", *inside, "}"]


class _Unit:
    """The program of one unit, as it is found in a program for all of them.

    A number is followed as two: which expression it is, and of whose values.  Both are in one
    integer, so that arrays of them can be moved as arrays of numbers are.  The second is 0 for
    constants, 1 for the first unit and so on, and one more than the last for what is made of
    several units.
    """

    def __init__(self, units: int) -> None:
        self.units, self.owners = units, units + 2
        self.names: list[str] = []  # of the expressions, in C++
        self.lines: list[str] = []
        self.known: dict[Hashable, int] = {}

    def argument(self, name: str) -> np.ndarray:
        """A value that every unit has."""
        self.names.append(name)
        return (len(self.names) - 1) * self.owners + np.arange(1, self.units + 1)

    def constant(self, value: ArrayLike) -> np.ndarray:
        a = np.asarray(value)
        truth = a.dtype == bool
        bits = a.astype(np.float32).view(np.uint32)  # so that 0 and -0 differ
        distinct, inverse = np.unique(bits.ravel(), return_inverse=True)
        ids: list[int] = []
        for x in distinct.view(np.float32):
            text = f"(M{{}} - {int(x)})" if truth else f"all({_literal(float(x))})"
            ids.append(self.expression(text, lambda text=text: text))
        return (np.array(ids)[inverse] * self.owners).reshape(a.shape)

    def expression(self, key: Hashable, name: Callable[[], str]) -> int:
        if key not in self.known:
            self.known[key] = len(self.names)
            self.names.append(name())
        return self.known[key]

    def computed(self, operation: str, kind: str, *values: np.ndarray) -> np.ndarray:
        """The expressions of an operation, number by number."""
        table = np.stack([a.ravel() for a in np.broadcast_arrays(*values)])
        ids, owners = np.divmod(table, self.owners)
        key = np.zeros(ids.shape[1], int)
        for row in ids:  # one number for each combination of operands, however many there are
            key = np.unique(key * len(self.names) + row, return_inverse=True)[1]
        _, at, inverse = np.unique(key, return_index=True, return_inverse=True)
        made: list[int] = []
        for operands in ids[:, at].T:
            text = _COMPUTED[operation](*(self.names[i] for i in operands))
            made.append(self.expression((kind, text), functools.partial(self.line, kind, text)))
        last = owners.max(0)
        several = ((owners != 0) & (owners != last)).any(0)
        owner = np.where(several, self.units + 1, last)
        return (np.array(made)[inverse] * self.owners + owner).reshape(
            np.broadcast_shapes(*(a.shape for a in values))
        )

    def line(self, kind: str, text: str) -> str:
        name = f"x{len(self.lines)}"
        self.lines.append(f"{kind} {name} = {text};")
        return name

    def rule(self, eqn: JaxprEqn, values: list[np.ndarray]) -> Sequence[np.ndarray]:
        name = eqn.primitive.name
        if (program := called(eqn)) is not None:
            return evaluate(program, values, self.rule, self.constant)
        if name == "convert_element_type":
            constant = not (values[0] % self.owners).any()
            (old,) = avals(eqn.invars)
            name = _conversion(old.dtype, eqn.params["new_dtype"], constant)
            if name == "copy":
                return values
        if (outs := moved(eqn, values)) is not None:
            return outs
        if name == "integer_pow":
            return [self.power(values[0], eqn.params["y"])]
        if name == "reduce_sum":
            return [self.sum(values[0], eqn.params["axes"])]
        if name not in _COMPUTED:
            raise NotImplementedError(f"has no {name!r} in C++ yet, which the equations call.")
        (out,) = avals(eqn.outvars)
        kind = "M" if out.dtype == bool else "V"
        return [np.broadcast_to(self.computed(name, kind, *values), out.shape)]

    def power(self, a: np.ndarray, y: int) -> np.ndarray:
        one = np.broadcast_to(self.constant(1.0), a.shape)
        product = a if y else one
        for _more in range(abs(y) - 1):
            product = self.computed("mul", "V", product, a)
        return product if y >= 0 else self.computed("div", "V", one, product)

    def sum(self, a: np.ndarray, axes: Sequence[int]) -> np.ndarray:
        rows = np.moveaxis(a, axes, range(len(axes)))
        shape = rows.shape[len(axes) :]
        total, *rest = np.split(rows.reshape(-1, *shape), rows.size // math.prod(shape))
        for row in rest:
            total = self.computed("add", "V", total, row)
        return total.reshape(shape)

    def result(self, row: np.ndarray) -> str:
        """The name of what all units compute, each of its own values."""
        ids, owners = np.divmod(row, self.owners)
        own = (owners == 0) | (owners == np.arange(1, self.units + 1))
        if len(row) != self.units or not own.all():
            raise NotImplementedError(
                "needs a cell whose units see each other in `v = h r` alone; the equations combine "
                "values of several units."
            )
        if (ids != ids[0]).any():
            raise NotImplementedError("needs a cell that computes the same for every unit.")
        return self.names[ids[0]]


def _literal(x: float) -> str:
    if np.isfinite(x):
        return f"{x!r}f" if "e" in repr(x) or "." in repr(x) else f"{x!r}.0f"
    return '__builtin_nanf("")' if np.isnan(x) else f"{'-' if x < 0 else ''}__builtin_inff()"


# What computes, number by number, from the names of its operands.
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
    "rsqrt": lambda a: f"1.0f / sqrt({a})",
    "exp": lambda a: f"exp({a})",
    "expm1": lambda a: f"expm1({a})",
    "log": lambda a: f"log({a})",
    "log1p": lambda a: f"log1p({a})",
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


def _conversion(old: DType, new: DType, constant: bool) -> str:
    if old == new or (new == np.float32 and constant and old.kind != "b"):
        return "copy"
    return "as number" if (old, new) == (bool, np.float32) else f"conversion of {old} to {new}"
