"""Tags: names of values in the equations of a cell, to read or replace them from outside.

A tag is an identity primitive in the traced program, and is lowered to nothing.  It is always
there, so that a program traced earlier, such as that of a module-level `jax.jit` which the
equations call, has it too.  To read or replace tagged values, the traced step is interpreted.
"""

import itertools
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeAlias

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, ArrayLike, PyTree

from ._jaxpr import CALLS, bind, called, evaluate, programs_in
from ._types import T

_name_p = Primitive("jaxlstm_name")
_name_p.def_impl(lambda x, **_: x)
_name_p.def_abstract_eval(lambda x, **_: x)
# Tangents are not tagged: residuals would hold a value both with its tag and without.
ad.primitive_jvps[_name_p] = lambda primals, tangents, **_: (primals[0], tangents[0])
ad.primitive_transposes[_name_p] = lambda cotangent, x, **_: [cotangent]


def _batched(args: Sequence[Array], axes: Sequence[int], **label: str) -> tuple[Array, int]:
    """The rows of `u` and `v` stay first."""
    if label["kind"] == "gates" or axes[0] > 0:
        return _name_p.bind(args[0], **label), axes[0]
    return _name_p.bind(args[0].swapaxes(0, 1), **label), 1


batching.primitive_batchers[_name_p] = _batched
mlir.register_lowering(_name_p, lambda ctx, x, **_: [x])


_placeholder_p = Primitive("jaxlstm_placeholder")
_placeholder_p.def_abstract_eval(lambda x, aval, **_: aval)


def placeholder(x: Array, f: Callable[[Array], Array], label: "Label") -> Array:
    """A placeholder of the type of `f(x)` while a step is traced; `replace_tagged` fills it."""
    (aval,) = jax.make_jaxpr(f)(x).out_avals
    kind, name = label
    return _placeholder_p.bind(x, aval=aval, kind=kind, name=name)


def tag(**values: Array) -> PyTree:
    """Names values inside the equations of a cell, for `record` and wrappers.

    Returns the values unchanged: one by itself, several as a tuple in the same order.  Tags
    cost nothing in the compiled program.

    ```python
    @jaxlstm.gated_cell("zn", jaxlstm.HiddenState)
    def light(s, u, v):
        z, n = u + v
        z, n = jaxlstm.tag(z=jax.nn.sigmoid(z), n=jnp.tanh(n))
        return ((1 - z) * s.h + z * n,)

    params = jaxlstm.init(jax.random.key(0), light, input_size=3, hidden_size=5)
    ys, state, seen = jaxlstm.record(params, jnp.ones((7, 3)))
    assert seen.gates["z"].shape == (7, 5)
    ```
    """
    if not values:
        raise TypeError("`tag` takes values by name, such as `tag(f=sigmoid(f))`; got none.")
    marked = [mark(value, "gates", name) for name, value in values.items()]
    return marked[0] if len(marked) == 1 else tuple(marked)


def mark(value: ArrayLike, kind: str, name: str) -> Array:
    """Tags a value; one of kind `u` or `v` has a row for each letter of `name`."""
    return _name_p.bind(value, kind=kind, name=name)


Tagged: TypeAlias = "OrderedDict[str, Array]"  # by name, in the order of computation
Label: TypeAlias = tuple[str, str]  # kind and name
Replacements: TypeAlias = Mapping[Label, Callable[[PyTree], Array]]
Values: TypeAlias = Sequence[ArrayLike]  # of a program that is interpreted
Run: TypeAlias = Callable[[ClosedJaxpr | Jaxpr, Values], list[ArrayLike]]


def harvest(f: Callable[..., T], *args: PyTree) -> tuple[T, dict[str, Tagged]]:
    """`f(*args)`, and the values tagged by its equations: gates, and the rows of `u` and `v`.

    Tags inside calls (`jit`, `custom_jvp`, `checkpoint`) and under `vmap` are included; those
    inside a loop of the cell are not, as they have a value in each iteration, nor those inside
    functions that the equations differentiate.
    """
    found: dict[str, Tagged] = {kind: OrderedDict() for kind in ("gates", "u", "v")}

    def visit(value: PyTree, kind: str, name: str) -> None:
        if kind in found:
            rows = {name: value} if kind == "gates" else zip(name, value, strict=True)
            for letter, row in dict(rows).items():
                found[kind][_free(letter, found[kind])] = row

    return _interpret(f, args, {}, visit), found


