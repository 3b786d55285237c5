"""Random networks, run in random ways, beside an oracle that knows neither masks nor resets.

The oracle takes one row at a time, cuts it where episodes start, leaves out the steps under the
mask, and runs each episode by itself through the equations of `oracle`, in NumPy float64.  Values
and last states are compared with it, and gradients with differences of it.  A number draws a case:

    pytest tests/test_random_networks.py -m "" -k one_case --case 12345

runs that one alone.  `make sweep MINUTES=60` tries new ones for an hour.
"""

import dataclasses
import functools
import os
import re
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlstm
from jaxlstm import wrappers
from networks import some_of
from oracle import ORACLES, Weights
from test_oracle import TABLE

N = 3
IMPLEMENTATIONS = (None, None, "scan", "deferred", "associative", "native", "newton")
# How it is called: as it is, its rows or several networks under `vmap`, under `jax.checkpoint`, in
# two calls of which the second takes the state of the first, or step by step.
CALLS = ("plain", "plain", "vmap", "ensemble", "remat", "cut", "step")
DTYPES = ("float64", "float64", "float64", "float32", "float32", "bfloat16")
NOISE_ALONE = {  # which without a key are not there
    "recurrent dropout": lambda node: wrappers.recurrent_dropout(node, 0.3),
    "variational dropout": lambda node: wrappers.variational_dropout(node, 0.2, 0.0, 0.2),
}


class Block(NamedTuple):
    """One layer, or one of each direction, and what is around it."""

    cell: str
    width: int
    direction: str
    inside: tuple[str, ...] = ()  # wrappers of each layer
    outside: tuple[str, ...] = ()  # wrappers of all of it


@dataclasses.dataclass(frozen=True)
class Case:
    """A network, its inputs, and how it is run; all else is drawn from `number`."""

    number: int
    blocks: tuple[Block, ...]
    time: int
    batch: tuple[int, ...]
    mask: bool
    junk: bool  # NaN under the mask
    reset: bool
    reverse: bool
    begun: bool  # from a state that is not the initial one
    batch_first: bool
    dtype: str
    implementation: str | None
    call: str
    checkpoint: int | bool | None
    jit: bool

    @classmethod
    def draw(cls, number):
        rng = np.random.default_rng(number)
        one = lambda options: options[rng.integers(len(options))]
        some = lambda p: bool(rng.random() < p)

        def block():
            inside = [w for w in ("zoneout", "initial", "clip", *NOISE_ALONE) if some(0.08)]
            around = ("skip", "highway", "norm of inputs", "norm of outputs", "window")
            outside = [w for w in around if some(0.08)]
            name, direction = one(sorted(TABLE)), one(("forward", "backward", "both"))
            return Block(name, one((2, 4, 6)), direction, tuple(inside), tuple(outside))

        case = cls(
            number,
            tuple(block() for _ in range(one((1, 1, 2, 3)))),
            time=int(rng.integers(0, 8)),
            batch=one(((), (1,), (3,), (4,), (2, 2), (0,))),
            mask=some(0.6),
            junk=some(0.5),
            reset=some(0.6),
            reverse=some(0.3),
            begun=some(0.5),
            batch_first=some(0.3),
            dtype=one(DTYPES),
            implementation=one(IMPLEMENTATIONS),
            call=one(CALLS),
            checkpoint=one((None, None, None, True, 1, 2, 3)),
            jit=some(0.7),
        )
        return case.possible()

    def possible(self):
        """The same without what cannot be asked together."""
        changes: dict[str, Any] = {}
        blocks = [
            b._replace(width=6) if b.cell.endswith("with options") else b for b in self.blocks
        ]
        if self.implementation == "native":
            changes["dtype"] = "float32"
        if self.call in ("cut", "step"):  # time runs forward in all of it
            changes |= {"reverse": False, "batch_first": False}
            blocks = [b._replace(direction="forward") for b in blocks]
        if not self.batch:
            changes["batch_first"] = False
            changes["call"] = "plain" if self.call == "vmap" else self.call
        if self.junk and not self.mask:
            changes["junk"] = False
        if not self.time and self.call == "step":
            changes["time"] = 1
        return dataclasses.replace(self, blocks=tuple(blocks), **changes)

    def simpler(self):
        """The cases that have one thing less."""
        plain = {
            "batch": (3,), "mask": False, "junk": False, "reset": False, "reverse": False,
            "begun": False, "batch_first": False, "dtype": "float64", "implementation": "scan",
            "call": "plain", "checkpoint": None, "jit": False,
        }  # fmt: skip
        for i, block in enumerate(self.blocks):
            for less in (
                [],
                [block._replace(inside=block.inside[1:])],
                [block._replace(outside=block.outside[1:])],
                [block._replace(direction="forward")],
            ):
                blocks = (*self.blocks[:i], *less, *self.blocks[i + 1 :])
                if blocks:
                    yield dataclasses.replace(self, blocks=blocks).possible()
        for name, value in plain.items():
            yield dataclasses.replace(self, **{name: value}).possible()
        if self.time > 1:
            yield dataclasses.replace(self, time=self.time - 1)


