"""A user's own cell and node take part in everything, without a change to the library."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.nn import sigmoid

import jaxlstm
from networks import B, H, N, T, close, inputs, normal_like, pulled, some_mask, some_of, some_reset

XS = inputs()


@jaxlstm.gated_cell("zn", jaxlstm.HiddenState)
def leaky(s, u, v):
    z, n = u + v
    z = sigmoid(z)
    return (z * s.h + (1 - z) * jnp.tanh(n),)


def scaling(rate):
    """A cell with an option comes from the cell itself: equal options, equal cell."""
    return decayed(rate=rate)


@jaxlstm.gated_cell(
    "n", jaxlstm.HiddenState, weights={"p": jaxlstm.Weight("hidden", jaxlstm.initializers.ones)}
)
def decayed(s, u, v, *, p, rate=0.5):
    (n,) = u + v
    return (rate * s.h + jnp.broadcast_to(p, n.shape) * jnp.tanh(n),)


class Scale(NamedTuple):
    scale: Any


class NoNoise(Scale, jaxlstm.StepNode):
    """A node without weights of its own use: what comes in goes out."""

    input_size = H

    def initial_state(self, batch):
        return jaxlstm.HiddenState(jnp.zeros((*batch, H)))

    def step(self, s, u, recur, noise):
        return jaxlstm.HiddenState(self.scale * u)


class Echo(NoNoise):
    """The same, with noise added if any."""

    def noise(self, key, batch):
        return jax.random.normal(key, (*batch, H))

    def step(self, s, u, recur, noise):
        return jaxlstm.HiddenState(self.scale * u + (0.0 if noise is None else noise))


def test_a_cell_in_five_lines():
    params = jaxlstm.init(jax.random.key(0), leaky, N, H, layers=2, bidirectional=True)
    (ys, _), (dparams, _) = pulled(params, XS, mask=some_mask(), reset=some_reset())
    assert ys.shape == (T, B, 2 * H)
    assert all(jnp.abs(g).max() > 0 for g in jax.tree.leaves(dparams))


def test_its_equation_by_hand():
    params = jaxlstm.init(jax.random.key(0), leaky, N, H)
    w, r, b = (np.asarray(a) for a in (params.w, params.r, params.b))
    h = np.zeros(H)
    for x in np.asarray(XS[:, 0]):
        z, n = (x @ w[:, g] + h @ r[:, g] + b[g] for g in (0, 1))
        z = 1 / (1 + np.exp(-z))
        h = z * h + (1 - z) * np.tanh(n)
    close(jaxlstm.apply(params, XS)[1].h[0], jnp.asarray(h))


def test_equal_options_make_an_equal_cell():
    assert scaling(0.25) == scaling(0.25) != scaling(0.3)
    assert hash(scaling(0.25)) == hash(scaling(0.25))
    assert scaling(0.5) == decayed
    assert repr(scaling(0.25)) == "decayed(rate=0.25)"
    a, b = (jaxlstm.init(jax.random.key(0), scaling(0.25), N, H) for _ in range(2))
    assert jax.tree.structure(a) == jax.tree.structure(b)
    ys = [jaxlstm.apply(a._replace(cell=scaling(rate)), XS)[0] for rate in (0.25, 0.5)]
    assert jnp.abs(ys[0] - ys[1]).max() > 1e-3


def test_further_weights_are_trained():
    params = jaxlstm.init(jax.random.key(0), decayed, N, H)
    assert params.weights["p"].shape == (H,)
    _, (dparams, _) = pulled(params, XS)
    assert jnp.abs(dparams.weights["p"]).min() > 0


def test_a_node_of_ones_own():
    layer = jaxlstm.init(jax.random.key(0), jaxlstm.lstm, N, H)
    stack = jaxlstm.Stack((layer, Echo(jnp.asarray(2.0))))
    ys, last = jax.jit(jaxlstm.apply)(stack, XS)
    close(ys, 2 * jaxlstm.apply(layer, XS)[0])
    close(last[1].h, ys[-1])


def test_noise_is_drawn_anew_at_every_step_and_only_with_a_key():
    node = Echo(jnp.asarray(0.0))
    xs = jnp.zeros((400, B, H))
    assert not jaxlstm.apply(node, xs)[0].any()
    for checkpoint in (None, 7):
        ys, _ = jaxlstm.apply(node, xs, key=jax.random.key(0), checkpoint=checkpoint)
        assert abs(ys.std() - 1) < 0.05
        assert jnp.abs(jnp.corrcoef(ys[:-1].ravel(), ys[1:].ravel())[0, 1]) < 0.06
    again, _ = jaxlstm.apply(node, xs, key=jax.random.key(0))
    close(ys, again)


@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_dropout_between_layers(rate):
    """A share `rate` is zero, the rest scaled up; the first input and the output are spared."""
    xs = 1.0 + jax.random.uniform(jax.random.key(0), (200, B, H))
    key = jax.random.key(1)
    quiet = NoNoise(jnp.asarray(1.0))
    params = jaxlstm.Stack((quiet, quiet, quiet), jaxlstm.Static(rate))
    ys, _ = jaxlstm.apply(params, xs, key=key)
    kept = ys != 0
    share = (1 - rate) ** 2  # two places between three layers, drawn independently
    assert abs(kept.mean() - share) < 4 * (share * (1 - share) / ys.size) ** 0.5
    close(ys[kept], (xs / (1 - rate) ** 2)[kept])
    assert (kept[1:] != kept[:-1]).any()
    close(jaxlstm.apply(params, xs)[0], xs)
    one = jaxlstm.Stack((quiet,), jaxlstm.Static(rate))
    close(jaxlstm.apply(one, xs, key=key)[0], xs)


def test_noise_that_lasts_for_the_sequence():
    """`sample` gives a node the noise that lasts for the whole sequence; no key, no noise."""

    class Once(NoNoise):
        def sample(self, key, batch):
            if key is None:
                return self
            return self._replace(scale=jax.random.normal(key, (*batch, H)))

    node = Once(jnp.ones((B, H)))
    xs = jnp.ones((T, B, H))
    close(jaxlstm.apply(node, xs)[0], xs)
    ys, _ = jaxlstm.apply(node, xs, key=jax.random.key(0))
    close(ys, jnp.broadcast_to(ys[:1], ys.shape))
    assert jnp.abs(ys[0] - ys[0, 0, 0]).max() > 0.1


class _Turned(NamedTuple):
    m: jax.Array
    rate: jax.Array


class Turned(_Turned, jaxlstm.StepNode):
    """Multiplies its state with a matrix by itself, not by `recur`."""

    @property
    def input_size(self):
        return self.m.shape[0]

    def initial_state(self, batch):
        return jaxlstm.HiddenState(jnp.zeros((*batch, self.input_size), self.m.dtype))

    def step(self, s, u, recur, noise):
        rate = jnp.broadcast_to(self.rate, u.shape)
        return jaxlstm.HiddenState(jnp.tanh(s.h @ self.m + rate * u))


@pytest.mark.parametrize("batch", some_of([((),), ((B,),), ((1, 2),)], [((B,),)]))
def test_a_matrix_of_a_step_has_its_gradient_after_the_loop(batch):
    """Values and gradients as by `scan`, under a mask and resets too, and the second derivative."""
    params = Turned(0.4 * inputs(1, (N, N)), 1 + inputs(2, (N,)))
    xs = inputs(3, (T, *batch, N))
    options = {"mask": some_mask(shape=(T, *batch)), "reset": some_reset(shape=(T, *batch))}
    assert jaxlstm.implementations(params, xs)["deferred"] is None
    for more in ({}, options, {**options, "reverse": True}):
        got, expected = (
            pulled(params, xs, implementation=implementation, **more)
            for implementation in ("deferred", "scan")
        )
        close(got, expected)

    def twice(implementation):
        loss = lambda p: jnp.sum(
            jnp.sin(jaxlstm.apply(p, xs, implementation=implementation, **options)[0])
        )
        along = lambda p: jax.jvp(jax.grad(loss), (p,), (normal_like(p),))[1]
        return jax.jit(along)(params)

    close(twice("deferred"), twice("scan"))


def _by_condition(n, h, product):
    return jax.lax.cond(n.sum() > 0, lambda h: jnp.tanh(n + product(h)), lambda h: h / 2, h)


def _twice(n, h, product):
    body = lambda h, _: (jnp.tanh(n + product(h)), None)
    return jax.lax.scan(body, h, None, length=2)[0]


def _downhill(n, h, product):
    return jnp.tanh(h - jax.grad(lambda h: jnp.sum(jnp.cosh(n * h) + h * product(h)))(h))


def _side_by_side(n, h, product):
    one, other = jax.vmap(product)(jnp.stack([h, h / 2]))
    return jnp.tanh(n + one * other)


INSIDE = {
    "cond": _by_condition,
    "scan": _twice,
    "grad": _downhill,
    "vmap": _side_by_side,
    "jit": lambda n, h, product: jax.jit(lambda h: jnp.tanh(n + product(h)))(h),
    "checkpoint": lambda n, h, product: jax.checkpoint(lambda h: jnp.tanh(n + product(h)))(h),
}


@pytest.mark.parametrize("within", some_of(INSIDE, ("scan", "grad", "vmap")))
def test_a_product_inside_a_transformation_of_the_equations(within):
    """Only `scan` can run it, and the default finds that out, with gradients and recorded."""

    @jaxlstm.general_cell("n", jaxlstm.HiddenState)
    def inside(s, u, recur):
        (n,) = u
        return (INSIDE[within](n, s.h, lambda h: recur(h, "n")[0]),)

    params = jaxlstm.init(jax.random.key(0), inside, N, H)
    xs = XS[:, 0]
    assert "`deferred` needs" in jaxlstm.implementations(params, xs)["deferred"]
    got, expected = (
        pulled(params, xs, implementation=implementation) for implementation in (None, "scan")
    )
    close(got, expected)
    h, ys = np.zeros(H), []
    product = lambda h: h @ params.r[:, 0]
    for x in xs:
        h = INSIDE[within](x @ params.w[:, 0] + params.b[0], jnp.asarray(h), product)
        ys.append(h)
    close(got[0][0], jnp.stack(ys))
    close(jaxlstm.record(params, xs)[0], got[0][0])


@jaxlstm.gated_cell("n", jaxlstm.HiddenState)
def branching(s, u, v):
    n = (u + v)[0]
    return (jax.lax.cond(s.h.sum() > 0, jnp.tanh, lambda n: jnp.sin(n) / 2, n),)


@jaxlstm.general_cell("n", jaxlstm.HiddenState)
def switching(s, u, recur):
    n = u[0] + recur(s.h, "n")[0]
    which = jnp.int32(s.h.sum() > 0) + jnp.int32(n.sum() > 0)
    return (jax.lax.switch(which, [jnp.tanh, jnp.sin, lambda n: n / 3], n),)


@pytest.mark.parametrize("cell", some_of((branching, switching), (switching,)))
@pytest.mark.parametrize("dtype", some_of(("float32", "float64"), ("float64",)))
def test_branches_of_equations_under_vmap(cell, dtype):
    """Each row by itself takes its own, in gradients too; a step at a time is the oracle."""
    params, xs = jaxlstm.init(jax.random.key(0), cell, N, H, dtype=dtype), XS.astype(dtype)

    def by_steps(params, xs):
        state, ys = None, []
        for x in xs:
            y, state = jaxlstm.step(params, x, state)
            ys.append(y)
        return jnp.stack(ys)

    def results(run):
        mapped = lambda params, xs: jax.vmap(run, (None, 1), 1)(params, xs)
        ys, pull = jax.vjp(mapped, params, xs)
        return ys, pull(normal_like(ys)), jax.jvp(mapped, (params, xs), (params, xs))[1]

    expected = results(by_steps)
    tolerance = {"rtol": 1e-4, "atol": 1e-6} if dtype == "float32" else {}
    close(jax.jit(lambda: results(lambda *a: jaxlstm.apply(*a)[0]))(), expected, **tolerance)
    reasons = jaxlstm.implementations(params, xs)
    assert all(
        "without `jax.lax.cond`" in reasons[implementation]
        for implementation in ("deferred", "newton")
    )


def test_a_linear_cell_with_a_constant_for_each_unit():
    rates = np.linspace(0.1, 0.9, H)

    @jaxlstm.linear_cell("n")
    def integrators(u):
        return jnp.asarray(rates, u.dtype), u[0]

    params = jaxlstm.init(jax.random.key(0), integrators, N, H)
    options = {"mask": some_mask(), "reset": some_reset()}
    got, expected = (
        pulled(params, XS, implementation=implementation, **options)
        for implementation in ("associative", "scan")
    )
    close(got, expected)
    h = np.zeros(H)
    for x in np.asarray(XS[:, 0]):
        h = rates * h + x @ np.asarray(params.w[:, 0])
    close(jaxlstm.apply(params, XS)[1].h[0], jnp.asarray(h))


class _Readout(NamedTuple):
    node: Any
    bias: jax.Array


class Readout(_Readout, jaxlstm.Node):
    """What is added to zeros under a mask is not zero."""

    @property
    def input_size(self):
        return self.node.input_size

    def initial_state(self, batch):
        return self.node.initial_state(batch)

    def run(self, xs, state, context):
        ys, state = jaxlstm.run(self.node, xs, state, context)
        return ys + jnp.broadcast_to(self.bias, ys.shape), state


def test_outputs_of_a_node_of_ones_own_are_zero_under_the_mask():
    layer = jaxlstm.init(jax.random.key(0), jaxlstm.gru, N, H)
    node, mask = Readout(layer, 1 + inputs(4, (H,))), some_mask()
    expected = jnp.where(
        mask[..., None], jaxlstm.apply(layer, XS, mask=mask)[0] + node.bias[None, None], 0
    )
    close(jaxlstm.apply(node, XS, mask=mask)[0], expected)
    close(jaxlstm.record(node, XS, mask=mask)[0], expected)
    close(jaxlstm.step(node, XS[0], mask=mask[0])[0], expected[0])
    swapped = jaxlstm.apply(node, XS.swapaxes(0, 1), mask=mask.T, axis=1)[0]
    close(swapped.swapaxes(0, 1), expected)
    pair = jaxlstm.apply(jaxlstm.Bidirectional(node, node), XS, mask=mask)[0]
    assert not pair[~mask].any()
