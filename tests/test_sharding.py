"""Rows, weights and networks shared out over devices give what one device gives.

Under explicit types, as `jax.make_mesh` makes meshes, under `jit` alone, and in `shard_map`.
"""

import functools
import itertools
import math
import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

import jaxlstm
from networks import (
    CELLS,
    B,
    N,
    close,
    compiler_here,
    inputs,
    network,
    normal_like,
    some_mask,
    some_of,
    some_reset,
)  # fmt: skip

KEY = jax.random.key(7)
ROWS = 4
W = jaxlstm.wrappers
LSTM = functools.partial(network, jaxlstm.lstm)
NETWORKS = {
    "lstm": LSTM,
    "gru": lambda **o: network(jaxlstm.gru, **o),
    "general": lambda **o: network(jaxlstm.gru_reset_before, **o),
    "linear": lambda **o: network(CELLS["minlstm"], **o),
    "linear with a read": lambda **o: network(CELLS["qrnn"], **o),
    "matrix memory": lambda **o: network(CELLS["mlstm"], **o),
    "peephole": lambda **o: network(CELLS["peephole_lstm"], **o),
    "stack": lambda **o: LSTM(layers=2, dropout=0.3, **o),
    "bidirectional": lambda **o: LSTM("bidirectional", **o),
    "zoneout": lambda **o: W.zoneout(LSTM(**o), 0.1, 0.3),
    "recurrent dropout": lambda **o: W.recurrent_dropout(LSTM(**o), 0.3),
    "variational": lambda **o: W.variational_dropout(LSTM(**o), 0.2, 0.3, 0.2),
    "weight drop": lambda **o: W.weight_drop(LSTM(**o), 0.3),
    "highway": lambda **o: W.highway(KEY, W.residual(jaxlstm.init(KEY, jaxlstm.gru, 4, 4, **o))),
    "layer norm": lambda **o: W.dense(W.layer_norm(LSTM(**o))),
    "learned start": lambda **o: W.learn_initial_state(LSTM(**o)),
    "clipped": lambda **o: W.clip_gradient(LSTM(**o), 0.01),
    "window": lambda **o: W.window(jaxlstm.init(KEY, jaxlstm.lstm, 8, 5, **o), 2),
    "convolution": lambda **o: jaxlstm.init_conv(KEY, jaxlstm.lstm, 4, 3, (3,), **o),
    "convolution in two": lambda **o: jaxlstm.init_conv(KEY, jaxlstm.gru, 4, 2, (3, 3), **o),
}
NOISY = ("stack", "zoneout", "recurrent dropout", "variational", "weight drop")
OFTEN = [("lstm", "native"), ("zoneout", None)]
OTHERS = {
    "lstm": ("newton", "scan", "native"),
    "gru": ("newton", "native"),
    "linear": ("associative", "scan"),
    "linear with a read": ("associative",),
    "bidirectional": ("native",),
    "stack": ("newton", "native"),
}


def over_networks(law):
    """Each by default, and by each of its other implementations."""
    cases = []
    for name in NETWORKS:
        for implementation in (None, *OTHERS.get(name, ())):
            often = (name, implementation) in OFTEN
            marks = [] if often else [pytest.mark.slow]
            if implementation == "native":
                skip = not compiler_here()
                marks.append(pytest.mark.skipif(skip, reason="no C++ compiler"))
            cases.append(
                pytest.param(name, implementation, id=f"{name}-{implementation}", marks=marks)
            )
    return pytest.mark.parametrize(("name", "implementation"), cases)(law)


def drawn(name, implementation, time=5, rows=ROWS):
    """A network, and `(xs, state, mask, reset)`."""
    dtype = jnp.float32 if implementation == "native" else jnp.float64
    params = NETWORKS[name](dtype=dtype)
    batch = rows if isinstance(rows, tuple) else (rows,)
    space = (4,) * params.spatial_axes
    xs = jax.random.normal(jax.random.key(1), (time, *batch, *space, 4), dtype)
    state = jax.tree.map(lambda a: jnp.abs(0.1 * a), normal_like(jaxlstm.apply(params, xs)[1]))
    mask, reset = some_mask(shape=(time, *batch)), some_reset(shape=(time, *batch))
    return params, (xs, state, mask, reset)