def build(case):
    """The network, in float64."""
    rng = np.random.default_rng([case.number, 1])
    noisy = lambda tree: jax.tree.map(lambda a: a + 0.3 * rng.standard_normal(a.shape), tree)
    nodes, size = [], N
    for block in case.blocks:
        cell, key = TABLE[block.cell], jax.random.key(int(rng.integers(2**31)))
        window = 2 if "window" in block.outside else 1
        both = block.direction == "both"
        node = noisy(jaxlstm.init(key, cell, window * size, block.width, bidirectional=both))
        for name in block.inside:
            if name == "zoneout":
                node = wrappers.zoneout(node, 0.2, 0.4)
            elif name == "initial":
                node = elsewhere(wrappers.learn_initial_state(node), rng)
            elif name == "clip":
                node = wrappers.clip_gradient(node, 1e6)  # which is never reached
            elif name != "recurrent dropout" or set("ngh") & set(cell.gates):
                node = NOISE_ALONE[name](node)
        node = jaxlstm.Reverse(node) if block.direction == "backward" else node
        for name in block.outside:
            out = width(node)
            if name == "window":
                node = wrappers.window(node, window)
            elif name == "skip":
                same = node.input_size == out
                node = wrappers.residual(node) if same else wrappers.dense(node)
            elif name == "highway" and node.input_size == out:
                node = noisy(wrappers.highway(key, node))
            elif name.startswith("norm"):
                node = noisy(wrappers.layer_norm(node, name.removeprefix("norm of ")))
        nodes.append(node)
        size = width(node)
    return nodes[0] if len(nodes) == 1 else jaxlstm.Stack(tuple(nodes))


def width(node):
    xs = jax.ShapeDtypeStruct((1, node.input_size), float)
    return jax.eval_shape(jaxlstm.apply, node, xs)[0].shape[-1]


def elsewhere(node, rng):
    """With initial states that are what some steps leave behind."""
    learned = lambda a: isinstance(a, wrappers.InitialState)

    def moved(a):
        if not learned(a):
            return a
        xs = rng.standard_normal((2, a.input_size))
        end = sequence(doubles(a.node), xs, initial(a.node), False)[1]
        return a._replace(state=jax.tree.map(jnp.asarray, end))

    return jax.tree.map(moved, node, is_leaf=learned)


# The oracle.


def doubles(tree):
    return jax.tree.map(lambda a: np.asarray(a, np.float64), tree)


@functools.cache
def zeros(cell, hidden):
    return doubles(cell.zeros((), hidden, float))


def initial(node):
    match type(node).__name__:
        case "Stack":
            return tuple(map(initial, node.layers))
        case "Bidirectional":
            return initial(node.forward), initial(node.backward)
        case "InitialState":
            return node.state
        case "Delay":
            return jaxlstm.HiddenState(np.zeros(np.prod(node.of.shape[1:])))
        case "Layer":
            return zeros(node.cell, node.w.shape[-1])
    return initial(node.node)


