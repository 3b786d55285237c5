"""Every cell on MNIST-1D, plain and shuffled, and on the adding problem, at one budget.

    python benchmarks/cells_on_tasks.py                          # all of it: a night
    python benchmarks/cells_on_tasks.py --cells gru --tasks mnist1d
    python benchmarks/cells_on_tasks.py --part 0 4               # a quarter of what is left
    python benchmarks/cells_on_tasks.py --why                    # what explains some of it

What has been measured stands in `results/cells_on_tasks.json` and is not run again, so the
script can be stopped and started.  Each cell is as wide as it can be with no more weights
than the GRU of the task.  On MNIST-1D the network and its training are those of the data set's
authors: one bidirectional layer (a GRU has 6 units), a linear layer on the outputs of all 40
steps, Adam at 1e-2, batches of 100 in order.  No recipe was tuned for any cell.  `along` is the
accuracy on the test set every 500 steps; nothing is chosen by it.  Needs `mnist1d`, whose data
are made, not fetched.
"""

import argparse
import functools
import json
import math
import pathlib
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import jaxlstm

RESULTS = pathlib.Path(__file__).parent / "results" / "cells_on_tasks.json"
CELLS = {k: c for k, c in vars(jaxlstm.cells).items() if isinstance(c, jaxlstm.Cell)}


class Task(NamedTuple):
    width: int  # of the GRU whose number of weights is the budget
    outputs: int
    bidirectional: bool
    rate: float
    steps: int
    clip: float
    data: Any  # `() -> (batch, test)`, batch a function of the step


def mnist1d(shuffle=None, features=lambda xs: xs):
    """The data in time's order, or shuffled by a seed; `features` makes of it what is seen."""
    from mnist1d.data import get_dataset_args, make_dataset

    made = make_dataset(get_dataset_args())
    order = jnp.arange(40)
    order = order if shuffle is None else jax.random.permutation(jax.random.key(shuffle), 40)
    xs, tests = (jnp.asarray(made[k], jnp.float32)[:, order] for k in ("x", "x_test"))
    ys, targets = jnp.asarray(made["y"]), jnp.asarray(made["y_test"])

    def batch(i):
        at = (i * 100) % len(xs)
        rows = lambda a: jax.lax.dynamic_slice_in_dim(a, at, 100)
        return features(rows(xs).T[..., None]), rows(ys)

    return batch, (features(tests.T[..., None]), targets)


