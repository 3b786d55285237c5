"""jaxlstm beside its peers on a GPU: `make bench-gpu`, or `python benchmarks/gpu.py --help`.

The form is that of `cpu.py`: all of a line in turn, round after round, random cotangents, and
nothing is timed that does not compute the same.  Who cannot run a line is left out, with the
reason in the results.  Without a GPU it runs tiny sizes, to show that it runs to its end; its
page then says that these are no GPU numbers, and is not written beside the results.
"""

import argparse
import gc
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs memory as well

import jax
import numpy as np
from cases import CELLS, Case, Data, sample
from gpu_report import markdown
from timing import RESULTS, environment, error, limits, rounds, truth, write

from peers import Job, equinox, flax, ours, scan, torch

GRID = (  # batch, time, input, hidden
    (16, 1024, 768, 768),  # FlashRNN's own (Poeppel et al., 2024)
    (1, 1024, 768, 768),
    (128, 256, 768, 768),
    (1024, 64, 768, 768),
    (1, 1024, 128, 128),
    (16, 1024, 128, 128),
    (1024, 256, 128, 128),
    (1, 1024, 512, 512),
    (16, 1024, 512, 512),
    (16, 256, 2048, 2048),
    (1024, 64, 2048, 2048),
)
TINY = ((2, 6, 4, 8), (1, 5, 8, 4))
DTYPES = ("float32", "bfloat16")

# The norm of the error over that of the truth, beyond which something else was computed.
# "default" is TF32 on a GPU, with 10 bits of mantissa; bfloat16 has 7.
WRONG = {"highest": 1e-3, "default": 2e-2, "bfloat16": 0.2}


def torch_gpu(case: Case, data: Data) -> dict[str, Job]:
    from torch import cuda

    if cuda.is_available():
        return torch(case, data, "cuda")
    if jax.default_backend() == "gpu":
        raise NotImplementedError("this PyTorch sees no GPU")
    return torch(case, data)


PEERS: dict[str, Callable[[Case, Data], dict[str, Job]]] = {
    "jaxlstm": ours,
    "scan": scan,
    "flax": flax,
    "equinox": equinox,
    "torch": torch_gpu,
}


def attempt(f: Callable[[], Any]) -> tuple[Any, str | None]:
    """What `f` gives, or why it gives nothing: not made for this, not installed, no memory."""
    try:
        return f(), None
    except (NotImplementedError, ImportError, RuntimeError, ValueError, TypeError) as e:
        return None, (str(e) or type(e).__name__).strip().splitlines()[0]


def judge(job: Job, true: Any, dtype: Any, bound: float) -> dict[str, float]:
    """The errors of one run, or a refusal to time it."""
    job.run()
    result = job.result()
    if result.ys.dtype != dtype:
        raise ValueError(f"computes in {result.ys.dtype} what should be in {dtype}")
    errors = error(result, true)
    if not all(e < bound for e in errors.values()):  # not by `max`: it passes over NaN
        raise ValueError(f"does not compute the same: {errors}")
    return errors


def measure(case: Case, dtype: Any, names: list[str], count: int, bound: float) -> list[Any]:
    data = jax.tree.map(lambda a: a.astype(dtype), sample(case))
    bounds = limits(case, dtype)
    true, no_truth = attempt(lambda: truth(case, data))
    made, refused = {}, dict.fromkeys(names, no_truth)
    for name in names if true else ():
        made[name], refused[name] = attempt(lambda name=name: PEERS[name](case, data))
    lines = []
    for what in ("forward", "forward+backward"):
        jobs, errors, left_out = {}, {}, {n: r for n, r in refused.items() if r}
        for name in names:
            if name in left_out:
                continue
            job = made[name][what]
            found, reason = attempt(lambda job=job, what=what: judge(job, true[what], dtype, bound))
            if reason:
                left_out[name] = reason
            else:
                jobs[name], errors[name] = job, found
        seconds = rounds({**jobs, **bounds}, count)
        median = {name: float(np.median(t)) for name, t in seconds.items()}
        base = median.get("jaxlstm")
        lines.append(
            {
                **case._asdict(),
                "dtype": dtype.name,
                "what": what,
                "median": median,
                "quartiles": {n: list(np.percentile(t, [25, 75])) for n, t in seconds.items()},
                "us_per_step": {n: t / case.time * 1e6 for n, t in median.items()},
                "ratio": {n: median[n] / base for n in jobs if n != "jaxlstm" and base},
                "error": errors,
                "compile_seconds": {n: j.compile_seconds for n, j in jobs.items()},
                "temporary_bytes": {n: j.temporary_bytes for n, j in jobs.items()},
                "left_out": left_out,
            }
        )
        steps = ", ".join(f"{n} {t:.2f}" for n, t in lines[-1]["us_per_step"].items())
        print(f"{case!s:28} {dtype.name:8} {what:16} us a step: {steps}", flush=True)
    return lines


def device(tiny: bool, precision: str) -> dict[str, Any]:
    """What the page must say of the device."""
    first = jax.devices()[0]
    return {
        "backend": jax.default_backend(), "device": first.device_kind,
        "platform": first.client.platform_version.strip().splitlines()[0],
        "precision": precision, "measured": jax.default_backend() == "gpu" and not tiny,
    }  # fmt: skip


def set_precision(precision: str, torch_too: bool) -> None:
    """PyTorch's cuDNN takes TF32 by default, as JAX does."""
    if precision == "highest":
        jax.config.update("jax_default_matmul_precision", "highest")
    module, _ = attempt(lambda: __import__("torch")) if torch_too else (None, None)
    if module:
        module.set_num_threads(2)
        module.backends.cudnn.allow_tf32 = precision == "default"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="tiny sizes: does it run at all?")
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=["lstm", "gru"])
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--sizes", nargs="+", metavar="B,T,I,H", help="lines of the grid")
    parser.add_argument("--peers", nargs="+", choices=[*PEERS][1:], default=[*PEERS][1:])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--precision", choices=("default", "highest"), default="default")
    parser.add_argument("--output", type=Path, help="without an ending")
    options = parser.parse_args()
    tiny = options.tiny or (jax.default_backend() != "gpu" and not options.sizes)
    sizes = TINY if tiny else GRID
    if options.sizes:
        sizes = tuple(tuple(map(int, s.split(","))) for s in options.sizes)
    set_precision(options.precision, "torch" in options.peers)
    env = environment(options.rounds) | device(tiny, options.precision)
    if not env["measured"]:
        print(f"No GPU numbers: tiny sizes, or no GPU ({env['backend']!r}).", flush=True)
    output = options.output
    if output is None:
        aside = Path(tempfile.gettempdir()) / "jaxlstm-bench" / "gpu-not-measured"
        output = RESULTS / "gpu" if env["measured"] else aside
    lines: list[dict[str, Any]] = []
    for cell in options.cells:
        for size in sizes:
            for dtype in map(np.dtype, map(jax.numpy.dtype, options.dtypes)):
                bound = WRONG["bfloat16" if dtype != np.float32 else options.precision]
                names = ["jaxlstm", *options.peers]
                lines += measure(Case(cell, *size), dtype, names, options.rounds, bound)
                found = {"environment": env, "lines": lines}
                write(output, found, markdown(found))
                gc.collect()  # the next line needs the memory of this one
    print(f"written: {output}.json and .md")
    if any("jaxlstm" in line["left_out"] for line in lines):
        sys.exit("jaxlstm itself was left out of a line: see the reasons in the page")


if __name__ == "__main__":
    main()
