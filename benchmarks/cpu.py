"""jaxlstm beside its peers on CPU, in one run: `make bench`, or `python benchmarks/cpu.py --help`.

All of a line are measured in turn, round after round, so that a drift of the machine's speed
meets them alike; what counts is the ratio.  Before anything is timed, all must give the same
numbers, and jaxlstm must be no further from the float64 truth than 1.5 times a peer.
"""

import argparse
import json
import os
import platform
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import jax.numpy as jnp
import numpy as np
from cases import CELLS, GRID, Case, Data, draw, flops
from report import markdown, plot

from peers import PEERS, Job, Result, ours

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("jaxlstm", "jax", "jaxlib", "torch", "flax", "equinox", "keras", "onnxruntime", "numpy")


def rounds(jobs: dict[str, Job], count: int) -> dict[str, list[float]]:
    """Seconds of every job in every round, the jobs in turn; the first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for i in range(count + 1):
        for name, job in jobs.items():
            start = time.perf_counter()
            job.run()
            if i:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def limits(case: Case) -> dict[str, Job]:
    """One product with all the FLOPs of a forward pass, and the chain of the small ones alone."""
    gates = {"rnn": 1, "lstm": 4, "gru": 3}[case.cell]
    rng = np.random.default_rng(0)
    array = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    a = array(case.time * case.batch, case.input + case.hidden)
    b = array(case.input + case.hidden, gates * case.hidden)
    r, h = array(case.hidden, gates * case.hidden) / case.hidden, array(case.batch, case.hidden)

    def chain(r: Any, h: Any) -> Any:
        def step(h: Any, _: None) -> Any:
            v = h @ r  # every column must be made, and the next product must wait for it
            return v.reshape(case.batch, gates, case.hidden).sum(1), None

        return jax.lax.scan(step, h, None, length=case.time)[0]

    programs = {"product": (jax.jit(jnp.matmul), (a, b)), "chain": (jax.jit(chain), (r, h))}
    return {
        name: Job(lambda f=f, args=args: jax.block_until_ready(f(*args)), lambda: None)  # type: ignore[misc, return-value]
        for name, (f, args) in programs.items()
    }


def truth(case: Case, data: Data) -> dict[str, Result]:
    """The same in float64."""
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: np.asarray(a, np.float64) if a is not None else a, data)
        lengths = data.lengths
        jobs = ours(case, wide._replace(lengths=lengths), "scan")
        for job in jobs.values():
            job.run()
        return {name: job.result() for name, job in jobs.items()}


def error(result: Result, true: Result) -> dict[str, float]:
    """By name, the norm of the error over that of the truth."""
    flat = lambda r: {
        k: np.concatenate([a.ravel() for a in v]) if isinstance(v, tuple) else v
        for k, v in r._asdict().items()
        if v is not None
    }
    got, expected = flat(result), flat(true)
    norm = np.linalg.norm
    return {k: float(norm(got[k] - expected[k]) / norm(expected[k])) for k in got}


def measure(case: Case, names: list[str], count: int) -> list[dict[str, Any]]:
    data = draw(case)
    made: dict[str, dict[str, Job]] = {}
    left_out: dict[str, str] = {}
    for name in names:
        try:
            made[name] = PEERS[name](case, data)
        except (NotImplementedError, ImportError) as e:
            left_out[name] = str(e)
    true = truth(case, data)
    bounds = limits(case)
    lines = []
    for what in ("forward", "forward+backward"):
        jobs = {name: jobs[what] for name, jobs in made.items() if what in jobs}
        errors = {}
        for name, job in jobs.items():
            job.run()
            errors[name] = error(job.result(), true[what])
            worst = max(errors[name].values())
            if not worst < 1e-3:
                sys.exit(f"{case} {what}: {name} does not compute the same: {errors[name]}")
        seconds = rounds({**jobs, **bounds}, count)
        median = {name: float(np.median(t)) for name, t in seconds.items()}
        others = [n for n in jobs if n not in ("jaxlstm", "scan")]
        worst = {n: max(e.values()) for n, e in errors.items()}
        peers = [worst[n] for n in others if "jaxlstm" in worst]
        lines.append(
            {
                **case._asdict(),
                "what": what,
                "median": median,
                "quartiles": {n: list(np.percentile(t, [25, 75])) for n, t in seconds.items()},
                "ratio": {
                    n: median[n] / median["jaxlstm"] for n in [*others, "scan"] if n in median
                },
                "error": errors,
                "accurate": not peers or worst["jaxlstm"] <= 1.5 * max(peers),
                "compile_seconds": {n: j.compile_seconds for n, j in jobs.items()},
                "temporary_bytes": {n: j.temporary_bytes for n, j in jobs.items()},
                "gigaflops": flops(case) * (1 if what == "forward" else 3) / 1e9,
                "left_out": left_out,
            }
        )
        ratios = ", ".join(f"{n} {r:.2f}" for n, r in lines[-1]["ratio"].items())
        print(f"{case!s:32} {what:17} {median['jaxlstm'] * 1e3:8.2f} ms; {ratios}", flush=True)
    return lines


def environment(count: int) -> dict[str, Any]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    model = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), model)
    return {
        "versions": versions, "python": platform.python_version(), "cpu": model,
        "cores": len(os.sched_getaffinity(0)), "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "threads": os.environ["OMP_NUM_THREADS"], "rounds": count,
        "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS))
    parser.add_argument("--sizes", nargs="+", metavar="B,T,I,H[,masked]", help="lines of the grid")
    parser.add_argument("--peers", nargs="+", choices=[*PEERS][1:], default=[*PEERS][1:])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path, default=RESULTS / "cpu", help="without an ending")
    options = parser.parse_args()
    sizes = GRID
    if options.sizes:
        split = [s.split(",") for s in options.sizes]
        sizes = [(*map(int, s[:4]), "masked" in s[4:]) for s in split]
    if "torch" in options.peers:
        import torch

        torch.set_num_threads(2)
    lines: list[dict[str, Any]] = []
    for cell in options.cells:
        for size in sizes:
            lines += measure(Case(cell, *size), ["jaxlstm", *options.peers], options.rounds)
            found = {"environment": environment(options.rounds), "lines": lines}
            options.output.parent.mkdir(parents=True, exist_ok=True)
            options.output.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
            options.output.with_suffix(".md").write_text(markdown(found), encoding="utf-8")
    plot(found, options.output.with_suffix(".png"))
    print(f"written: {options.output}.json, .md and .png")


if __name__ == "__main__":
    main()
