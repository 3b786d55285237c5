"""Names for what the equations of a cell compute, so that it can be looked at from outside."""

import contextlib
import contextvars
import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import jax
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from jaxtyping import Array

_watching: contextvars.ContextVar[bool] = contextvars.ContextVar("watching", default=False)
_PREFIX = "jaxlstm"


def named(**values: Array) -> Any:
    """Names values inside the equations of a cell; `record` finds them by these names.

    Returns the values as they came: one alone, several as a tuple, in the order given.  It
    does nothing, and leaves no trace in the compiled program, unless `record` is looking.

    ```python
    @jaxlstm.gated("zn", jaxlstm.Hidden)
    def light(s, u, v):
        z, n = u + v
        z, n = jaxlstm.named(z=jax.nn.sigmoid(z), n=jnp.tanh(n))
        return ((1 - z) * s.h + z * n,)

    params = jaxlstm.init(jax.random.key(0), light, input_size=3, hidden_size=5)
    ys, state, seen = jaxlstm.record(params, jnp.ones((7, 3)))
    assert seen.gates["z"].shape == (7, 5)
    ```
    """
    if not values:
        raise TypeError("`named` takes values by name, such as `named(f=sigmoid(f))`; got none.")
    marked = [mark(changed(name, value), "gates", name) for name, value in values.items()]
    return marked[0] if len(marked) == 1 else tuple(marked)


_changes: contextvars.ContextVar[Mapping[str, Callable[[Array], Array]]] = contextvars.ContextVar(
    "changes", default=MappingProxyType({})
)


def changed(name: str, value: Array) -> Array:
    """The value, or what `changing` makes of it."""
    return _changes.get()[name](value) if name in _changes.get() else value


@contextlib.contextmanager
def changing(by: dict[str, Callable[[Array], Array]]) -> Iterator[None]:
    """Inside, what the equations name is what `by` makes of it; it must be named there."""
    used: set[str] = set()

    def once(name: str) -> Callable[[Array], Array]:
        return lambda value: (used.add(name), by[name](outer(name, value)))[1]

    before = _changes.get()
    outer = lambda name, value: before[name](value) if name in before else value
    token = _changes.set({**before, **{name: once(name) for name in by}})
    try:
        yield
    finally:
        _changes.reset(token)
    if used != set(by):
        raise TypeError(
            f"the equations of this cell name no {sorted(set(by) - used)}, so it cannot be "
            "changed. Name it by `jaxlstm.named`."
        )


def mark(value: Array, kind: str, names: str) -> Array:
    """Marks a value; of kind `u` and `v` it has a row for each letter of `names`."""
    return checkpoint_name(value, f"{_PREFIX} {kind} {names}") if _watching.get() else value


Found: TypeAlias = "OrderedDict[str, Array]"  # by name, in the order of computing


def harvest(f: Callable[..., Any], *args: Any) -> tuple[Any, dict[str, Found]]:
    """`f(*args)`, and what its equations named: gates, and the rows of `u` and of `v`.

    Names inside calls (`jit`, `custom_jvp`, `checkpoint`) and under `vmap` are found; those
    inside a loop of the cell's own are not, as they have a value for each of its rounds.
    """
    leaves, tree = jax.tree.flatten(args)
    with _watch():
        closed, shape = jax.make_jaxpr(
            lambda *leaves: f(*jax.tree.unflatten(tree, leaves)), return_shape=True
        )(*leaves)
    found: dict[str, Found] = {kind: OrderedDict() for kind in ("gates", "u", "v")}
    outs = _evaluate(closed, leaves, found)
    return jax.tree.unflatten(jax.tree.structure(shape), outs), found


@contextlib.contextmanager
def _watch() -> Iterator[None]:
    token = _watching.set(True)
    try:
        yield
    finally:
        _watching.reset(token)


def _evaluate(closed: ClosedJaxpr, args: list[Any], found: dict[str, Found]) -> list[Any]:
    jaxpr = closed.jaxpr
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*closed.consts, *args], strict=True))

    def read(v: Any) -> Any:
        return v.val if isinstance(v, Literal) else env[v]

    for eqn in jaxpr.eqns:
        values = [read(v) for v in eqn.invars]
        inner = _called(eqn)
        if inner is not None and _names(inner.jaxpr):
            outs = _evaluate(inner, values, found)
        else:
            bound = eqn.primitive.get_bind_params(eqn.params)  # JAX before 0.10 gives two
            functions, params = bound if isinstance(bound, tuple) else ((), bound)
            outs = eqn.primitive.bind(*functions, *values, **params)
            outs = outs if eqn.primitive.multiple_results else [outs]
        label = _label(eqn)
        if label is not None:
            _, kind, names = label
            rows = [outs[0]] if kind == "gates" else list(outs[0])
            for name, row in zip([names] if kind == "gates" else names, rows, strict=True):
                found[kind][_free(name, found[kind])] = row
        env.update(zip(eqn.outvars, outs, strict=True))
    return [read(v) for v in jaxpr.outvars]


def _free(name: str, taken: Found) -> str:
    """A name that is there already is given a number: `h`, `h2`, `h3`."""
    numbered = (name if i == 1 else f"{name}{i}" for i in itertools.count(1))
    return next(free for free in numbered if free not in taken)


def _label(eqn: Any) -> list[str] | None:
    if eqn.primitive.name != "name" or not eqn.params["name"].startswith(f"{_PREFIX} "):
        return None
    return eqn.params["name"].split(" ")


def _called(eqn: Any) -> ClosedJaxpr | None:
    """The program that an equation calls once, if it is a call."""
    if eqn.primitive.name in ("scan", "while", "cond"):
        return None
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = eqn.params.get(key)
        if inner is not None:
            return inner if isinstance(inner, ClosedJaxpr) else ClosedJaxpr(inner, ())
    return None


def _names(jaxpr: Jaxpr) -> bool:
    """Whether anything is named in a program, or in what it calls."""
    calls = [_called(eqn) for eqn in jaxpr.eqns]
    return any(_label(eqn) for eqn in jaxpr.eqns) or any(c and _names(c.jaxpr) for c in calls)
