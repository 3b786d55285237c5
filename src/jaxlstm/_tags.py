"""Names for what the equations of a cell compute, so that it can be looked at from outside.

A name is an operation of its own in the traced program, which gives back its operand and is
lowered to nothing.  It is there whether anyone looks or not, so that a program traced before,
such as that of a `jax.jit` at module level which the equations call, has it too.  Who wants to
see or to change a named value interprets the traced step.
"""

import itertools
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array

_name_p = Primitive("jaxlstm_name")
_name_p.def_impl(lambda x, **_: x)
_name_p.def_abstract_eval(lambda x, **_: x)
# A derivative has no use for names, and would store a named value beside the same without one.
ad.primitive_jvps[_name_p] = lambda primals, tangents, **_: (primals[0], tangents[0])
ad.primitive_transposes[_name_p] = lambda cotangent, x, **_: [cotangent]
batching.primitive_batchers[_name_p] = lambda args, axes, **label: (
    _name_p.bind(args[0], **label),
    axes[0],
)
mlir.register_lowering(_name_p, lambda ctx, x, **_: [x])


_hole_p = Primitive("jaxlstm_hole")
_hole_p.def_abstract_eval(lambda x, aval, **_: aval)


def hole(x: Array, f: Callable[[Array], Array], label: "Label") -> Array:
    """Stands for a value with the type of `f(x)` while a step is traced; `changed` fills it."""
    (aval,) = jax.make_jaxpr(f)(x).out_avals
    kind, name = label
    return _hole_p.bind(x, aval=aval, kind=kind, name=name)


