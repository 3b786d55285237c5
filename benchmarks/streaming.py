"""Latency of streaming inference on CPU: `make bench`, or `python benchmarks/streaming.py --help`.

A stream comes in blocks of a few steps, one row at a time; the state is carried from block to
block.  Timed is what a caller pays for a block: a NumPy array in, a NumPy array out.  All take
turns in bursts of calls, each after a pause, so that each meets its own warm caches and idle
threads of the others; the first call of a burst is not counted.  All must give the same numbers.
"""

import argparse
import functools
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "2")

import jax
import jax.numpy as jnp
import numpy as np
from report import geometric
from timing import PAUSE, RESULTS, environment, write

import jaxlstm
from jaxlstm import convert

BURST = 25
SAME = 1e-4
PEERS = ("torch", "onnxruntime")

Call = Callable[[np.ndarray], np.ndarray]  # a block (steps, 1, input) -> its outputs


class Made(NamedTuple):
    call: Call
    compile_seconds: float | None = None
    threads: int | None = None  # where they can be chosen


def compiled(f: Any, example: np.ndarray, params: Any, keep_unused: bool = False) -> Made:
    """`f(params, block, state) -> (ys, state)` compiled ahead of time, with its seconds."""
    state = params.initial_state((1,))
    lowered = jax.jit(f, keep_unused=keep_unused).lower(params, example, state)
    start = time.perf_counter()
    program = lowered.compile()
    seconds = time.perf_counter() - start

    def call(block: np.ndarray) -> np.ndarray:
        nonlocal state
        ys, state = program(params, block, state)
        return np.asarray(ys)

    return Made(call, seconds)


def step(params: Any, example: np.ndarray) -> Made:
    if len(example) > 1:
        raise NotImplementedError("is for blocks of one step")
    made = compiled(jaxlstm.step, example[0], params)
    return made._replace(call=lambda block: made.call(block[0])[None])


def block(params: Any, example: np.ndarray) -> Made:
    return compiled(jaxlstm.apply, example, params)


def native(params: Any, example: np.ndarray) -> Made:
    return compiled(functools.partial(jaxlstm.apply, implementation="native"), example, params)


def empty(params: Any, example: np.ndarray) -> Made:
    """What a call costs: these arrays in and out, and no recurrence."""

    def nothing(params: Any, block: Any, state: Any) -> Any:
        ys = jnp.zeros((*block.shape[:-1], params.w.shape[-1])) + block[..., :1]
        return ys, jax.tree.map(jnp.negative, state)

    return compiled(nothing, example, params, keep_unused=True)


def torch(params: Any, threads: int) -> Call:
    import torch

    torch.set_num_threads(threads)
    kind = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[str(params.cell)]
    module = kind(params.w.shape[0], params.w.shape[-1]).eval()
    weights = {k: torch.tensor(np.asarray(v)) for k, v in convert.to_torch(params).items()}
    module.load_state_dict(weights)
    state = None

    @torch.no_grad()
    def call(block: np.ndarray) -> np.ndarray:
        nonlocal state
        ys, state = module(torch.from_numpy(block), state)
        return ys.numpy()

    return call


def onnxruntime(params: Any, threads: int) -> Call:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    model = convert.to_onnx(params, state=True).SerializeToString()
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs() if i.name != "xs"]
    # The last states come out in the order in which the initial ones go in.
    state = dict.fromkeys(names, np.zeros((1, 1, params.w.shape[-1]), np.float32))

    def call(block: np.ndarray) -> np.ndarray:
        nonlocal state
        ys, *last = session.run(None, {"xs": block, **state})
        state = dict(zip(names, last, strict=True))
        return ys

    return call


def quicker(make: Callable[[Any, int], Call], params: Any, example: np.ndarray) -> Made:
    """With one thread or two: two that wait for each other can be far slower at batch 1."""
    seconds = {}
    for threads in (1, 2):
        call = make(params, threads)
        call(example)
        start = time.perf_counter()
        for _ in range(5):
            call(example)
        seconds[threads] = time.perf_counter() - start
    threads = min(seconds, key=lambda n: seconds[n])
    return Made(make(params, threads), threads=threads)


CONTESTANTS: dict[str, Callable[[Any, np.ndarray], Made]] = {
    "step": step,
    "block": block,
    "native": native,
    "empty": empty,
    "torch": functools.partial(quicker, torch),
    "onnxruntime": functools.partial(quicker, onnxruntime),
}


def same(calls: dict[str, Call], blocks: np.ndarray, at: str) -> None:
    """All are shown the same blocks, and must answer alike; their states move on."""
    for x in blocks:
        outputs = {name: call(x) for name, call in calls.items() if name != "empty"}
        first = outputs["block"]
        for name, ys in outputs.items():
            if ys.shape != first.shape or not np.abs(ys - first).max() <= SAME:
                sys.exit(f"{at}: {name} does not compute the same")