def adding(length=200):
    """Two of `length` numbers are marked; the answer is their sum."""

    def sample(key, size):
        values, first, second = jax.random.split(key, 3)
        value = jax.random.uniform(values, (length, size))
        a = jax.random.randint(first, (size,), 0, length // 2)
        b = jax.random.randint(second, (size,), length // 2, length)
        mark = jax.nn.one_hot(a, length, axis=0) + jax.nn.one_hot(b, length, axis=0)
        return jnp.stack([value, mark], -1), jnp.sum(value * mark, 0)

    batch = lambda i: sample(jax.random.fold_in(jax.random.key(0), i), 50)
    return batch, sample(jax.random.key(1), 2000)


ON_MNIST1D = Task(6, 10, True, 1e-2, 6000, math.inf, mnist1d)
TASKS = {
    "mnist1d": ON_MNIST1D,
    "mnist1d shuffled": ON_MNIST1D._replace(data=lambda: mnist1d(shuffle=0)),
    "adding 200": Task(32, 1, False, 3e-3, 5000, 1.0, adding),
}
# As wide as the budget, a memory with one head takes (50, 180, 180) numbers a step.
OPTIONS = {("adding 200", "mlstm"): {"heads": 16}}


def beside_one(xs):
    return jnp.concatenate([xs, jnp.ones_like(xs)], -1)


# What explains some results: what a cell sees of one feature, and other orders of time.
WHY = {
    "mnist1d signs": ON_MNIST1D._replace(data=lambda: mnist1d(features=jnp.sign)),
    "mnist1d beside one": ON_MNIST1D._replace(data=lambda: mnist1d(features=beside_one)),
    **{
        f"mnist1d shuffled by {k}": ON_MNIST1D._replace(data=lambda k=k: mnist1d(shuffle=k))
        for k in range(5)
    },
}
WHO = {task: ("gru",) if "shuffled" in task else ("gru", "layer_norm_lstm") for task in WHY}


def network(key, cell, task, width, features, length):
    """The weights, in a dict; a linear layer on all outputs, or on the last."""
    one, two = jax.random.split(key)
    rnn = jaxlstm.init(
        one, cell, features, width, bidirectional=task.bidirectional, dtype=jnp.float32
    )
    joined = width * (1 + task.bidirectional) * (length if task.bidirectional else 1)
    limit = joined**-0.5
    w = jax.random.uniform(two, (joined, task.outputs), jnp.float32, -limit, limit)
    return {"rnn": rnn, "w": w, "b": jnp.zeros(task.outputs)}


def size(tree):
    return sum(a.size for a in jax.tree.leaves(tree))


def widest(cell, task, features, length):
    """The largest width whose network has no more weights than the GRU's."""
    count = lambda c, n: size(
        jax.eval_shape(lambda: network(jax.random.key(0), c, task, n, features, length))
    )
    budget = count(jaxlstm.gru, task.width)
    width = heads = cell.dims(1, 1).get("heads", 1)
    while count(cell, width + heads) <= budget:
        width += heads
    return width, count(cell, width)


def predict(task, params, xs):
    ys, _ = jaxlstm.apply(params["rnn"], xs)
    ys = jnp.moveaxis(ys, 0, 1).reshape(xs.shape[1], -1) if task.bidirectional else ys[-1]
    return ys @ params["w"] + params["b"]


def measure(cell, task, steps, seed):
    """Trains, and returns what the results keep."""
    began = time.time()
    batch, (tests, targets) = task.data()
    width, weights = widest(cell, task, tests.shape[-1], tests.shape[0])
    params = network(jax.random.key(seed), cell, task, width, tests.shape[-1], tests.shape[0])
    clip = [optax.clip_by_global_norm(task.clip)] if math.isfinite(task.clip) else []
    optimiser = optax.chain(*clip, optax.adam(task.rate))

    def loss(params, xs, ys):
        out = predict(task, params, xs)
        if task.outputs == 1:
            return jnp.mean((out[:, 0] - ys) ** 2)
        return optax.softmax_cross_entropy_with_integer_labels(out, ys).mean()

    def update(carry, i):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params, *batch(i))
        change, state = optimiser.update(grads, state, params)
        return (optax.apply_updates(params, change), state), value

    chunk = jax.jit(functools.partial(jax.lax.scan, update))
    carry = params, optimiser.init(params)
    along = []
    for start in range(0, steps, 500):
        carry, losses = chunk(carry, jnp.arange(start, min(start + 500, steps)))
        out = predict(task, carry[0], tests)
        if task.outputs == 1:
            score = {"error": float(jnp.mean((out[:, 0] - targets) ** 2))}
        else:
            along.append(round(float(100 * jnp.mean(jnp.argmax(out, -1) == targets)), 2))
            score = {"accuracy": along[-1], "along": along}
    settings = {"width": width, "weights": int(weights), "steps": steps, "seed": seed}
    return {**score, "loss": float(losses[-50:].mean()), **settings, "seconds": time.time() - began}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cells", nargs="+", default=[*CELLS], choices=[*CELLS])
    parser.add_argument("--tasks", nargs="+", default=[*TASKS], choices=[*TASKS])
    parser.add_argument("--why", action="store_true", help="what explains some results")
    parser.add_argument("--part", nargs=2, type=int, default=(0, 1), metavar=("K", "OF"))
    parser.add_argument("--steps", type=int, help="fewer than the task's own, to try it out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS)
    args = parser.parse_args(argv)
    read = lambda: json.loads(args.results.read_text()) if args.results.exists() else {}
    pairs = [(t, c) for t in args.tasks for c in args.cells]
    pairs = [(t, c) for t in WHY for c in WHO[t]] if args.why else pairs
    missing = [(t, c) for t, c in pairs if c not in read().get(t, {})]
    for name, cell in missing[args.part[0] :: args.part[1]]:
        task, options = {**TASKS, **WHY}[name], OPTIONS.get((name, cell), {})
        found = measure(CELLS[cell](**options), task, args.steps or task.steps, args.seed)
        found |= {"options": options} if options else {}
        results = read()  # another part may have written meanwhile
        results.setdefault(name, {})[cell] = found
        args.results.parent.mkdir(exist_ok=True)
        args.results.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
        print(name, cell, found, flush=True)


if __name__ == "__main__":
    main()
