"""Runs of the other frameworks: weights, outputs, last states and gradients, all in NumPy."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Task(NamedTuple):
    """A random architecture, its inputs, and the cotangents of its outputs."""

    cell: str
    input_size: int
    hidden_size: int
    layers: int
    bidirectional: bool
    bias: bool
    seed: int
    dtype: str

    @property
    def output_size(self):
        return self.hidden_size - (self.cell == "projected_lstm")

    @property
    def rng(self):
        return np.random.default_rng(self.seed)

    @property
    def xs(self):
        return self.rng.normal(size=(7, 3, self.input_size)).astype(self.dtype)

    @property
    def cotangent(self):
        outputs = self.output_size * (1 + self.bidirectional)
        return np.random.default_rng(self.seed + 1).normal(size=(7, 3, outputs)).astype(self.dtype)

    def drawn(self, tree):
        """The same tree with random leaves, biases too."""
        rng = self.rng
        return jax.tree.map(lambda a: (rng.normal(size=np.shape(a)) * 0.4).astype(self.dtype), tree)


class Run(NamedTuple):
    """What a framework made of a task; states are `(h,)` or `(h, c)` by layer and direction."""

    weights: Any
    ys: np.ndarray
    states: list[tuple[np.ndarray, ...]]
    gradients: Any
    dxs: np.ndarray
    modules: tuple[str, ...] = ()  # the prefixes of the layers in order, where names do not say it


def differentiated(task: Task, weights: Any, f: Any, modules: tuple[str, ...] = ()) -> Run:
    """The run of a JAX framework, of `f(weights, xs) -> (ys, states)`."""

    def loss(weights, xs):
        ys, states = f(weights, xs)
        return jnp.sum(ys * task.cotangent), (ys, states)

    grad = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True, allow_int=True))
    (_, (ys, states)), (dw, dx) = grad(weights, jnp.asarray(task.xs))
    flat = [tuple(map(np.asarray, s)) for s in states]
    return Run(jax.tree.map(np.asarray, weights), np.asarray(ys), flat, dw, np.asarray(dx), modules)


@functools.cache
def run(framework: str, task: Task) -> Run:
    return FRAMEWORKS[framework](task)


def torch(task: Task) -> Run:
    import torch

    kinds = {
        "lstm": (torch.nn.LSTM, {}),
        "gru": (torch.nn.GRU, {}),
        "rnn": (torch.nn.RNN, {}),
        "rnn_relu": (torch.nn.RNN, {"nonlinearity": "relu"}),
        "projected_lstm": (torch.nn.LSTM, {"proj_size": task.output_size}),
    }
    kind, options = kinds[task.cell]
    module = kind(
        task.input_size,
        task.hidden_size,
        task.layers,
        bias=task.bias,
        bidirectional=task.bidirectional,
        dtype=torch.float64,
        **options,
    )
    weights = task.drawn({k: v.numpy() for k, v in module.state_dict().items()})
    module.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()})
    xs = torch.from_numpy(task.xs).requires_grad_()
    ys, states = module(xs)
    (ys * torch.from_numpy(task.cotangent)).sum().backward()
    states = states if isinstance(states, tuple) else (states,)
    gradients = {k: v.grad.numpy() for k, v in module.named_parameters()}
    flat = list(zip(*[s.detach().numpy() for s in states]))
    return Run(weights, ys.detach().numpy(), flat, gradients, xs.grad.numpy())


def keras(task: Task) -> Run:
    # Outside TensorFlow, Keras casts float64 to float32 inside its activations.
    with jax.enable_x64(False):
        return _keras(task)


def _keras(task: Task) -> Run:
    import keras

    kinds = {
        "lstm": (keras.layers.LSTM, {}),
        "gru": (keras.layers.GRU, {}),
        "gru_reset_before": (keras.layers.GRU, {"reset_after": False}),
        "rnn": (keras.layers.SimpleRNN, {}),
        "rnn_relu": (keras.layers.SimpleRNN, {"activation": "relu"}),
        "lstm_variant": (
            keras.layers.LSTM,
            {"activation": "softsign", "recurrent_activation": "hard_sigmoid"},
        ),
    }
    kind, options = kinds[task.cell]
    always = {"return_sequences": True, "return_state": True, "use_bias": task.bias}
    stack, n = [], task.input_size
    for _ in range(task.layers):
        layer = kind(task.hidden_size, dtype=task.dtype, **always, **options)
        if task.bidirectional:
            layer = keras.layers.Bidirectional(layer, dtype=task.dtype)
        layer.build((3, 7, n))
        stack.append(layer)
        n = task.hidden_size * (1 + task.bidirectional)
    fields = 2 if "lstm" in task.cell else 1

    def f(weights, xs):
        xs, states = jnp.swapaxes(xs, 0, 1), []
        for layer in stack:
            values = [weights[v.path] for v in layer.trainable_variables]
            others = [v.value for v in layer.non_trainable_variables]
            (xs, *last), _ = layer.stateless_call(values, others, xs)
            states += [tuple(last[k : k + fields]) for k in range(0, len(last), fields)]
        return jnp.swapaxes(xs, 0, 1), states

    weights = task.drawn({v.path: np.asarray(v) for layer in stack for v in layer.weights})
    modules = tuple(layer.weights[0].path.split("/")[0] for layer in stack)
    return differentiated(task, weights, f, modules)


def linen(task: Task) -> Run:
    import flax.linen as nn

    kinds = {"lstm": nn.OptimizedLSTMCell if task.seed % 2 else nn.LSTMCell}
    kinds |= {"gru": nn.GRUCell, "mgu_reset_after": nn.MGUCell}
    options = {"activation_fn": nn.relu} if task.cell == "rnn_relu" else {}

    class Network(nn.Module):
        @nn.compact
        def __call__(self, xs):
            def layer():
                kind = kinds.get(task.cell, nn.SimpleCell)
                return nn.RNN(kind(task.hidden_size, param_dtype=float, **options))

            states = []
            for _ in range(task.layers):
                one = nn.Bidirectional(layer(), layer()) if task.bidirectional else layer()
                last, xs = one(xs, time_major=True, return_carry=True)
                states += last if task.bidirectional else [last]
            # Flax keeps `(c, h)`.
            return xs, [s[::-1] if isinstance(s, tuple) else (s,) for s in states]

    network = Network()
    weights = task.drawn(network.init(jax.random.key(0), jnp.asarray(task.xs)))
    count = task.layers * (1 + task.bidirectional)
    stem = kinds.get(task.cell, nn.SimpleCell).__name__
    modules = tuple(f"params/{stem}_{k}" for k in range(count))
    return differentiated(task, weights, network.apply, modules)


def nnx(task: Task) -> Run:
    from flax import nnx

    kinds = {
        "lstm": nnx.LSTMCell if task.seed % 2 else nnx.OptimizedLSTMCell,
        "gru": nnx.GRUCell,
        "rnn": nnx.SimpleCell,
        "rnn_relu": nnx.SimpleCell,
    }
    options = {"activation_fn": jax.nn.relu} if task.cell == "rnn_relu" else {}
    rngs, n, stack = nnx.Rngs(0), task.input_size, []

    def layer():
        wide = {"dtype": float, "param_dtype": float}
        made = kinds[task.cell](n, task.hidden_size, rngs=rngs, **wide, **options)
        return nnx.RNN(made, return_carry=True, rngs=rngs)

    for _ in range(task.layers):
        one = nnx.Bidirectional(layer(), layer(), rngs=rngs) if task.bidirectional else layer()
        stack.append(one)
        n = task.hidden_size * (1 + task.bidirectional)
    graph, state, rest = nnx.split(nnx.List(stack), nnx.Param, ...)

    def f(weights, xs):
        new = jax.tree.map(lambda a: a, state)
        nnx.replace_by_pure_dict(new, weights)
        states = []
        for one in nnx.merge(graph, new, rest, copy=True):
            last, xs = one(xs, time_major=True, return_carry=True)
            states += last if task.bidirectional else [last]
        return xs, [s[::-1] if isinstance(s, tuple) else (s,) for s in states]

    modules = tuple(str(k) for k in range(task.layers))
    return differentiated(task, task.drawn(nnx.to_pure_dict(state)), f, modules)


def haiku(task: Task) -> Run:
    import haiku as hk

    kinds = {"lstm": hk.LSTM, "gru_reset_before": hk.GRU, "rnn_relu": hk.VanillaRNN}

    def network(xs):
        core = hk.DeepRNN([kinds[task.cell](task.hidden_size) for _ in range(task.layers)])
        start = jax.tree.map(lambda a: jnp.zeros_like(a, dtype=float), core.initial_state(3))
        ys, states = hk.dynamic_unroll(core, xs, start)
        return ys, [s if isinstance(s, tuple) else (s,) for s in states]

    network = hk.without_apply_rng(hk.transform(network))
    weights = task.drawn(network.init(jax.random.key(0), jnp.asarray(task.xs)))
    stem = {"lstm": "lstm", "gru_reset_before": "gru", "rnn_relu": "vanilla_rnn"}[task.cell]
    modules = tuple(f"{stem}_{k}" if k else stem for k in range(task.layers))
    return differentiated(task, weights, network.apply, modules)


def equinox(task: Task) -> Run:
    import equinox as eqx

    kind = {"lstm": eqx.nn.LSTMCell, "gru": eqx.nn.GRUCell}[task.cell]
    cells, n, h = [], task.input_size, task.hidden_size
    for k in range(task.layers):
        key = jax.random.key(k)
        cells.append(kind(n, h, use_bias=task.bias, dtype=float, key=key))
        n = h
    fields = [k for k in ("weight_ih", "weight_hh", "bias", "bias_n") if hasattr(cells[0], k)]
    weights = [{k: getattr(c, k) for k in fields if getattr(c, k) is not None} for c in cells]

    def f(weights, xs):
        states = []
        for cell, new in zip(cells, weights):
            last, xs = layer(cell, new, xs)
            states.append(last if task.cell == "lstm" else (last,))
        return xs, states

    def layer(cell, new, xs):
        cell = eqx.tree_at(lambda c: [getattr(c, k) for k in new], cell, list(new.values()))

        def step(s, x):
            s = jax.vmap(cell)(x, s)
            return s, s[0] if task.cell == "lstm" else s

        zeros = jnp.zeros((3, h))
        return jax.lax.scan(step, (zeros, zeros) if task.cell == "lstm" else zeros, xs)

    return differentiated(task, task.drawn(weights), f)


FRAMEWORKS = {
    "torch": torch,
    "keras": keras,
    "linen": linen,
    "nnx": nnx,
    "haiku": haiku,
    "equinox": equinox,
}