def tag(**values: Array) -> Any:
    """Names values inside the equations of a cell; `record` finds them by these names.

    Returns the values as they came: one alone, several as a tuple, in the order given.  It
    leaves no trace in the compiled program, unless `record` is looking.

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
        raise TypeError("`tag` takes values by name, such as `named(f=sigmoid(f))`; got none.")
    marked = [mark(value, "gates", name) for name, value in values.items()]
    return marked[0] if len(marked) == 1 else tuple(marked)


def mark(value: Array, kind: str, name: str) -> Array:
    """Marks a value; of kind `u` and `v` it has a row for each letter of `name`."""
    return _name_p.bind(value, kind=kind, name=name)


Found: TypeAlias = "OrderedDict[str, Array]"  # by name, in the order of computing
Label: TypeAlias = tuple[str, str]  # kind and name
Changes: TypeAlias = Mapping[Label, Callable[[Array], Array]]


def harvest(f: Callable[..., Any], *args: Any) -> tuple[Any, dict[str, Found]]:
    """`f(*args)`, and what its equations named: gates, and the rows of `u` and of `v`.

    Names inside calls (`jit`, `custom_jvp`, `checkpoint`) and under `vmap` are found; those
    inside a loop of the cell's own are not, as they have a value for each of its rounds, nor
    those inside what the equations differentiate.
    """
    found: dict[str, Found] = {kind: OrderedDict() for kind in ("gates", "u", "v")}

    def see(value: Array, kind: str, name: str) -> None:
        if kind in found:
            rows = {name: value} if kind == "gates" else zip(name, value, strict=True)
            for letter, row in dict(rows).items():
                found[kind][_free(letter, found[kind])] = row

    return _interpret(f, args, {}, see), found


def changed(f: Callable[..., Any], changes: Changes, *args: Any) -> Any:
    """`f(*args)`, where what its equations name is what `changes` makes of it."""
    seen: set[Label] = set()
    out = _interpret(f, args, changes, lambda value, *label: seen.add(label))
    if missing := sorted(name for kind, name in changes.keys() - seen):
        raise TypeError(
            f"the equations of this cell name no {missing}, so it cannot be changed. Name it by "
            "`jaxlstm.tag`."
        )
    return out


def _free(name: str, taken: Found) -> str:
    """A name that is there already is given a number: `h`, `h2`, `h3`."""
    numbered = (name if i == 1 else f"{name}{i}" for i in itertools.count(1))
    return next(free for free in numbered if free not in taken)


See: TypeAlias = Callable[..., None]  # (value, kind, name)


def _interpret(f: Callable[..., Any], args: Any, changes: Changes, see: See) -> Any:
    leaves, tree = jax.tree.flatten(args)
    closed, shape = jax.make_jaxpr(
        lambda *leaves: f(*jax.tree.unflatten(tree, leaves)), return_shape=True
    )(*leaves)
    outs = _evaluate(closed, leaves, changes, see)
    return jax.tree.unflatten(jax.tree.structure(shape), outs)


def _evaluate(closed: ClosedJaxpr, args: Sequence[Any], changes: Changes, see: See) -> list[Any]:
    jaxpr = closed.jaxpr
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*closed.consts, *args], strict=True))

    def read(v: Any) -> Any:
        return v.val if isinstance(v, Literal) else env[v]

    for eqn in jaxpr.eqns:
        with eqn.ctx.manager:
            outs = _equation(eqn, [read(v) for v in eqn.invars], changes, see)
        env.update(zip(eqn.outvars, outs, strict=True))
    return [read(v) for v in jaxpr.outvars]


def _equation(eqn: Any, values: list[Any], changes: Changes, see: See) -> list[Any]:
    label = _label(eqn)
    if label is not None:
        value = changes[label](values[0]) if label in changes else values[0]
        see(value, *label)
        return [value if eqn.primitive is _hole_p else mark(value, *label)]
    inside = {label for jaxpr in _programs(eqn) for label in _labels(jaxpr)}
    name = eqn.primitive.name
    if inside and name in _CALLS:
        return _evaluate(_closed(eqn.params["jaxpr"]), values, changes, see)
    if inside & changes.keys():
        if name not in _LOOPS:
            names = sorted(name for kind, name in inside & changes.keys())
            raise TypeError(
                f"{names} of this cell cannot be changed inside {name!r}, such as a function "
                "with a derivative rule of its own. Name its result, outside it."
            )
        run = lambda program, args: _evaluate(_closed(program), args, changes, see)
        return _LOOPS[name](run, values, **eqn.params)
    if inside and name in _RULES and not changes:  # the rule stays; names are read beside it
        _evaluate(_closed(eqn.params["call_jaxpr"]), values, changes, see)
    bound = eqn.primitive.get_bind_params(eqn.params)  # JAX before 0.10 gives two
    functions, params = bound if isinstance(bound, tuple) else ((), bound)
    outs = eqn.primitive.bind(*functions, *values, **params)
    return outs if eqn.primitive.multiple_results else [outs]


_CALLS = ("jit", "pjit", "closed_call", "checkpoint", "remat2")
_RULES = ("custom_jvp_call", "custom_vjp_call")


def _scan(run: Any, values: list[Any], **params: Any) -> list[Any]:
    first = params["num_consts"]
    rest = first + params["num_carry"]

    def body(carry: list[Any], xs: list[Any]) -> tuple[list[Any], list[Any]]:
        outs = run(params["jaxpr"], [*values[:first], *carry, *xs])
        return outs[: rest - first], outs[rest - first :]

    how = {k: params[k] for k in ("length", "reverse", "unroll")}
    carry, ys = jax.lax.scan(body, values[first:rest], values[rest:], **how)
    return [*carry, *ys]


def _while(run: Any, values: list[Any], **params: Any) -> list[Any]:
    first = params["cond_nconsts"]
    rest = first + params["body_nconsts"]
    more = lambda carry: run(params["cond_jaxpr"], [*values[:first], *carry])[0]
    body = lambda carry: run(params["body_jaxpr"], [*values[first:rest], *carry])
    return jax.lax.while_loop(more, body, values[rest:])


def _cond(run: Any, values: list[Any], **params: Any) -> list[Any]:
    branch = lambda program: lambda *args: run(program, args)
    return jax.lax.switch(values[0], [*map(branch, params["branches"])], *values[1:])


_LOOPS: dict[str, Callable[..., list[Any]]] = {"scan": _scan, "while": _while, "cond": _cond}


def _label(eqn: Any) -> Label | None:
    labelled = eqn.primitive is _name_p or eqn.primitive is _hole_p
    return (eqn.params["kind"], eqn.params["name"]) if labelled else None


def _closed(program: Any) -> ClosedJaxpr:
    return program if isinstance(program, ClosedJaxpr) else ClosedJaxpr(program, ())


def _programs(eqn: Any) -> Iterator[Jaxpr]:
    """The programs that an equation calls."""
    for value in eqn.params.values():
        for program in value if isinstance(value, tuple | list) else [value]:
            if isinstance(program, ClosedJaxpr | Jaxpr):
                yield _closed(program).jaxpr


def _labels(jaxpr: Jaxpr) -> Collection[Label]:
    """What is named in a program, and in what it calls."""
    own = {label for eqn in jaxpr.eqns if (label := _label(eqn))}
    inner = (_labels(program) for eqn in jaxpr.eqns for program in _programs(eqn))
    return own.union(*inner)