def tolerance(implementation):
    return (
        {"rtol": 1e-5, "atol": 1e-6}
        if implementation == "native"
        else {"rtol": 1e-11, "atol": 1e-12}
    )


def values(implementation, params, xs, state, mask, reset, key=None, **options):
    everything = {
        "mask": mask,
        "reset": reset,
        "key": key,
        "implementation": implementation,
        **options,
    }
    return jaxlstm.apply(params, xs, state, **everything)


def loss(implementation, params, xs, state, mask, reset, key=None, **options):
    out = values(implementation, params, xs, state, mask, reset, key, **options)
    return sum(jnp.sum(jnp.sin(a)) for a in jax.tree.leaves(out))


def mesh_of(*shape, kind="Explicit"):
    names = ("data", "other")[: len(shape)]
    devices = jax.devices()[: math.prod(shape)]
    return jax.make_mesh(shape, names, (getattr(AxisType, kind),) * len(shape), devices=devices)


def put(mesh, tree, *axes):
    return jax.device_put(tree, NamedSharding(mesh, P(*axes)))


def rows_shared(mesh, given, *axes):
    xs, state, mask, reset = given
    each = lambda tree: put(mesh, tree, None, *axes)
    return each(xs), put(mesh, state, *axes), each(mask), each(reset)


@over_networks
def test_rows_whose_types_say_so(name, implementation):
    params, given = drawn(name, implementation)
    args, key = (params, *given), KEY if name in NOISY else None
    mesh = mesh_of(2)
    shared = (put(mesh, params), *rows_shared(mesh, given, "data"))
    grad = jax.jit(jax.value_and_grad(functools.partial(loss, implementation), (0, 1, 2)))
    close(grad(*shared, key=key), grad(*args, key=key), **tolerance(implementation))
    run = jax.jit(functools.partial(values, implementation))
    got = run(*shared, key=key)
    close(got, run(*args, key=key), **tolerance(implementation))
    assert got[0].sharding.spec[1] == "data"
    assert all(a.sharding.spec[0] == "data" for a in jax.tree.leaves(got[1]))


@pytest.mark.parametrize(
    ("which", "implementation"),
    some_of(
        [*itertools.product(("xs", "state", "mask", "reset", "params"), (None, "native"))],
        [("state", None), ("params", None)],
    ),
)
def test_one_array_that_is_shared_out_is_enough(which, implementation):
    """The others need not be: of a mask just made, for example, no type says anything."""
    if implementation == "native" and not compiler_here():
        pytest.skip("no C++ compiler")
    params, given = drawn("lstm", implementation)
    mesh = mesh_of(2)
    shared = dict(zip(("xs", "state", "mask", "reset"), rows_shared(mesh, given, "data")))
    shared["params"] = params._replace(w=put(mesh, params.w, "data"))  # by inputs
    args = dict(zip(("params", "xs", "state", "mask", "reset"), (params, *given)))
    grad = jax.jit(jax.value_and_grad(lambda p, x, **o: loss(implementation, p, x, **o), (0, 1)))
    call = lambda a: grad(a["params"], a["xs"], **{k: a[k] for k in ("state", "mask", "reset")})
    close(call({**args, which: shared[which]}), call(args), **tolerance(implementation))


AXES = {
    "two axes of rows": ((1, 2), (2, 4), ("data", "other")),
    "the second axis of rows": ((2,), (2, 4), (None, "data")),
    "one axis by two of the mesh": ((2, 1), (4,), (("data", "other"),)),
    "a mesh of one device": ((1,), (4,), ("data",)),
    "one row on one device": ((1,), (1,), ("data",)),
    "one row of two axes on one device": ((1, 1), (1, 1), ("data", "other")),
}
OF_AXES = [
    ("lstm", None), ("gru", "native"), ("linear", "associative"), ("convolution", None),
    ("stack", "scan"),
]  # fmt: skip


