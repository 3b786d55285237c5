"""Truncated backpropagation through time: chunk by chunk, the state carried along."""

import math
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from . import model as lm
from .checkpoint import Checkpoint, Curve
from .devices import Devices
from .text import Text, streams

BITS = 1 / math.log(2)  # bits in a nat
TOGETHER = 50  # steps between two checkpoints of several processes


class Run(NamedTuple):
    """What came of training one cell."""

    model: lm.Model
    hidden: int
    parameters: int
    seconds_per_step: float  # the median, the first step (which compiles) left out
    train_bits: list[float]  # bits per character of every step
    held_out: list[tuple[int, float]]  # (steps done, bits per character)
    interrupted: bool


def train(
    name: str,
    model: lm.Model,
    hidden: int,
    text: Text,
    steps: int,
    batch: int,
    chunk: int,
    rate: float,
    checkpoint: Checkpoint | None = None,
    pressed: Sequence[int] = (),
    devices: Devices | None = None,
) -> Run:
    """Trains until the steps are done, or the step in which `pressed` gets an entry.

    With a checkpoint, it resumes where an earlier run was stopped, and ends with the same weights.
    Of several processes the first writes it, and all read it.
    """
    devices = devices or Devices(1)
    first = jax.process_index() == 0
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, rate, max(1, min(100, steps // 10)), max(steps, 2), rate / 20
    )
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
    opt_state = optimizer.init(model)
    hold = None
    if checkpoint is not None:
        hold = checkpoint.of(name, text, model, steps, batch, chunk, rate)
    data = streams(text.train, batch)
    chunks = (len(data) - 1) // chunk
    zeros = model.network.initial_state((batch,))

    @jax.jit  # gives no buffer away: Ctrl-C may come before the new ones have their names
    def update(model: Any, opt_state: Any, state: Any, symbols: Any) -> tuple[Any, ...]:
        (nats, state), grads = jax.value_and_grad(lm.loss, has_aux=True)(model, state, symbols)
        updates, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(model, updates), opt_state, state, nats

    marks = {round(steps * (i + 1) / 8) for i in range(8)}  # when the held-out text is read
    curve = Curve([], [], [])
    bits, seconds, held_out = curve
    state, done = zeros, 0
    if hold is not None and (found := hold.load(model, opt_state, state)) is not None:
        model, opt_state, state, curve = found
        bits, seconds, held_out = curve
        done = len(bits)
        if first:
            print(f"{name:>5} resumes at step {done:,} of {steps:,}", file=sys.stderr)
    devices.check_alike(done, "All processes must see the same folder of checkpoints.")
    model, opt_state = devices.copied((model, opt_state))
    zeros, state = devices.shared_out((zeros, state), 0)
    columns = "{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} [{remaining} left{postfix}]"
    every = 0.2 if sys.stderr.isatty() else 10.0
    progress = tqdm(
        total=steps, initial=done, desc=f"{name:>5}", bar_format=columns, mininterval=every,
        disable=not first,
    )  # fmt: skip
    with progress as bar:
        for step in range(done, steps):
            at = step % chunks
            if at == 0:
                state = zeros  # the streams start again, with no past
            symbols = devices.shared_out(data[at * chunk : (at + 1) * chunk + 1], 1)
            start = time.perf_counter()
            model, opt_state, state, nats = update(model, opt_state, state, symbols)
            bits.append(float(nats) * BITS)
            seconds.append(time.perf_counter() - start)
            done = step + 1
            rate_now = batch * chunk / float(np.median(seconds[-20:]))
            bar.set_postfix_str(
                f"loss {bits[-1] / BITS:.3f} nats, {bits[-1]:.3f} bits/char, "
                f"{rate_now:,.0f} char/s",
                refresh=False,
            )
            bar.update()
            if done in marks:
                held_out.append((done, evaluate(model, text.held_out, batch, chunk, devices)))
            if hold is not None:
                # Several processes save together, and have no clock together.
                due = hold.is_due() if devices.alone else done % TOGETHER == 0
                if due or pressed or done == steps:
                    whole = devices.fetched((model, opt_state, state))
                    if first:
                        hold.save(*whole, curve)
            if pressed:
                break
    if not held_out or held_out[-1][0] != done:
        held_out.append((done, evaluate(model, text.held_out, batch, chunk, devices)))
    steady = seconds[1:] or seconds
    model = jax.tree.map(jnp.asarray, devices.fetched(model))
    return Run(
        model, hidden, lm.parameters(model), float(np.median(steady)), bits, held_out, done < steps
    )


_score = jax.jit(lm.loss)


def evaluate(
    model: lm.Model, symbols: np.ndarray, batch: int, chunk: int, devices: Devices | None = None
) -> float:
    """Bits per character of a text, read from its start to its end with the state carried."""
    devices = devices or Devices(1)
    data = streams(symbols, batch)
    state = devices.shared_out(model.network.initial_state((batch,)), 0)
    total = 0.0
    for start in range(0, len(data) - 1, chunk):
        part = data[start : start + chunk + 1]
        nats, state = _score(model, state, devices.shared_out(part, 1))
        total += float(nats) * (len(part) - 1)
    return total / (len(data) - 1) * BITS