def stepper(node, touch):
    """`f(x, s)`, one step of a layer; `touch` may change every new state."""
    if type(node).__name__ == "Delay":
        return lambda x, s: (np.concatenate([x, s[0]])[: len(s[0])],)
    if type(node).__name__ == "Zoneout":
        step, (first, rest) = stepper(node.node, touch), node.rates.value
        mix = lambda rate, old, new: rate * old + (1 - rate) * new
        rates = lambda s: [first] + [rest] * (len(s) - 1)
        return lambda x, s: tuple(map(mix, rates(s), s, step(x, s)))
    if hasattr(node, "node"):
        return stepper(node.node, touch)
    p, equations = Weights(node), ORACLES[node.cell.name]
    return lambda x, s: tuple(map(touch, equations(p, x, *s)))


def sequence(node, xs, state, backward, touch=lambda a: a):
    """`(ys, end)` of one episode of one row, without masks: a tree of loops over steps."""
    go = functools.partial(sequence, backward=backward, touch=touch)
    match type(node).__name__:
        case "Stack":
            ends = []
            for layer, s in zip(node.layers, state, strict=True):
                xs, end = go(layer, xs, s)
                ends.append(end)
            return xs, tuple(ends)
        case "Reverse":
            return go(node.node, xs, state, backward=not backward)
        case "Bidirectional":
            yf, sf = go(node.forward, xs, state[0])
            yb, sb = go(node.backward, xs, state[1], backward=not backward)
            return np.concatenate([yf, yb], -1), jaxlstm.BidirectionalState(sf, sb)
        case "SequenceDropout":
            return go(node.node, xs, state)
        case "Residual":
            ys, end = go(node.node, xs, state)
            return xs + ys, end
        case "Dense":
            ys, end = go(node.node, xs, state)
            return np.concatenate([xs, ys], -1), end
        case "Highway":
            ys, end = go(node.node, xs, state)
            t = 1 / (1 + np.exp(-(xs @ node.gate + node.bias)))
            return t * ys + (1 - t) * xs, end
        case "LayerNorm":
            if node.before.value:
                return go(node.node, normal(node, xs), state)
            ys, end = go(node.node, xs, state)
            return normal(node, ys), end
    step, ys, kind = stepper(node, touch), [None] * len(xs), type(state)
    for t in range(len(xs))[:: -1 if backward else 1]:
        state = step(xs[t], state)
        ys[t] = state[0]
    return np.array(ys).reshape(len(xs), len(state[0])), kind(*state)


def normal(node, x):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt(x.var(-1, keepdims=True) + node.epsilon.value) * node.gain + node.shift


def chosen(node, forward, backward, turned):
    """Of two states of a network, that of each layer for the direction in which it runs."""
    go = functools.partial(chosen, turned=turned)
    match type(node).__name__:
        case "Stack":
            return tuple(map(go, node.layers, forward, backward))
        case "Reverse":
            return go(node.node, forward, backward, turned=not turned)
        case "Bidirectional":
            one = go(node.forward, forward[0], backward[0])
            other = go(node.backward, forward[1], backward[1], turned=not turned)
            return jaxlstm.BidirectionalState(one, other)
        case "SequenceDropout" | "Residual" | "Dense" | "Highway" | "LayerNorm":
            return go(node.node, forward, backward)
    return backward if turned else forward


def row(node, xs, state, fresh, mask, reset, backward, touch):
    """`(ys, last)` of one row: its episodes one by one.

    The given state is where an episode goes on that began before: forward the first, unless a
    reset stands at its first step, and backward the last.
    """
    starts = [0, *(t for t in range(1, len(xs)) if reset[t])]
    ends = [*starts[1:], len(xs)]
    first = fresh if len(xs) and reset[0] else state
    ys, lasts = None, []
    for a, b in zip(starts, ends):
        begin = chosen(node, first if a == 0 else fresh, state if b == len(xs) else fresh, backward)
        kept = [t for t in range(a, b) if mask[t]]
        out, last = sequence(node, xs[kept], begin, backward, touch)
        ys = np.zeros((len(xs), out.shape[-1])) if ys is None else ys
        ys[kept] = out
        lasts.append(last)
    return ys, chosen(node, lasts[-1], lasts[0], backward)


