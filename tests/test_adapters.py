"""Arguments of the modules for Flax and Haiku: what `apply` takes and refuses, they do."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlstm
from networks import network, normal_like, refused

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]
KEY = jax.random.key(1)
XS = np.random.default_rng(0).standard_normal((7, 2, 3)).astype("float32")
MASK = np.asarray(jaxlstm.lengths_to_mask([7, 4], 7))


@pytest.fixture(autouse=True)
def _as_users_have_it(as_users_call_it):
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        yield


def make(key, n):
    return jaxlstm.init(key, jaxlstm.lstm, n, 5, layers=2, dropout=0.5, dtype="float32")


PARAMS = network(jaxlstm.lstm, "stack", sizes=(3, 5), dropout=0.5, dtype="float32")


def nnx(make, xs, *args, step=False, **options):
    rnn = importlib.import_module("jaxlstm.nnx").Recurrent(make(KEY, 3) if callable(make) else make)
    return (rnn.step if step else rnn)(xs, *args, **options)


def linen(make, xs, *args, step=False, **options):
    rnn = importlib.import_module("jaxlstm.linen").Recurrent(make)
    options |= {"method": "step"} if step else {}
    return rnn.apply(rnn.init(KEY, xs, *args, **options), xs, *args, **options)


def haiku(make, xs, *args, step=False, **options):
    hk = importlib.import_module("haiku")

    def f():
        rnn = importlib.import_module("jaxlstm.haiku").Recurrent(make, name="rnn")
        return (rnn.step if step else rnn)(xs, *args, **options)

    f = hk.transform(f)
    return f.apply(f.init(KEY), None)


@pytest.fixture(params=[nnx, linen, haiku], ids=lambda f: f.__name__)
def call(request):
    pytest.importorskip({"nnx": "flax", "linen": "flax", "haiku": "haiku"}[request.param.__name__])
    return request.param


STATE = normal_like(jax.eval_shape(jaxlstm.apply, PARAMS, XS)[1])
GOOD = {
    "lists": (XS.tolist(), {}),
    "jax": (jnp.asarray(XS), {"mask": MASK.tolist()}),
    "tuples": (tuple(map(tuple, XS[:, 0].tolist())), {"reset": (True,) + (False,) * 6}),
    "batch first": (XS.swapaxes(0, 1), {"axis": 1, "mask": MASK.T}),
    "no batch": (XS[:, 0], {"reverse": True}),
    "two axes of batch": (XS[:, :, None], {}),
    "no rows": (XS[:, :0], {}),
    "no time": (XS[:0], {"state": STATE}),
    "doubles": (XS.astype("float64"), {"state": jax.tree.map(np.asarray, STATE)}),
    "noise": (XS, {"key": jax.random.key(3), "checkpoint": True, "implementation": "scan"}),
    "an old key": (XS, {"key": jax.random.PRNGKey(3), "precision": "highest"}),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_apply_takes(name, call):
    xs, options = GOOD[name]
    got, expected = call(lambda *_: PARAMS, xs, **options), jaxlstm.apply(PARAMS, xs, **options)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), got, expected)


@pytest.mark.parametrize("x", [XS[0], XS[0].tolist(), XS[0, 0], tuple(XS[0, 0].tolist())])
def test_what_step_takes(x, call):
    got, expected = call(lambda *_: PARAMS, x, step=True), jaxlstm.step(PARAMS, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), got, expected)


SHAPES = r"`xs` must have shape \(time, \*batch, "
BAD = {
    "a number": (3.0, {}, ValueError, SHAPES + r".*got \(\)"),
    "no array": (None, {}, TypeError, "`xs` must be one array of inputs; got None"),
    "a word": ("abc", {}, TypeError, "`xs` must be one array of inputs; got a str"),
    "ragged": ([[[1.0]], [[1.0], [2.0]]], {}, TypeError, "padded to one array"),
    "a dict": ({"xs": XS}, {}, TypeError, "`xs` must be one array of inputs; got a dict"),
    "masked": (np.ma.array(XS), {}, TypeError, "JAX has no masked arrays"),
    "no time": (XS[0, 0], {}, ValueError, SHAPES + "3.*`jaxlstm.step`"),
    "symbols": (np.ones((7, 3), int), {}, TypeError, "Embed or one-hot encode symbols"),
    "16 bits": (XS.astype("float16"), {}, TypeError, r"`xs.astype\('float32'\)`"),
    "complex": (XS + 1j, {}, TypeError, "pass real numbers"),
    "axis": (XS, {"axis": 2}, ValueError, "`axis` must be an axis"),
    "swapped": (XS, {"mask": MASK.T}, ValueError, "Time and batch are swapped"),
    "lengths": (XS, {"mask": [7, 4]}, ValueError, "jaxlstm.lengths_to_mask"),
    "numbers": (XS, {"mask": MASK.astype(int)}, TypeError, "of dtype bool"),
    "reset": (XS, {"reset": MASK[:3]}, ValueError, "`reset` must have the shape of `xs`"),
    "a seed": (XS, {"key": 3}, TypeError, r"jax.random.key\(3\)"),
    "keys": (XS, {"key": jax.random.split(KEY)}, TypeError, "one `jax.random.key"),
    "a state": (XS, {"state": STATE[0]}, ValueError, "the state of another network"),
    "its rows": (XS[:, :1], {"state": STATE}, ValueError, r"must have shape \(1, 5\)"),
    "a flag": (XS, {"reverse": "no"}, TypeError, "`reverse` must be True or False"),
    "a way": (XS, {"implementation": "fast"}, ValueError, "`implementation` must be None"),
    "no option": (XS, {"masks": MASK}, TypeError, "masks"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_apply_refuses(name, call):
    xs, options, kind, message = BAD[name]
    refused(lambda: call(make, xs, **options), kind, [message])


@pytest.mark.parametrize("name", ["a number", "no array", "symbols", "16 bits"])
def test_what_step_refuses(name, call):
    x, _, kind, _ = BAD[name]
    refused(lambda: call(make, x, step=True), kind, ["`x` must (be|have)"])


MAKERS = {
    "a network": (PARAMS, r"got a Stack\. For weights that are there: `lambda key, input_size"),
    "a cell": (jaxlstm.lstm, "got a Gated"),
    "one argument": (lambda key: PARAMS, r"function `\(key, input_size\)`.*takes others"),
    "no network": (lambda key, n: {"rnn": PARAMS}, "it returned a dict"),
    "nothing": (lambda key, n: None, "it returned None"),
}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("of", [linen, haiku])
def test_what_makes_no_network(of, name):
    pytest.importorskip({linen: "flax", haiku: "haiku"}[of])
    given, message = MAKERS[name]
    refused(lambda: of(given, XS), TypeError, [message])


@pytest.mark.parametrize("params", [None, jaxlstm.lstm, make, {"rnn": PARAMS}, [PARAMS], 3])
def test_what_is_no_network(params):
    pytest.importorskip("flax")
    recurrent = importlib.import_module("jaxlstm.nnx").Recurrent
    refused(lambda: recurrent(params), TypeError, ["`params` must be what `jaxlstm.init` returns"])


@pytest.mark.parametrize("size", [0, -1, 3.0, None, "3"])
def test_what_is_no_size(size):
    pytest.importorskip("flax")
    rnn = importlib.import_module("jaxlstm.linen").Recurrent(make)
    variables = rnn.init(KEY, XS)
    call = lambda: rnn.apply(variables, size, method="network")
    refused(call, ValueError, ["`input_size` must be a whole number, 1 or more"])


def whole_nnx():
    nnx = importlib.import_module("flax.nnx")
    recurrent = importlib.import_module("jaxlstm.nnx").Recurrent

    class Model(nnx.Module):
        def __init__(self):
            self.rnn = recurrent(PARAMS)
            self.readout = nnx.Linear(5, 2, rngs=nnx.Rngs(0))

    return nnx.state(Model(), nnx.Param), lambda tree: nnx.to_pure_dict(tree)["rnn"]


def whole_linen():
    nn = importlib.import_module("flax.linen")
    recurrent = importlib.import_module("jaxlstm.linen").Recurrent

    class Model(nn.Module):
        @nn.compact
        def __call__(self, xs):
            return nn.Dense(2)(recurrent(make)(xs)[0])

    return Model().init(KEY, XS)["params"], lambda tree: tree["Recurrent_0"]


def whole_haiku():
    hk = importlib.import_module("haiku")
    recurrent = importlib.import_module("jaxlstm.haiku").Recurrent
    f = hk.transform(lambda xs: hk.Linear(2)(recurrent(make, name="rnn")(xs)[0]))
    return f.init(KEY, XS), lambda tree: tree["rnn"]


@pytest.mark.parametrize("whole", [whole_nnx, whole_linen, whole_haiku])
def test_optimisers_see_what_each_weight_is_for(whole):
    """Biases of a layer have two axes, and are neither decayed nor taken for matrices."""
    optax = pytest.importorskip("optax")
    importlib.import_module("optax.contrib")
    pytest.importorskip("haiku" if whole is whole_haiku else "flax")
    params, rnn = whole()

    def step(optimizer, grads):
        return rnn(optimizer.update(grads, optimizer.init(params), params)[0])

    weights, zeros = rnn(params), jax.tree.map(jnp.zeros_like, params)
    noise = jax.tree.map(lambda a: jax.random.normal(KEY, a.shape), params)
    decayed = step(optax.adamw(0.1, weight_decay=0.5, mask=jaxlstm.decay_mask), zeros)
    numbers = jaxlstm.muon_dimension_numbers
    moved = step(optax.contrib.muon(1.0, muon_weight_dimension_numbers=numbers), noise)
    rates = {"bias": optax.sgd(1.0), "rest": optax.set_to_zero()}
    kind = lambda role: "bias" if role == "bias" else "rest"
    labels = lambda tree: jax.tree.map(kind, jaxlstm.weight_roles(tree))
    labelled = step(optax.multi_transform(rates, labels), noise)
    assert {name[-1] for name in weights} == {"w", "r", "b"}
    for name, a in weights.items():
        matrix = not name.endswith("b")
        np.testing.assert_allclose(decayed[name], -0.05 * a if matrix else 0 * a, atol=1e-7)
        by_adam = bool(jnp.allclose(jnp.abs(moved[name]), jnp.abs(moved[name]).max(), rtol=1e-3))
        assert by_adam != matrix  # Adam's first step is as long for every number
        assert bool(labelled[name].any()) != matrix