# The machine's count of devices decides how products are made.
@pytest.mark.parametrize("single", [False, True], ids=["two devices", "one device"])
@pytest.mark.parametrize(
    ("axes", "name", "implementation"),
    some_of(
        [(axes, *network) for axes in AXES for network in OF_AXES],
        [(axes, "lstm", None) for axes in ("two axes of rows", "one row on one device")],
    ),
)
def test_any_axes(axes, name, implementation, single, monkeypatch):
    if implementation == "native" and not compiler_here():
        pytest.skip("no C++ compiler")
    shape, rows, spec = AXES[axes]
    if single:
        if math.prod(shape) > 1:
            pytest.skip("a mesh of two devices")
        monkeypatch.setattr(jax, "device_count", lambda: 1)
        jax.clear_caches()
    params, given = drawn(name, implementation, 3, rows)
    mesh = mesh_of(*shape)
    shared = (put(mesh, params), *rows_shared(mesh, given, *spec))
    grad = jax.jit(jax.value_and_grad(functools.partial(loss, implementation), (0, 1)))
    close(grad(*shared), grad(params, *given), **tolerance(implementation))
    if single:
        jax.clear_caches()


@pytest.mark.parametrize("kind", some_of(("Auto", "Explicit"), ("Explicit",)))
@pytest.mark.parametrize("what", ["time", "features", "hidden"])
def test_what_every_step_needs_is_brought_together(what, kind):
    params, given = drawn("lstm", None, 4)
    mesh = mesh_of(2, kind=kind)
    xs = given[0]
    shared = {
        "time": (params, put(mesh, xs, "data")),
        "features": (params, put(mesh, xs, None, None, "data")),
        "hidden": (params._replace(r=put(mesh, params.r[:, :, :4], None, None, "data")), xs),
    }[what]
    if what == "hidden":
        params = jaxlstm.init(KEY, jaxlstm.lstm, 4, 4)
        shared = (jax.tree.map(lambda a: put(mesh, a, *[None] * (a.ndim - 1), "data"), params), xs)
    f = jax.jit(jax.value_and_grad(lambda p, x: loss(None, p, x, None, *given[2:]), (0, 1)))
    close(f(*shared), f(params, xs), **tolerance(None))


@pytest.mark.slow
def test_without_jit():
    params, given = drawn("stack", None)
    mesh = mesh_of(2)
    with jax.set_mesh(mesh):
        shared = (put(mesh, params), *rows_shared(mesh, given, "data"))
        close(values(None, *shared, KEY), values(None, params, *given, KEY), **tolerance(None))
        got = jax.grad(functools.partial(loss, None))(*shared, KEY)
    close(got, jax.grad(functools.partial(loss, None))(params, *given, KEY), **tolerance(None))