def oracle(case, params, xs, state, mask, reset, touch=lambda a: a):
    """`(ys, last)` of all rows, stacked."""
    shape, fresh = xs.shape[1:-1], initial(params)
    outs = []
    for at in np.ndindex(shape):
        take = lambda a, at=at: a[(slice(None), *at)]
        one = fresh if state is None else jax.tree.map(lambda a, at=at: a[at], state)
        rows = take(xs), one, fresh, take(mask), take(reset)
        outs.append(row(params, *rows, case.reverse, touch))
    if not outs:
        return None
    stacked = jax.tree.map(lambda *a: np.stack(a).reshape(*shape, *a[0].shape), *outs)
    return np.moveaxis(stacked[0], len(shape), 0), stacked[1]


# The comparison.


class Problem:
    """All that belongs to a case: arrays in its dtype, and the same in float64."""

    def __init__(self, case):
        self.case, self.rng = case, np.random.default_rng([case.number, 2])
        rng, rows = self.rng, (case.time, *case.batch)
        cast = lambda tree: jax.tree.map(lambda a: jnp.asarray(a, case.dtype), tree)
        self.params = cast(build(case))
        self.xs = cast(rng.standard_normal((*rows, N)))
        self.mask = rng.random(rows) < 0.7 if case.mask else np.ones(rows, bool)
        self.reset = rng.random(rows) < 0.3 if case.reset else np.zeros(rows, bool)
        self.cut = int(rng.integers(case.time + 1))
        self.state = None
        if case.begun:
            before = rng.standard_normal((2, *case.batch, N))
            off = np.zeros((2, *case.batch), bool)
            end = oracle(case, doubles(self.params), before, None, ~off, off)
            like = jax.eval_shape(lambda: self.params.initial_state(case.batch))
            if end is None:  # no rows
                self.state = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), like)
            else:
                self.state = jax.tree.map(lambda a, b: jnp.asarray(a, b.dtype), end[1], like)

    @property
    def given(self):
        """What gradients are taken of: params, inputs, and the state where one is given."""
        return (self.params, self.xs) + ((self.state,) if self.case.begun else ())

    def run(self, params, xs, state=None):
        """Calls the library as the case says."""
        case, axis = self.case, int(self.case.batch_first)
        options: dict[str, Any] = {"reverse": case.reverse, "checkpoint": case.checkpoint}
        if name := case.implementation:
            options["implementation"] = name if name == "scan" else (name, "scan")
        rows = {
            "mask": self.mask if case.mask else None,
            "reset": self.reset if case.reset else None,
        }
        rows = {name: a for name, a in rows.items() if a is not None}
        if case.junk:
            xs = jnp.where(jnp.asarray(self.mask)[..., None], xs, jnp.asarray(jnp.nan, xs.dtype))
        if axis:
            xs, rows = jax.tree.map(lambda a: jnp.moveaxis(a, 0, 1), (xs, rows))

        def apply(params, xs, state, rows, axis=axis):
            return jaxlstm.apply(params, xs, state, axis=axis, **rows, **options)

        match case.call:
            case "remat":
                apply = jax.checkpoint(apply)
            case "vmap":
                over = 1 - axis
                inner = functools.partial(apply, axis=0)
                apply = jax.vmap(inner, (None, over, 0, over), (over, 0))
            case "ensemble":
                several = jax.tree.map(lambda a: jnp.stack([a * a.dtype.type(0.9), a]), params)
                each = jax.vmap(apply, (0, None, None, None))
                last = lambda tree: jax.tree.map(lambda a: a[1], tree)
                apply = lambda _, *a: last(each(several, *a))
            case "cut":
                part = lambda tree, cut: jax.tree.map(lambda a: a[cut], tree)
                whole, first, rest = apply, slice(self.cut), slice(self.cut, None)

                def apply(params, xs, state, rows):
                    a, state = whole(params, xs[first], state, part(rows, first))
                    b, state = whole(params, xs[rest], state, part(rows, rest))
                    return jnp.concatenate([a, b]), state

            case "step":

                def apply(params, xs, state, rows):
                    ys = []
                    for t in range(len(xs)):
                        at = {name: a[t] for name, a in rows.items()}
                        y, state = jaxlstm.step(params, xs[t], state, **at)
                        ys.append(y)
                    return jnp.stack(ys), state

        ys, last = apply(params, xs, state, rows)
        return (jnp.moveaxis(ys, 1, 0) if axis else ys), last

    def truth(self, given, touch=lambda a: a):
        params, xs, *state = given
        return oracle(
            self.case, params, xs, state[0] if state else None, self.mask, self.reset, touch
        )


