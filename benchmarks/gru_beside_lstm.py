"""GRU beside LSTM on three tasks, at equal width and at equal parameters, over several seeds.

    python benchmarks/gru_beside_lstm.py        # writes results/gru_beside_lstm.json

Every run is of the same recipe: Adam with a learning rate of 3e-3, clipping at norm 1, the
default initialisation, the same batches for every network of a seed.  No recipe was tuned for
either cell.  Needs `mnist1d` (its data are made, not fetched).
"""

import functools
import json
import pathlib
import string

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxlstm

RESULTS = pathlib.Path(__file__).parent / "results" / "gru_beside_lstm.json"
SEEDS = range(5)
NETWORKS = {  # a GRU of 37 has about the parameters of an LSTM of 32
    "LSTM 32": (jaxlstm.lstm, 32),
    "GRU 32": (jaxlstm.gru, 32),
    "GRU 37": (jaxlstm.gru, 37),
}


def adding(time=50):
    """Add the two numbers that are marked, of `time`; the error of always saying 1 is 1/6."""

    def batch(key, size):
        values, first, second = jax.random.split(key, 3)
        value = jax.random.uniform(values, (time, size))
        half = time // 2
        at = [jax.random.randint(first, (size,), 0, half)]
        at.append(jax.random.randint(second, (size,), half, time))
        mark = sum(jax.nn.one_hot(a, time, axis=0) for a in at)
        return jnp.stack([value, mark], -1), (value * mark).sum(0)

    def loss(ys, target):
        return jnp.mean((ys[-1, :, 0] - target) ** 2)

    test = batch(jax.random.key(10_000), 1000)
    return 2, 1, lambda key: batch(key, 32), loss, loss, test


def mnist1d():
    """Ten digits drawn as lines of 40 numbers, one number a step."""
    from mnist1d.data import get_dataset_args, make_dataset

    data = make_dataset(get_dataset_args())
    place = lambda name: jnp.asarray(data[name].T[..., None], jnp.float32)
    train, labels = place("x"), jnp.asarray(data["y"])

    def batch(key):
        at = jax.random.randint(key, (50,), 0, len(labels))
        return train[:, at], labels[at]

    def loss(ys, target):
        return optax.softmax_cross_entropy_with_integer_labels(ys[-1], target).mean()

    def wrong(ys, target):
        return jnp.mean(ys[-1].argmax(-1) != target)

    return 1, 10, batch, loss, wrong, (place("x_test"), jnp.asarray(data["y_test"]))


def characters(time=50):
    """The next letter of Python's own help texts; the last tenth is for the test."""
    import pydoc_data.topics

    letters = string.ascii_lowercase + " \n.,()`'=:_*-"
    text = "\n".join(body for _, body in sorted(pydoc_data.topics.topics.items())).lower()
    codes = np.array([letters.find(c) for c in text])
    codes = jnp.asarray(codes[codes >= 0])
    cut = len(codes) * 9 // 10
    size = len(letters)

    def windows(starts):
        at = jnp.arange(time + 1)[:, None] + starts[None]
        return jax.nn.one_hot(codes[at[:-1]], size), codes[at[1:]]

    def batch(key):
        return windows(jax.random.randint(key, (32,), 0, cut - time - 1))

    def loss(ys, target):  # bits a character
        return optax.softmax_cross_entropy_with_integer_labels(ys, target).mean() / jnp.log(2.0)

    test = windows(jnp.arange(cut, len(codes) - time - 1, time)[:500])
    return size, size, batch, loss, loss, test


TASKS = {
    "adding problem": (adding, 3000, "mean squared error"),
    "MNIST-1D": (mnist1d, 2000, "share of errors"),
    "characters": (characters, 2000, "bits a character"),
}


@functools.cache
def task(name):
    return TASKS[name][0]()


def start(name, network, seed):
    """A network with a linear readout."""
    inputs, outputs, *_ = task(name)
    cell, width = NETWORKS[network]
    rnn, read = jax.random.split(jax.random.key(seed))
    w = jax.random.normal(read, (width, outputs)) / width**0.5
    return {"rnn": jaxlstm.init(rnn, cell, inputs, width), "w": w, "b": jnp.zeros(outputs)}


def outputs(model, xs):
    ys, _ = jaxlstm.apply(model["rnn"], xs)
    return ys @ model["w"] + model["b"]


def size(model):
    return sum(leaf.size for leaf in jax.tree.leaves(model["rnn"]))


OPTIMISER = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(3e-3))


@functools.cache
def updating(name):
    _, _, batch, loss, _, _ = task(name)

    @jax.jit
    def update(model, opt_state, key):
        xs, target = batch(key)
        grads = jax.grad(lambda model: loss(outputs(model, xs), target))(model)
        updates, opt_state = OPTIMISER.update(grads, opt_state)
        return optax.apply_updates(model, updates), opt_state

    return update


@functools.cache
def measuring(name):
    *_, quality, (xs, target) = task(name)
    return jax.jit(lambda model: quality(outputs(model, xs), target))


def train(name, network, seed, steps=None):
    """The quality on the test set at ten moments of the training; lower is better."""
    model = start(name, network, seed)
    opt_state = OPTIMISER.init(model)
    steps = steps or TASKS[name][1]
    curve = []
    for i in range(steps):
        model, opt_state = updating(name)(
            model, opt_state, jax.random.fold_in(jax.random.key(seed), i)
        )
        if (i + 1) % (TASKS[name][1] // 10) == 0:
            curve.append(round(float(measuring(name)(model)), 5))
    return curve


def main():
    results = {}
    for name, (_, steps, unit) in TASKS.items():
        curves = {n: [train(name, n, seed) for seed in SEEDS] for n in NETWORKS}
        sizes = {n: size(start(name, n, 0)) for n in NETWORKS}
        results[name] = {"unit": unit, "steps": steps, "parameters": sizes, "curves": curves}
        last = {n: np.array(c)[:, -1] for n, c in curves.items()}
        print(
            name, {n: f"{a.mean():.4f} +- {a.std(ddof=1):.4f}" for n, a in last.items()}, flush=True
        )
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
