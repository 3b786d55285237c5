"""jaxlstm beside its peers on CPU, in one run: `make bench`, or `python benchmarks/cpu.py --help`.

All of a line are measured in turn, round after round, so that a drift of the machine's speed
meets them alike; what counts is the ratio.  Before anything is timed, all must give the same
numbers, and jaxlstm must be no further from the float64 truth than 1.5 times a peer.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("KERAS_BACKEND", "jax")

import numpy as np
from cases import CELLS, GRID, Case, draw, flops
from report import markdown, plot
from timing import RESULTS, environment, error, limits, rounds, truth, write

from peers import OURS, PEERS, Job


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
            if not all(e < 1e-3 for e in errors[name].values()):  # `max` would pass over NaN
                sys.exit(f"{case} {what}: {name} does not compute the same: {errors[name]}")
        seconds = rounds({**jobs, **bounds}, count)
        median = {name: float(np.median(t)) for name, t in seconds.items()}
        others = [n for n in jobs if n not in OURS]
        worst = {n: max(e.values()) for n, e in errors.items()}
        peers = [worst[n] for n in others]
        lines.append(
            {
                **case._asdict(),
                "what": what,
                "median": median,
                "quartiles": {n: list(np.percentile(t, [25, 75])) for n, t in seconds.items()},
                "ratio": {
                    n: median[n] / median["jaxlstm"]
                    for n in [*others, "scan", "native"]
                    if n in median
                },
                "error": errors,
                "accurate": not peers
                or all(worst[n] <= 1.5 * max(peers) for n in OURS if n in worst),
                "compile_seconds": {n: j.compile_seconds for n, j in jobs.items()},
                "temporary_bytes": {n: j.temporary_bytes for n, j in jobs.items()},
                "gigaflops": flops(case) * (1 if what == "forward" else 3) / 1e9,
                "left_out": left_out,
            }
        )
        ratios = ", ".join(f"{n} {r:.2f}" for n, r in lines[-1]["ratio"].items())
        print(f"{case!s:32} {what:17} {median['jaxlstm'] * 1e3:8.2f} ms; {ratios}", flush=True)
    return lines


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
            write(options.output, found, markdown(found))
    plot(found, options.output.with_suffix(".png"))
    print(f"written: {options.output}.json, .md and .png")


if __name__ == "__main__":
    main()