# What makes the derivative of equations jump, in the text of their program.
KINKS = re.compile(r"\b(max|min|abs|clamp|sign|clip)\b")


def has_kinks(params):
    step = functools.partial(jaxlstm.apply, implementation="scan")
    xs = jax.ShapeDtypeStruct((1, params.input_size), jax.tree.leaves(params)[0].dtype)
    return bool(KINKS.search(str(jax.make_jaxpr(step)(params, xs))))


SLACK = 10


def flat(tree):
    return [np.asarray(a, np.float64) for a in jax.tree.leaves(tree)]


def agree(case):
    """Raises unless values, last states and gradients are those of the oracle.

    How far rounding may take a result is measured: the oracle is run again with everything that
    comes in, and every new state, changed by as much as their dtype rounds; a result may differ
    from the truth by `SLACK` times the largest change.
    """
    problem = Problem(case)
    given, rng = problem.given, problem.rng

    def both(given, cotangents):
        out, pull = jax.vjp(problem.run, *given)
        return out, pull(cotangents)

    shapes = jax.eval_shape(problem.run, *given)
    random = lambda a: jnp.asarray(rng.standard_normal(a.shape), a.dtype)
    cotangents = jax.tree.map(random, shapes)
    (ys, last), grads = (jax.jit(both) if case.jit else both)(given, cotangents)

    assert jax.tree.structure(last) == jax.tree.structure(problem.params.initial_state(()))
    assert ys.dtype == jnp.dtype(case.dtype)
    assert all(np.isfinite(a).all() for a in flat((ys, last, grads))), "not finite"
    assert not np.asarray(ys)[~problem.mask].any(), "an output under the mask"
    assert not np.asarray(grads[1])[~problem.mask].any(), "a gradient under the mask"
    exact = doubles(given)
    truth = problem.truth(exact)
    if truth is None:  # no rows
        assert not any(a.any() for a in flat(grads[0]))
        return

    unit = float(jnp.finfo(case.dtype).eps)
    equations = min(unit, float(jnp.finfo("float32").eps))
    rounded = lambda a: a * (1 + unit * rng.uniform(-1, 1, np.shape(a)))
    others = [jax.tree.map(rounded, exact) for _ in range(3)]
    compare(
        "outputs and last states",
        flat((ys, last)),
        flat(truth),
        [flat(problem.truth(other, rounded)) for other in others],
        unit,
    )

    if case.dtype == "bfloat16" and has_kinks(problem.params):
        return  # rounding moves inputs over a kink
    leaves, structure = jax.tree.flatten(exact)
    gradients, weights = flat(grads), flat(cotangents)
    whole = np.sqrt(sum((w**2).sum() for w in weights))

    def loss(leaves):
        out = flat(problem.truth(jax.tree.unflatten(structure, leaves)))
        return sum(np.vdot(a, w) for a, w in zip(out, weights, strict=True))

    sizes = [a.size for a in leaves]
    some = [i for i in rng.permutation(len(leaves))[:5] if sizes[i]]
    for chosen_leaves in ([i for i, n in enumerate(sizes) if n], *([i] for i in some)):
        direction = {i: rng.standard_normal(leaves[i].shape) for i in chosen_leaves}
        norm = np.sqrt(sum((d**2).sum() for d in direction.values()))
        direction = {i: d / norm for i, d in direction.items()}
        true, doubt = difference(loss, leaves, direction)
        if doubt > 1e-8 * (1 + abs(true)):  # a kink is nearby
            continue
        got = sum(np.vdot(gradients[i], d) for i, d in direction.items())
        size = np.sqrt(sum((gradients[i] ** 2).sum() for i in direction))
        # The derivative of a closed gate is lost in rounding: `1 - tanh^2` is off by a unit of 1,
        # of float32 where the weights are narrower.
        bound = SLACK * (unit * size + equations * whole) + 1e-8 * size + 1e-10
        bound += doubt
        if case.dtype != "float64":
            moved = [difference(loss, jax.tree.leaves(other), direction)[0] for other in others]
            bound += SLACK * max(abs(m - true) for m in moved)
        what = f"gradient of {', '.join(named(given, i) for i in chosen_leaves)}"
        assert abs(got - true) <= bound, f"{what}: {got} where {true} is right, +- {bound:.1e}"