def latencies(calls: dict[str, Call], blocks: np.ndarray, count: int) -> dict[str, np.ndarray]:
    """Microseconds of `count` calls of each, or of a few more, in turn by bursts.

    Each begins after a pause, and in random order: else the threads of the one before would still
    spin, always at the cost of the same one.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    order, shuffled = list(calls), random.Random(0)
    for burst in range(-(-count // BURST)):
        shuffled.shuffle(order)
        for name in order:
            call = calls[name]
            time.sleep(PAUSE)
            for i in range(BURST + 1):
                x = blocks[(burst * (BURST + 1) + i) % len(blocks)]
                start = time.perf_counter()
                call(x)
                seconds = time.perf_counter() - start
                if i:
                    times[name].append(seconds * 1e6)
    return {name: np.array(t) for name, t in times.items()}


def measure(
    cell: str, size: int, hidden: int, steps: int, names: list[str], count: int
) -> dict[str, Any]:
    key = jax.random.key(0)
    params = jaxlstm.init(
        key, getattr(jaxlstm, cell), size, hidden, dtype=jnp.float32, scheme="torch"
    )
    blocks = np.random.default_rng(0).normal(size=(64, steps, 1, size)).astype(np.float32)
    made: dict[str, Made] = {}
    left_out: dict[str, str] = {}
    for name in names:
        try:
            made[name] = CONTESTANTS[name](params, blocks[0])
        except (NotImplementedError, ImportError) as e:
            left_out[name] = str(e)
    calls = {name: m.call for name, m in made.items()}
    at = f"{cell} ({size}, {hidden}), blocks of {steps}"
    same(calls, blocks[:8], at)
    times = latencies(calls, blocks, count)
    same(calls, blocks[:8], f"{at}, after {count} blocks")
    latency = {
        name: {"p50": np.percentile(t, 50), "p99": np.percentile(t, 99), "max": t.max()}
        for name, t in times.items()
    }
    best = min(latency[n]["p50"] for n in ("step", "block") if n in latency)
    line = {
        "cell": cell, "input": size, "hidden": hidden, "block": steps,
        "calls": len(times["block"]), "latency_us": latency,
        "ratio": {n: latency[n]["p50"] / best for n in ("native", *PEERS) if n in latency},
        "compile_seconds": {n: m.compile_seconds for n, m in made.items()},
        "threads": {n: m.threads for n, m in made.items()}, "left_out": left_out,
    }  # fmt: skip
    summary = ", ".join(
        f"{n} {x['p50']:.0f}/{x['p99']:.0f}/{x['max']:.0f}" for n, x in latency.items()
    )
    print(f"{at}: p50/p99/max us: {summary}", flush=True)
    return line


def markdown(found: dict[str, Any]) -> str:
    env, lines = found["environment"], found["lines"]
    versions = ", ".join(f"{k} {v}" for k, v in env["versions"].items() if v)
    names = [n for n in CONTESTANTS if any(n in x["latency_us"] for x in lines)]
    text = [
        "# Streaming", "",
        f"Made by `make bench` on {env['date']}: {env['cpu']}, {env['cores']} cores, "
        f"Python {env['python']}, {versions}; "
        f"XLA_FLAGS: {env['xla_flags'] or 'none'}.", "",
        "Microseconds per block, batch 1, float32, the state carried from block to block; NumPy "
        f"in, NumPy out; p50 / p99 / maximum of bursts of {BURST} calls, in random order, each "
        f"after a pause of {1000 * PAUSE:.0f} ms.  *step* is "
        "`jaxlstm.step`, *block* `jaxlstm.apply` on a block, both the default call compiled ahead "
        "of time, *native* a block by that name, *empty* a program of JAX with the same arrays "
        "in and out and no recurrence, which is what a call costs; the peers run with one thread "
        "or two, whichever answered sooner in a trial.  In brackets the p50 over the better one "
        "of the default's two: above 1 the default is faster.",
    ]  # fmt: skip
    for cell in dict.fromkeys(x["cell"] for x in lines):
        text += ["", f"## {cell}", ""]
        head = ["input, hidden", "block", "calls", *names, "threads of the peers", "compile s"]
        text += [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
        some = [x for x in lines if x["cell"] == cell]
        for x in some:
            row = [f"{x['input']}, {x['hidden']}", str(x["block"]), str(x["calls"])]
            for n in names:
                t = x["latency_us"].get(n)
                ratio = f" ({x['ratio'][n]:.2f})" if n in x["ratio"] else ""
                row.append(f"{t['p50']:.0f} / {t['p99']:.0f} / {t['max']:.0f}{ratio}" if t else "")
            row.append(", ".join(str(k) for k in x["threads"].values() if k))
            row.append(", ".join(f"{s:.2f}" for s in x["compile_seconds"].values() if s))
            text.append(f"| {' | '.join(row)} |")
        ratios = {n: [x["ratio"][n] for x in some if n in x["ratio"]] for n in names}
        means = [f"({geometric(r):.2f})" if r else "" for r in ratios.values()]
        text.append(f"| {' | '.join(['geometric mean', '', '', *means, '', ''])} |")
    reasons = dict.fromkeys(
        f"- {n}: {reason}" for x in lines for n, reason in x["left_out"].items() if n != "step"
    )
    return "\n".join([*text, *(["", "Left out:", "", *reasons] if reasons else []), ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", nargs="+", choices=["lstm", "gru"], default=["lstm", "gru"])
    parser.add_argument("--sizes", nargs="+", metavar="I,H", default=["64,128", "64,512"])
    parser.add_argument("--blocks", nargs="+", type=int, default=[1, 16, 64, 256])
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS)
    parser.add_argument("--calls", type=int, default=1000, help="of one step; half for a block")
    parser.add_argument("--output", type=Path, default=RESULTS / "streaming", help="without ending")
    options = parser.parse_args()
    lines: list[dict[str, Any]] = []
    for cell in options.cells:
        for sizes in options.sizes:
            for steps in options.blocks:
                names = ["step", "block", "native", "empty", *options.peers]
                count = options.calls if steps == 1 else -(-options.calls // 2)
                size, hidden = map(int, sizes.split(","))
                lines.append(measure(cell, size, hidden, steps, names, count))
                found = {"environment": environment(options.calls), "lines": lines}
                write(options.output, found, markdown(found))
    print(f"written: {options.output}.json and .md")


if __name__ == "__main__":
    main()
