"""`record` sees what `apply` computes: states, gates, and what the input and the state say."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlstm
from networks import (
    B,
    H,
    N,
    T,
    close,
    inputs,
    network,
    over_cells,
    over_kinds,
    some_mask,
    some_of,
    some_reset,
)

XS = inputs()
OPTIONS = {"mask": some_mask(), "reset": some_reset()}
CONTROLS = [{}, OPTIONS, {"reverse": True, **OPTIONS}]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@over_kinds
@pytest.mark.parametrize("arrangement", some_of(("layer", "bidirectional"), ("bidirectional",)))
def test_it_computes_what_apply_computes(cell, arrangement):
    params = network(cell, arrangement)
    for options in CONTROLS[1:]:
        ys, last, seen = jaxlstm.record(params, XS, **options)
        close((ys, last), jaxlstm.apply(params, XS, implementation="scan", **options))
        layers = jax.tree.leaves(seen, is_leaf=lambda a: isinstance(a, jaxlstm.Record))
        layers = [a for a in layers if isinstance(a, jaxlstm.Record)]
        assert len(layers) == (4 if arrangement == "bidirectional" else 1)
        for layer in layers:
            assert set(layer.u) == set(cell.gates)
            assert all(a.shape[:2] == (T, B) for a in jax.tree.leaves(layer))


@over_kinds
def test_the_states_are_those_of_streaming(cell):
    params = network(cell, "stack")
    _, _, seen = jaxlstm.record(params, XS)
    state = None
    for t in range(T):
        _, state = jaxlstm.step(params, XS[t], state)
        for i in range(2):
            close(jax.tree.map(lambda a, t=t: a[t], seen.layers[i].states), state[i])


@over_cells
def test_every_gate_has_its_letter(cell):
    """The equations name every gate, and what else they like."""
    seen = jax.eval_shape(jaxlstm.record, network(cell), XS)[2]
    assert set(cell.gates) <= set(seen.gates)


@pytest.mark.parametrize("options", CONTROLS)
def test_the_gates_of_the_lstm_by_hand(options):
    params = network(jaxlstm.lstm)
    ys, _, seen = jaxlstm.record(params, XS, **options)
    kept = options.get("mask", jnp.ones((T, B), bool))
    for k, letter in enumerate("ifgo"):
        f = np.tanh if letter == "g" else sigmoid
        u = XS @ params.w[:, k] + jnp.broadcast_to(params.b[k], (T, B, H))
        close(seen.u[letter], jnp.where(kept[..., None], u, 0))
        by_hand = jnp.asarray(f(np.asarray(seen.u[letter] + seen.v[letter])))
        close(seen.gates[letter], jnp.where(kept[..., None], by_hand, 0))
    shown = jnp.where(kept[..., None], seen.gates["o"] * jnp.tanh(seen.states.c), 0)
    close(ys, shown)
    if not options:
        h = jnp.concatenate([jnp.zeros((1, B, H)), seen.states.h[:-1]])
        c = jnp.concatenate([jnp.zeros((1, B, H)), seen.states.c[:-1]])
        for k, letter in enumerate("ifgo"):
            close(seen.v[letter], h @ params.r[:, k])
        close(seen.states.c, seen.gates["f"] * c + seen.gates["i"] * seen.gates["g"])


def test_the_gates_of_the_gru_by_hand():
    for cell, before in ((jaxlstm.gru, False), (jaxlstm.gru_reset_before, True)):
        params = network(cell)
        _, _, seen = jaxlstm.record(params, XS)
        r, z, n = (np.asarray(seen.gates[k]) for k in "rzn")
        u, v = ({k: np.asarray(a) for k, a in x.items()} for x in (seen.u, seen.v))
        np.testing.assert_allclose(r, sigmoid(u["r"] + v["r"]), rtol=1e-12)
        np.testing.assert_allclose(z, sigmoid(u["z"] + v["z"]), rtol=1e-12)
        reset = v["n"] if before else r * v["n"]
        np.testing.assert_allclose(n, np.tanh(u["n"] + reset), rtol=1e-12)
        h = np.concatenate([np.zeros((1, B, H)), seen.states.h[:-1]])
        np.testing.assert_allclose(seen.states.h, (1 - z) * n + z * h, rtol=1e-12, atol=1e-14)


def test_time_may_be_the_second_axis():
    params = network(jaxlstm.lstm)
    _, _, seen = jaxlstm.record(params, XS, **OPTIONS)
    swap = lambda a: jnp.moveaxis(a, 0, 1)
    _, _, other = jaxlstm.record(params, swap(XS), axis=1, **jax.tree.map(swap, OPTIONS))
    close(other, jax.tree.map(swap, seen))


def test_jit_vmap_and_grad():
    params = network(jaxlstm.gru, "bidirectional")
    seen = jaxlstm.record(params, XS)[2]
    close(jax.jit(jaxlstm.record)(params, XS)[2], seen)
    each = jax.vmap(jaxlstm.record, (None, 1), 1)(params, XS)
    ys, _, seen = jaxlstm.record(params, XS)
    close(each[0], ys)
    close(each[2].layers[1].backward, seen.layers[1].backward)

    def openness(params):
        return jaxlstm.record(params, XS)[2].layers[0].forward.gates["z"].mean()

    gradient = jax.grad(openness)(params)
    assert jnp.abs(gradient.layers[0].forward.w[:, 1]).min() > 0
    assert not gradient.layers[0].backward.w.any()


@jaxlstm.gated_cell("zn", jaxlstm.HiddenState)
def own(s, u, v):
    """Names inside a call that is compiled, under `vmap`, twice, and never."""
    z, n = u + v

    @jax.jit
    def gate(z):
        return jaxlstm.tag(z=jax.nn.sigmoid(z))

    z = gate(z)
    z2 = jax.vmap(lambda z: jaxlstm.tag(z=z * z))(z)
    return ((1 - z) * s.h + z2 * jnp.tanh(n),)


def test_names_in_a_cell_of_ones_own():
    params = network(own)
    ys, _, seen = jaxlstm.record(params, XS)
    close(ys, jaxlstm.apply(params, XS)[0])
    assert list(seen.gates) == ["z", "z2"]
    close(seen.gates["z2"], seen.gates["z"] ** 2)
    with pytest.raises(TypeError, match="by name"):
        jaxlstm.tag()


def light(name):
    """A cell that names by `name`, also inside a call and where nothing looks."""

    @jaxlstm.gated_cell("zn", jaxlstm.HiddenState)
    def light(s, u, v):
        z, n = u + v
        z, n = name(z=jax.nn.sigmoid(z), n=jnp.tanh(n))
        return (jax.checkpoint(lambda z: name(c=(1 - z) * s.h + z * n))(z),)

    return light


@pytest.mark.parametrize("implementation", some_of(("scan", "deferred"), ("deferred",)))
def test_it_costs_nothing_when_not_asked(implementation):
    """Names are in no compiled program, forwards or backwards."""
    unnamed = lambda **values: a if len(a := (*values.values(),)) > 1 else a[0]

    def programs(name):
        params = network(light(name), "bidirectional")
        loss = lambda p, x: jaxlstm.apply(p, x, implementation=implementation)[0].sum()
        plain = lambda text: re.sub(r"@\w+", "@", text)  # older JAX counts operations in names
        return [
            plain(jax.jit(f).lower(params, XS).as_text())
            for f in (loss, jax.grad(loss), jax.vmap(loss, (None, 1)), jax.hessian(loss, 1))
        ]

    assert programs(jaxlstm.tag) == programs(unnamed)


@jax.jit
def compiled_gates(a):
    """At module level: traced once, whoever calls."""
    z, n = a
    return jaxlstm.tag(z=jax.nn.sigmoid(z), n=jnp.tanh(n))


@jax.custom_jvp
def own_derivative(n):
    return jaxlstm.tag(o=jnp.floor(n))


own_derivative.defjvp(lambda n, dn: (own_derivative(*n), 3.0 * dn[0]))


@jaxlstm.gated_cell("zn", jaxlstm.HiddenState)
def with_module_level_jit(s, u, v):
    """Gates from a program that may have been traced before."""
    z, n = compiled_gates(u + v)
    return ((1 - z) * s.h + z * n,)


@jaxlstm.gated_cell("zn", jaxlstm.HiddenState)
def with_a_rule_of_its_own(s, u, v):
    z, n = compiled_gates(u + v)
    return ((1 - z) * s.h + z * own_derivative(n),)


def first_apply(params):
    jaxlstm.apply(params, XS)
    jax.grad(lambda p: jaxlstm.apply(p, XS)[0].sum())(params)


def first_noise(params):
    noisy = jaxlstm.wrappers.recurrent_dropout(params, 0.5)
    with jax.checking_leaks():
        jax.jit(jaxlstm.apply)(noisy, XS, key=jax.random.key(1))


FIRST = {
    "apply": first_apply,
    "record": lambda params: jaxlstm.record(params, XS),
    "noise": first_noise,
    "vmap": lambda params: jax.vmap(lambda x: jaxlstm.apply(params, x))(XS),
    "nothing": lambda params: None,
}


@pytest.mark.parametrize(
    ("first", "second"),
    some_of([*itertools.product(FIRST, FIRST)], [("noise", "apply")]),
)
def test_what_was_traced_before_changes_nothing(first, second):
    """Names inside a `jax.jit` at module level are seen and changed in every order."""
    jax.clear_caches()
    params = network(with_module_level_jit)
    FIRST[first](params)
    FIRST[second](params)
    ys, _, seen = jaxlstm.record(params, XS)
    close(ys, jaxlstm.apply(params, XS)[0])
    assert list(seen.gates) == ["z", "n"]
    before = jnp.concatenate([jnp.zeros((1, B, H)), seen.states.h[:-1]])
    close(seen.states.h, (1 - seen.gates["z"]) * before + seen.gates["z"] * seen.gates["n"])

    noisy = jaxlstm.wrappers.recurrent_dropout(params, 0.5)
    ys, _, seen = jaxlstm.record(noisy, XS, key=jax.random.key(1))
    close(ys, jaxlstm.apply(noisy, XS, key=jax.random.key(1))[0])
    dropped = seen.gates["n"] == 0  # what is used is what is seen
    assert 0.2 < dropped.mean() < 0.8
    open_gates = jnp.tanh(seen.u["n"] + seen.v["n"])
    close(seen.gates["n"], jnp.where(dropped, 0, 2 * open_gates))


def test_a_derivative_rule_of_ones_own_is_kept():
    """`record` and `gradient_flow` read the names inside, and differentiate by the rule."""
    params = network(with_a_rule_of_its_own)
    seen = jaxlstm.record(params, XS)[2]
    assert list(seen.gates) == ["z", "n", "o"]
    close(seen.gates["o"], jnp.floor(seen.gates["n"]))
    gradient = lambda run: jax.grad(lambda p: jnp.sum(jnp.sin(run(p, XS)[0])))(params)
    close(gradient(jaxlstm.record), gradient(jaxlstm.apply))
    assert jnp.abs(gradient(jaxlstm.record).w[:, 1]).min() > 0
    with pytest.raises(TypeError, match=r"\['o'\] .* cannot be replaced inside 'custom_jvp"):
        jaxlstm.apply(
            jaxlstm.wrappers.RecurrentDropout(params, jaxlstm.Static("o"), jaxlstm.Static(0.5)),
            XS,
            key=jax.random.key(0),
        )


def loops(kind):
    """A cell that calls the recurrent product, and names its candidate, in a loop of its own."""

    @jaxlstm.general_cell("n", jaxlstm.HiddenState)
    def looping(s, u, recur):
        def round(h):
            return 0.5 * h + 0.5 * jaxlstm.tag(n=jnp.tanh(u[0] + recur(h)[0]))

        if kind == "python":
            h = round(round(s.h))
        elif kind == "scan":
            h = jax.lax.scan(lambda h, _: (round(h), None), s.h, length=2)[0]
        elif kind == "while":
            h = jax.lax.while_loop(lambda a: a[0] < 2, lambda a: (a[0] + 1, round(a[1])), (0, s.h))[
                1
            ]
        else:
            h = jax.lax.cond(u.sum() > jnp.inf, lambda h: h, lambda h: round(round(h)), s.h)
        return (h,)

    return looping


@pytest.mark.parametrize("kind", ["scan", "while", "cond"])
def test_names_are_changed_in_loops_too(kind):
    """Whose noise is drawn once a step, so what drops the same units each round is compared."""
    key = jax.random.key(3)
    drop = lambda cell: jaxlstm.wrappers.variational_dropout(network(cell), states=0.5)
    close(
        jaxlstm.apply(drop(loops(kind)), XS, key=key),
        jaxlstm.apply(drop(loops("python")), XS, key=key),
    )
    noisy = jaxlstm.wrappers.recurrent_dropout(network(loops(kind)), 0.5)
    assert jnp.abs(jaxlstm.apply(noisy, XS, key=key)[0] - jaxlstm.apply(noisy, XS)[0]).max() > 0.1


def test_what_is_not_named_cannot_be_changed():
    @jaxlstm.gated_cell("n", jaxlstm.HiddenState)
    def silent(s, u, v):
        return (jnp.tanh(u[0] + v[0]),)

    with pytest.raises(TypeError, match=r"have no tag \['n'\].*`jaxlstm.tag`"):
        jaxlstm.apply(
            jaxlstm.wrappers.recurrent_dropout(network(silent), 0.5), XS, key=jax.random.key(0)
        )


def test_noise_is_that_of_apply():
    params = network(jaxlstm.lstm, "stack", dropout=0.5)
    key = jax.random.key(7)
    close(jaxlstm.record(params, XS, key=key)[0], jaxlstm.apply(params, XS, key=key)[0])


def test_what_a_node_makes_anew_is_refused():
    class Frozen(jaxlstm.Bidirectional):
        def run(self, xs, state, implementation):
            return super().run.__func__(jax.lax.stop_gradient(self), xs, state, implementation)

    layer = jaxlstm.init(jax.random.key(0), jaxlstm.lstm, N, H)
    params = Frozen(layer, layer)
    jaxlstm.apply(params, XS)
    with pytest.raises(NotImplementedError, match="that is not in `params`"):
        jaxlstm.record(params, XS)