def named(given, i):
    names = dict(enumerate(("params", "xs", "state")))
    path = jax.tree_util.tree_leaves_with_path(given)[i][0]
    return names[path[0].idx] + jax.tree_util.keystr(path[1:])


def compare(what, got, true, others, unit):
    for i, (a, b) in enumerate(zip(got, true, strict=True)):
        assert a.shape == b.shape
        scale = np.abs(b).max(initial=0)
        spread = max(np.abs(other[i] - b).max(initial=0) for other in others)
        bound = SLACK * spread + max(SLACK * unit, 1e-12) * scale
        worst = np.abs(a - b).max(initial=0)
        assert worst <= bound, (
            f"{what}, array {i}: wrong by {worst:.1e} of {scale:.1e}, +- {bound:.1e}"
        )


def difference(f, leaves, direction):
    """The derivative by central differences of the fourth order, and how wrong they may be."""

    @functools.cache
    def at(e):
        return f([a + e * direction[i] if i in direction else a for i, a in enumerate(leaves)])

    derivative = lambda e: (8 * (at(e) - at(-e)) - (at(2 * e) - at(-2 * e))) / (12 * e)
    # Where a derivative jumps nearby, two widths may agree by chance.
    fine, middle, coarse = derivative(2**-11), derivative(2**-10), derivative(2**-9)
    return fine, max(abs(fine - middle), abs(middle - coarse))


def simplest(case, seconds):
    """A case with less in it that fails too."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for other in case.simpler():
            if other != case and failure(other):
                case = other
                break
        else:
            break
    return case


def failure(case):
    try:
        agree(case)
    except Exception as error:
        return error
    return None


def checked(number):
    """Raises an error that says how to run the case again, and what less fails as well."""
    case = Case.draw(number)
    if error := failure(case):
        less = simplest(case, 60)
        raise AssertionError(
            f"case {number} fails: {error}\n"
            f'    pytest tests/test_random_networks.py -m "" -k one_case --case {number}\n'
            f"the case: {case}\nfails as well: {less}, with: {failure(less)}"
        ) from error


@pytest.mark.parametrize("number", some_of((0, 27), (0,)))  # the last without rows, in segments
def test_a_random_network_is_its_equations(number):
    checked(number)


@pytest.mark.slow
def test_one_case(request):
    checked(request.config.getoption("case"))


def pytest_generate_tests(metafunc):
    """A test for each minute, as many at once as there are workers."""
    if "minute" in metafunc.fixturenames:
        workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
        metafunc.parametrize("minute", range(workers * metafunc.config.getoption("minutes")))


@pytest.mark.slow
def test_the_sweep(minute, today):
    """Other networks each day; the number of one that fails says all."""
    first = 10**6 * today + 10**3 * minute
    end, number = time.monotonic() + 60, first
    while time.monotonic() < end:
        checked(number)
        number += 1
    print(f"{number - first} networks, from {first} on")
    jax.clear_caches()