@pytest.mark.slow
@pytest.mark.parametrize("implementation", [None, "native"])
def test_an_ensemble_over_devices(implementation):
    """By `vmap` of networks whose first axis is shared out, and by `vmap` in `shard_map`."""
    if implementation == "native" and not compiler_here():
        pytest.skip("no C++ compiler")
    dtype = jnp.float32 if implementation == "native" else jnp.float64
    ensemble = jax.vmap(lambda k: jaxlstm.init(k, jaxlstm.gru, 4, 5, dtype=dtype))(
        jax.random.split(KEY, 4)
    )
    _, (xs, _, mask, reset) = drawn("gru", implementation)
    grad = jax.value_and_grad(lambda p, x: loss(implementation, p, x, None, mask, reset), (0, 1))
    every = jax.jit(jax.vmap(grad, (0, None)))
    expected = every(ensemble, xs)
    mesh = mesh_of(2, kind="Auto")
    for check in (True, False):
        by = jax.shard_map(
            jax.vmap(grad, (0, None)), mesh=mesh, in_specs=(P("data"), P()),
            out_specs=P("data"), check_vma=check,
        )  # fmt: skip
        if check:  # then JAX sums the gradient of what all devices have over them
            got = jax.jit(by)(ensemble, jnp.array(xs))
            close(got[0], expected[0], **tolerance(implementation))
            close(got[1][0], expected[1][0], **tolerance(implementation))
        else:
            close(jax.jit(by)(ensemble, xs), expected, **tolerance(implementation))
    if implementation is None:
        mesh = mesh_of(2)
        with jax.set_mesh(mesh):
            got = every(put(mesh, ensemble, "data"), put(mesh, xs))
        close(got, expected, **tolerance(implementation))


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
@pytest.mark.parametrize(
    "check",
    [True, pytest.param(False, marks=pytest.mark.slow)],
    ids=["checked", "unchecked"],
)
@over_networks
def test_shard_map(name, implementation, check, kind):
    """Gradients from within, and of the whole; the last state varies as the rows do."""
    if kind == "Explicit" and (name not in ("lstm", "stack") or not check):
        pytest.skip("as the other kind")
    params, given = drawn(name, implementation)
    mesh = mesh_of(2, kind=kind)
    args = (params, *given)
    shared = args
    if kind == "Explicit":
        shared = (put(mesh, params), *rows_shared(mesh, given, "data"))
    each, once = P(None, "data"), P("data")
    specs = (P(), each, once, each, each)
    run = functools.partial(values, implementation)
    grad = jax.value_and_grad(functools.partial(loss, implementation), (0, 1, 2))
    sharded = lambda f, out: jax.jit(
        jax.shard_map(f, mesh=mesh, in_specs=specs, out_specs=out, check_vma=check)
    )
    whole = sharded(run, (each, once))
    close(whole(*shared), jax.jit(run)(*args), **tolerance(implementation))

    def within(*args):
        value, (dparams, dxs, dstate) = grad(*args)
        dparams = dparams if check else jax.lax.psum(dparams, "data")  # checked, JAX does it
        return jax.lax.psum(value, "data"), (dparams, dxs, dstate)

    expected = jax.jit(grad)(*args)
    close(sharded(within, (P(), (P(), each, once)))(*shared), expected, **tolerance(implementation))
    of_all = lambda *a: sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(whole(*a)))
    close(
        jax.jit(jax.value_and_grad(of_all, (0, 1, 2)))(*shared),
        expected,
        **tolerance(implementation),
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stack", "zoneout", "variational"])
def test_noise_of_its_own_on_each_device(name):
    params, given = drawn(name, None)
    mesh = mesh_of(2, kind="Auto")
    each, once = P(None, "data"), P("data")

    def run(params, *given):
        key = jax.random.fold_in(KEY, jax.lax.axis_index("data"))
        return values(None, params, *given, key), jax.grad(functools.partial(loss, None))(
            params, *given, key
        )

    specs = (P(), each, once, each, each)
    out = ((each, once), P())
    (ys, last), dparams = jax.jit(jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=out))(
        params, *given
    )
    total = jax.tree.map(jnp.zeros_like, params)
    for i in range(2):
        cut = slice(2 * i, 2 * i + 2)
        xs, state, mask, reset = given
        of = lambda tree, cut=cut: jax.tree.map(lambda a: a[cut], tree)
        part = (xs[:, cut], of(state), mask[:, cut], reset[:, cut])
        key = jax.random.fold_in(KEY, i)
        close((ys[:, cut], of(last)), values(None, params, *part, key))
        total = jax.tree.map(
            jnp.add, total, jax.grad(functools.partial(loss, None))(params, *part, key)
        )
    close(dparams, total, **tolerance(None))


@pytest.mark.parametrize("implementation", ["deferred", "scan", "native"])
def test_a_last_state_that_varies_is_not_taken_for_one_that_does_not(implementation):
    if implementation == "native" and not compiler_here():
        pytest.skip("no C++ compiler")
    params, (xs, *_) = drawn("lstm", implementation)
    mesh = mesh_of(2, kind="Auto")
    run = lambda p, x: jaxlstm.apply(p, x, implementation=implementation)[1]
    replicated = jax.shard_map(run, mesh=mesh, in_specs=(P(), P(None, "data")), out_specs=P())
    with pytest.raises(ValueError, match="replicat"):
        replicated(params, xs)


@jaxlstm.gated_cell("ab", jaxlstm.HiddenState)
def used_nowhere_else(s, u, v):
    a, b = u + v
    return (jnp.tanh(a) * jax.nn.sigmoid(b + 1),)


