"""The networks that the laws are tried on: every exported cell, in every arrangement."""

import functools
import math
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlstm
from jaxlstm._unroll.native import _compiler

T, B, N, H = 7, 3, 4, 5
LENGTHS = [7, 4, 0]
CELLS = {name: c for name, c in vars(jaxlstm.cells).items() if isinstance(c, jaxlstm.Cell)}
CORE = ("rnn", "lstm", "gru", "gru_reset_before")


@jaxlstm.general_cell(
    "abc",
    jaxlstm.LSTMState,
    weights={
        "p": jaxlstm.Weight("... hidden", jaxlstm.initializers.ones),
        "q": jaxlstm.Weight("... 1", jaxlstm.initializers.ones),
    },
)
def three_products(s, u, recur, *, p, q):
    """Each made of what the one before gave; the second is used apart from `u`.

    One weight is a number for each unit, the other one number for all of them.
    """
    a, b, c = u
    r = jax.nn.sigmoid(a + recur(s.h, "a")[0] + p * s.c)
    n = jnp.tanh(b * recur(r * s.h, "b")[0])
    m = jnp.tanh(c + recur(n + s.c, "c")[0])
    memory = r * s.c + q * (1 - r) * n * m
    return m * jnp.tanh(memory), memory


ARRANGEMENTS = {
    "layer": {},
    "stack": {"layers": 2},
    "bidirectional": {"layers": 2, "bidirectional": True},
}


# One cell of each kind that layers and implementations treat in a way of its own: weights of units,
# matrices, and norms in the equations; products one after another, states of other widths, layers
# within a step, no recurrent product; linear, of complex numbers, with a matrix as its state.
KINDS = (
    "lstm", "gru", "peephole_lstm", "projected_lstm", "layer_norm_lstm", "gru_reset_before",
    "tau_gru", "scrn", "rhn", "indrnn", "minlstm", "lru", "mlstm",
)  # fmt: skip


def over_kinds(law):
    """Tries a law on a cell of each kind: one that is about what is done with any equations.

    The fast suite has one.  The random networks take every cell, with masks, resets, directions,
    `vmap` and checkpoints.
    """
    return over_cells(law, {name: CELLS[name] for name in KINDS}, count=1)


def some_of(cases, often):
    """All of these cases, of which the fast suite has those that are in `often`.

    A case that is a tuple has a value for each parameter.
    """
    values = lambda case: case if isinstance(case, tuple) else (case,)
    return [
        pytest.param(*values(case), marks=() if case in often else pytest.mark.slow)
        for case in cases
    ]