def replace_tagged(f: Callable[..., T], replacements: Replacements, *args: PyTree) -> T:
    """`f(*args)`, with each tagged value replaced by its entry in `replacements` of it."""
    seen: set[Label] = set()
    out = _interpret(f, args, replacements, lambda value, *label: seen.add(label))
    if missing := sorted(name for _, name in replacements.keys() - seen):
        raise TypeError(
            f"the equations of this cell have no tag {missing} to replace. Tag the value by "
            "`jaxlstm.tag`."
        )
    return out


def _free(name: str, taken: Tagged) -> str:
    """The first unused of `h`, `h2`, `h3`, ..."""
    numbered = (name if i == 1 else f"{name}{i}" for i in itertools.count(1))
    return next(free for free in numbered if free not in taken)


Visit: TypeAlias = Callable[[ArrayLike, str, str], None]  # (value, kind, name)


def _interpret(
    f: Callable[..., T], args: tuple[PyTree, ...], replacements: Replacements, visit: Visit
) -> T:
    leaves, tree = jax.tree.flatten(args)
    closed, shape = jax.make_jaxpr(
        lambda *leaves: f(*jax.tree.unflatten(tree, leaves)), return_shape=True
    )(*leaves)
    outs = _evaluate(closed, leaves, replacements, visit)
    return jax.tree.unflatten(jax.tree.structure(shape), outs)


def _evaluate(
    program: ClosedJaxpr | Jaxpr, args: Values, replacements: Replacements, visit: Visit
) -> list[ArrayLike]:
    return evaluate(program, args, lambda eqn, vs: _equation(eqn, vs, replacements, visit))


def _equation(
    eqn: JaxprEqn, values: list[ArrayLike], replacements: Replacements, visit: Visit
) -> Values:
    label = _label(eqn)
    if label is not None:
        value = replacements[label](values[0]) if label in replacements else values[0]
        visit(value, *label)
        return [value if eqn.primitive is _placeholder_p else mark(value, *label)]
    inside = {label for jaxpr in programs_in(eqn) for label in _labels(jaxpr)}
    name = eqn.primitive.name
    program = called(eqn)
    if inside and program is not None and name in CALLS:
        return _evaluate(program, values, replacements, visit)
    if inside & replacements.keys():
        if name not in _LOOPS:
            names = sorted(name for _, name in inside & replacements.keys())
            raise TypeError(
                f"{names} of this cell cannot be replaced inside {name!r}, such as a function "
                "with a custom derivative rule. Tag its result outside of it."
            )
        run = lambda program, args: _evaluate(program, args, replacements, visit)
        return _LOOPS[name](run, values, **eqn.params)
    if inside and program is not None and not replacements:
        _evaluate(program, values, replacements, visit)  # for its tags; the rule is kept
    return bind(eqn, values)


def _scan(run: Run, values: list[ArrayLike], **params: PyTree) -> list[ArrayLike]:
    if "ft_in" in params:  # of newer JAX
        consts, initial, _ = params["ft_in"].unpack()
        first, rest = len(consts), len(consts) + len(initial)
    else:
        first = params["num_consts"]
        rest = first + params["num_carry"]

    def body(carry: Values, xs: Values) -> tuple[Values, Values]:
        outs = run(params["jaxpr"], [*values[:first], *carry, *xs])
        return outs[: rest - first], outs[rest - first :]

    how = {k: params[k] for k in ("length", "reverse", "unroll")}
    carry, ys = jax.lax.scan(body, values[first:rest], values[rest:], **how)
    return [*carry, *ys]


def _while(run: Run, values: list[ArrayLike], **params: PyTree) -> list[ArrayLike]:
    first = params["cond_nconsts"]
    rest = first + params["body_nconsts"]
    more = lambda carry: run(params["cond_jaxpr"], [*values[:first], *carry])[0]
    body = lambda carry: run(params["body_jaxpr"], [*values[first:rest], *carry])
    return jax.lax.while_loop(more, body, values[rest:])


def _cond(run: Run, values: list[ArrayLike], **params: PyTree) -> list[ArrayLike]:
    branch = lambda program: lambda *args: run(program, args)
    return jax.lax.switch(values[0], [*map(branch, params["branches"])], *values[1:])


_LOOPS: dict[str, Callable[..., list[ArrayLike]]] = {"scan": _scan, "while": _while, "cond": _cond}


def _label(eqn: JaxprEqn) -> Label | None:
    labelled = eqn.primitive is _name_p or eqn.primitive is _placeholder_p
    return (eqn.params["kind"], eqn.params["name"]) if labelled else None


def _labels(jaxpr: Jaxpr) -> Collection[Label]:
    """The tags in a jaxpr, and in those that it calls."""
    own = {label for eqn in jaxpr.eqns if (label := _label(eqn))}
    inner = (_labels(program) for eqn in jaxpr.eqns for program in programs_in(eqn))
    return own.union(*inner)