@pytest.mark.parametrize("kind", some_of(("Auto", "Explicit"), ("Explicit",)))
@pytest.mark.skipif(not compiler_here(), reason="no C++ compiler")
def test_the_first_use_of_native_may_be_on_a_mesh(kind):
    from jaxlstm._unroll.native._source import source

    source.cache_clear()
    params = jaxlstm.init(KEY, used_nowhere_else, 4, 5, dtype=jnp.float32)
    xs = jax.random.normal(KEY, (5, 4, 4), jnp.float32)
    mesh = mesh_of(2, kind=kind)
    given = (put(mesh, params), put(mesh, xs, None, "data"))
    run = lambda p, x: jaxlstm.apply(p, x, implementation="native")
    specs = {"in_specs": (P(), P(None, "data")), "out_specs": (P(None, "data"), P("data"))}
    got = jax.shard_map(run, mesh=mesh, **specs)(*given)
    close(got, jaxlstm.apply(params, xs, implementation="scan"), rtol=1e-5, atol=1e-6)


def test_shared_out_by_jit_alone():
    """`in_shardings`, and axes that XLA decides on."""
    params, given = drawn("stack", None)
    mesh = mesh_of(2, kind="Auto")
    at = lambda *axes: NamedSharding(mesh, P(*axes))
    shardings = (at(), at(None, "data"), at("data"), at(None, "data"), at(None, "data"), at())
    f = jax.value_and_grad(functools.partial(loss, None), (0, 1, 2))
    got = jax.jit(f, in_shardings=shardings)(params, *given, KEY)
    close(got, jax.jit(f)(params, *given, KEY), **tolerance(None))


@pytest.mark.parametrize(
    ("kind", "implementation"),
    some_of(
        [*itertools.product(("Auto", "Explicit"), (None, "native"))],
        [("Auto", None)],
    ),
)
def test_checkpoint_and_second_derivatives_of_shared_rows(kind, implementation):
    if implementation == "native" and not compiler_here():
        pytest.skip("no C++ compiler")
    params, given = drawn("lstm", implementation, 4)
    mesh = mesh_of(2, kind=kind)
    shared = (put(mesh, params), *rows_shared(mesh, given, "data"))
    grad = jax.grad(functools.partial(loss, implementation, checkpoint=2), (0, 1))
    direction = lambda args: jax.tree.map(jnp.ones_like, args[:2])
    second = jax.jit(lambda *a: jax.jvp(lambda *b: grad(*b, *a[2:]), a[:2], direction(a)))
    close(second(*shared), second(params, *given), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_step_and_record_of_shared_rows():
    params, given = drawn("bidirectional", None)
    mesh = mesh_of(2)
    shared = (put(mesh, params), *rows_shared(mesh, given, "data"))
    run = lambda p, x, s, m, r: jaxlstm.record(p, x, s, mask=m, reset=r)
    close(run(*shared), run(params, *given), **tolerance(None))
    params, given = drawn("zoneout", None)
    shared = (put(mesh, params), *rows_shared(mesh, given, "data"))
    first = lambda p, x, s, m, r: jaxlstm.step(p, x[0], s, mask=m[0], reset=r[0], key=KEY)
    close(first(*shared), first(params, *given), **tolerance(None))


@pytest.mark.parametrize("name", ["minlstm", "rg_lru"])
def test_time_is_shared_out_for_linear_cells(name):
    """By `associative` under `jit`: each device has some of the steps, and none has all of them."""
    params, mesh = network(CELLS[name]), jax.make_mesh((2,), ("time",), (AxisType.Auto,))
    rows = inputs(shape=(16, B, N)), some_mask(shape=(16, B)), some_reset(shape=(16, B))

    def loss(params, xs, mask, reset):
        options = {"mask": mask, "reset": reset, "implementation": "associative"}
        ys, last = jaxlstm.apply(params, xs, **options)
        return sum(jnp.sum(jnp.sin(a)) for a in (ys, *jax.tree.leaves(last))), ys

    grad = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
    put = lambda tree, spec: jax.device_put(tree, NamedSharding(mesh, spec))
    given = put(params, P()), *put(rows, P("time"))
    got = grad(*given)
    close(got, grad(params, *rows))
    assert got[0][1].sharding.spec[0] == "time"
    text = grad.lower(*given).compile().as_text()
    gathered = [int(n) for n in re.findall(r"= \w+\[(\d+)[\d,]*\]\S* all-gather", text)]
    assert max(gathered, default=0) < 16  # later rounds have fewer steps