def over_cells(law, cells=CELLS, count=2):
    """Tries a law on every cell, of which the fast suite has `count`: two, or one of the two.

    They are `lstm` or `gru`, and a cell that is linear or another: which ones depends on the name
    of the law.  The whole table runs in the slow suite, of which a tenth runs each day.
    """
    usual = [name for name in ("lstm", "gru") if name in cells]
    linear = [name for name, cell in cells.items() if type(cell).__name__ == "Linear"]
    others = [name for name in cells if name not in (*usual, *linear)]
    number = zlib.crc32(law.__name__.encode())
    second = [kind for kind in (linear, others) if kind]
    # Divided, so that the number that chose the kind does not choose the cell of it as well.
    chosen = [kind[number // 7 % len(kind)] for kind in (usual, second[number % len(second)])]
    if count == 1:
        chosen = [chosen[number // 3 % 2]]
    parameters = [
        pytest.param(cell, id=name, marks=() if name in chosen else pytest.mark.slow)
        for name, cell in cells.items()
    ]
    return pytest.mark.parametrize("cell", parameters, scope="module")(law)


def network(cell, arrangement="layer", seed=0, sizes=(N, H), **options):
    """A network with weights that are nowhere zero, so that every gate and bias counts."""
    options = {**ARRANGEMENTS[arrangement], **options}
    key = cell, seed, sizes, jax.config.jax_enable_x64, *sorted(options.items())
    if key not in MADE:
        random = np.random.default_rng(seed)
        options["scheme"] = by_numpy(random)
        with jax.ensure_compile_time_eval():
            params = jaxlstm.init(jax.random.key(seed), cell, *sizes, **options)
            noisy = lambda a: np.float64(a) + 0.2 * random.standard_normal(a.shape)
            MADE[key] = jax.tree.map(lambda a: array(noisy(a), a.dtype), params)
    return MADE[key]


def array(numbers, dtype=float):
    """Converted by NumPy: JAX would compile a program for each shape."""
    return jnp.asarray(numbers.astype(jax.dtypes.canonicalize_dtype(dtype)))


def by_numpy(random):
    """The default scheme, sampled by NumPy."""

    def glorot(key, shape, dtype):
        limit = math.sqrt(6 / (shape[0] + shape[-1]))
        return array(random.uniform(-limit, limit, shape), dtype)

    def orthogonal(key, shape, dtype):
        n, gates, h = shape
        square = random.standard_normal((gates, max(n, h), max(n, h)))
        return array(np.moveaxis(np.linalg.qr(square)[0][:, :n, :h], 0, 1), dtype)

    def zeros(key, shape, dtype):
        return array(np.zeros(shape), dtype)

    return jaxlstm.initializers.default._replace(
        w=glorot, r=orthogonal, b=zeros, recurrent_bias=zeros
    )


MADE = {}  # networks by what makes them, of which a module uses each often


def numbers(cell, arrangement="layer", sizes=(N, H), **options):
    """A network of NumPy's numbers: nothing is compiled, for tests of which weights are where."""
    options = {**ARRANGEMENTS[arrangement], **options}
    made = lambda key: jaxlstm.init(key, cell, *sizes, **options)
    shapes = jax.eval_shape(made, jax.random.key(0))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda a: rng.standard_normal(a.shape).astype(a.dtype), shapes)


@functools.cache
def _constant(draw, *args):
    """Random numbers, sampled once in a process, by NumPy: nothing is compiled for them."""
    return draw(*args)


def _normal(shape, *seed):
    return np.random.default_rng(seed).standard_normal(shape)


def _bernoulli(seed, p, shape):
    return np.random.default_rng(seed).random(shape) < p


def inputs(seed=1, shape=(T, B, N), dtype=float):
    return array(_constant(_normal, tuple(shape), seed), dtype)


def some_mask(seed=2, shape=(T, B)):
    """Any pattern, not only suffixes; the last row is all False."""
    mask = _constant(_bernoulli, seed, 0.6, tuple(shape)).copy()
    if len(shape) > 1:
        mask[:, -1] = False
    return jnp.asarray(mask)


def some_reset(seed=3, shape=(T, B)):
    return jnp.asarray(_constant(_bernoulli, seed, 0.3, tuple(shape)))


def normal_like(tree, seed=4):
    """Random cotangents, or a state, of the shapes of a tree."""
    leaves, structure = jax.tree.flatten(tree)
    like = lambda i, a: array(_constant(_normal, a.shape, seed, i), a.dtype)
    return jax.tree.unflatten(structure, [like(i, a) for i, a in enumerate(leaves)])


def some_state(params, batch=(B,), seed=5):
    """A state that the network could be in: what it is in after a few steps."""
    xs = inputs(seed, (3, *batch, N), jax.tree.leaves(params)[0].dtype)
    return jaxlstm.apply(params, xs)[1]


def pulled(params, xs, state=None, **options):
    """`(ys, state)` and the gradients of params and xs under a random cotangent."""

    def f(params, xs):
        return jaxlstm.apply(params, xs, state, **options)

    @jax.jit
    def both(params, xs):
        out, pull = jax.vjp(f, params, xs)
        return out, pull(normal_like(out))

    return both(params, xs)


def close(got, expected, rtol=1e-12, atol=1e-13):
    """Equal in structure, and in every number up to rounding."""
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected)):
        assert a.dtype == b.dtype
        scale = float(np.abs(b).max(initial=0.0))
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol + rtol * scale)


def compiler_here():
    """Whether `native` can run on this machine."""
    try:
        return bool(_compiler.compiler())
    except NotImplementedError:
        return False


def refused(call, exception, message):
    """One exception, whose message says every one of these."""
    with pytest.raises(exception) as caught:
        call()
    assert type(caught.value) is exception
    for part in message:
        caught.match("(?s)" + part)
