"""What every benchmark shares: timing in turn, the limits, the truth, and where it was run."""

import itertools
import json
import os
import platform
import random
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from cases import GATES, Case, Data

from peers import Job, Result, ours

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("jaxlstm", "jax", "jaxlib", "torch", "flax", "equinox", "keras", "onnxruntime", "numpy")


PAUSE = 0.02  # seconds; threads of OpenMP and ONNX Runtime spin on for a while after their work


def rounds(jobs: dict[str, Job], count: int, at_least: float = 0.0) -> dict[str, list[float]]:
    """Seconds of every job in every round, each in another order; the first round warms up.

    So many rounds, and more until they have taken `at_least` so many seconds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    order, shuffled = list(jobs), random.Random(0)
    begun = time.perf_counter()
    for i in itertools.count():
        if i > count and time.perf_counter() - begun >= at_least:
            break
        for name in order:
            time.sleep(PAUSE)
            start = time.perf_counter()
            jobs[name].run()
            if i:
                seconds[name].append(time.perf_counter() - start)
        shuffled.shuffle(order)
    return seconds


def limits(case: Case, dtype: Any = jnp.float32) -> dict[str, Job]:
    """One product with all the FLOPs of a forward pass, and the chain of the small ones alone."""
    gates = GATES[case.cell]
    rng = np.random.default_rng(0)
    array = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)
    a = array(case.time * case.batch, case.input + case.hidden)
    b = array(case.input + case.hidden, gates * case.hidden)
    # So scaled, the chain neither grows nor dies out.
    r = array(case.hidden, gates * case.hidden) / float(np.sqrt(gates * case.hidden))
    h = array(case.batch, case.hidden)

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
        jobs = ours(case, wide._replace(lengths=lengths, reset=data.reset), "scan")
        for job in jobs.values():
            job.run()
        return {name: job.result() for name, job in jobs.items()}


def error(result: Result, true: Result) -> dict[str, float]:
    """By name, the norm of the error over that of the truth."""
    wide = lambda a: np.asarray(a, np.float64)
    flat = lambda r: {
        k: np.concatenate([wide(a).ravel() for a in v]) if isinstance(v, tuple) else wide(v)
        for k, v in r._asdict().items()
        if v is not None
    }
    got, expected = flat(result), flat(true)
    norm = np.linalg.norm
    return {k: float(norm(got[k] - expected[k]) / norm(expected[k])) for k in got}


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
        "threads": os.environ.get("OMP_NUM_THREADS", ""), "rounds": count,
        "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip


def write(output: Path, found: dict[str, Any], page: str) -> None:
    """The results as JSON, and their page beside it; `output` has no ending."""
    output.parent.mkdir(parents=True, exist_ok=True)
    output.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    output.with_suffix(".md").write_text(page, encoding="utf-8")
