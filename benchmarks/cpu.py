"""jaxlstm beside its peers on CPU, in one run: `make bench`, or `python benchmarks/cpu.py --help`.

All of a line are measured in turn, round after round, so that a drift of the machine's speed
meets them alike, and for some seconds, since a shared machine is slower for parts of one; what
counts is the ratio.  Before anything is timed, all must give the same numbers, and jaxlstm must be
no further from the float64 truth than 1.5 times a peer.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("KERAS_BACKEND", "jax")

import numpy as np
from cases import CELLS, GRID, MORE, SMALL, Case, flops, sample
from report import markdown, plot
from timing import RESULTS, environment, error, limits, rounds, truth, write

from peers import OURS, PEERS, Job

WRONG = {"float32": 1e-3, "bfloat16": 0.2}  # the error beyond which something else was computed
CROWDED = Case("lstm", 32, 128, 256, 256)


def measure(case: Case, names: list[str], count: int, at_least: float) -> list[dict[str, Any]]:
    data = sample(case)
    made: dict[str, dict[str, Job]] = {}
    left_out: dict[str, str] = {}
    for name in names:
        try:
            made[name] = PEERS[name](case, data)
        except (NotImplementedError, ImportError) as e:
            left_out[name] = str(e)
    true = truth(case, data)
    bounds = limits(case) if case.plain else {}
    lines = []
    for what in ("forward", "forward+backward"):
        jobs = {name: jobs[what] for name, jobs in made.items() if what in jobs}
        errors = {}
        for name, job in jobs.items():
            job.run()
            errors[name] = error(job.result(), true[what])
            # `max` would pass over NaN
            if not all(e < WRONG[case.dtype] for e in errors[name].values()):
                sys.exit(f"{case} {what}: {name} does not compute the same: {errors[name]}")
        seconds = rounds({**jobs, **bounds}, count, at_least)
        median = {name: float(np.median(t)) for name, t in seconds.items()}
        others = [n for n in jobs if n not in OURS]
        worst = {n: max(e.values()) for n, e in errors.items()}
        peers = [worst[n] for n in others]
        work = flops(case)
        lines.append(
            {
                **case._asdict(),
                "sizes": case.sizes,
                "plain": case.plain,
                "what": what,
                "rounds": len(seconds["jaxlstm"]),
                "median": median,
                "quartiles": {n: list(np.percentile(t, [25, 75])) for n, t in seconds.items()},
                "ratio": {
                    n: median[n] / median["jaxlstm"] for n in [*OURS[1:], *others] if n in median
                },
                "error": errors,
                "accurate": not peers
                or all(worst[n] <= 1.5 * max(peers) for n in OURS if n in worst),
                "compile_seconds": {n: j.compile_seconds for n, j in jobs.items()},
                "temporary_bytes": {n: j.temporary_bytes for n, j in jobs.items()},
                "gigaflops": work and work * (1 if what == "forward" else 3) / 1e9,
                "left_out": left_out,
            }
        )
        ratios = ", ".join(f"{n} {r:.2f}" for n, r in lines[-1]["ratio"].items())
        print(f"{case!s:32} {what:17} {median['jaxlstm'] * 1e3:8.2f} ms; {ratios}", flush=True)
    return lines


# Both run in a process of their own: what it prints is one line of JSON.
ALONE = """
import json, sys, time
from cases import Case, sample
from peers import PEERS

name, seconds, case = sys.argv[1], float(sys.argv[2]), Case(*json.loads(sys.argv[3]))
if name == "torch":
    import torch
    torch.set_num_threads(2)
job = PEERS[name](case, sample(case))["forward+backward"]
job.run()
print("ready", flush=True)
sys.stdin.readline()
times, end = [], time.perf_counter() + seconds
while time.perf_counter() < end or not times:
    start = time.perf_counter()
    job.run()
    times.append(time.perf_counter() - start)
print(json.dumps(sorted(times)[len(times) // 2]))
"""
FIRST = """
import json, sys, time
import jax
from cases import Case, sample, apply

case = Case(*json.loads(sys.argv[1]))
data = sample(case)
start = time.perf_counter()
loss = lambda p: apply(case, p, data.xs)[0].sum()
jax.block_until_ready(jax.jit(jax.grad(loss))(data.params))
print(json.dumps(time.perf_counter() - start))
"""


def together(name: str, case: Case, count: int, seconds: float) -> float:
    """The median seconds of a run in each of so many processes at once, of all the worst."""
    call = [sys.executable, "-c", ALONE, name, str(seconds), json.dumps(case)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    running = [subprocess.Popen(call, cwd=Path(__file__).parent, **pipes) for _ in range(count)]
    if any(p.stdout.readline() != "ready\n" for p in running):
        for p in running:
            p.kill()
        raise RuntimeError(f"{name} does not run in a process of its own")
    for p in running:
        p.stdin.write("go\n")
        p.stdin.flush()
    return max(json.loads(p.communicate()[0]) for p in running)


def crowding(names: list[str], case: Case, seconds: float, count: int) -> list[dict[str, Any]]:
    """What two processes at once lose, each beside itself alone; in turn, the median of a few."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for _ in range(count):
        for name in names:
            pair = together(name, case, 1, seconds), together(name, case, 2, seconds)
            times[name].append(pair)
    lines = []
    for name, pairs in times.items():
        one, two = (float(np.median(t)) for t in zip(*pairs, strict=True))
        lines.append({"name": name, "case": str(case), "alone": one, "crowded": two})
        print(f"{case} {name}: two processes at once take {two / one:.2f} of one alone", flush=True)
    return lines


def first_use(case: Case) -> list[dict[str, Any]]:
    """Seconds to the first gradients: with no kernel in the cache, in a second process, by XLA."""
    lines = []
    with tempfile.TemporaryDirectory() as cache:
        for name, switch in (("first", "on"), ("second", "on"), ("without the kernel", "off")):
            call = [sys.executable, "-c", FIRST, json.dumps(case)]
            env = {**os.environ, "XDG_CACHE_HOME": cache, "JAXLSTM_KERNEL": switch}
            start = time.perf_counter()
            done = subprocess.run(
                call, cwd=Path(__file__).parent, env=env, capture_output=True, text=True, check=True
            )
            whole = time.perf_counter() - start
            used = json.loads(done.stdout)
            lines.append({"process": name, "case": str(case), "seconds": used, "whole": whole})
            print(f"{case}, {name} process: {used:.2f} s", flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS))
    parser.add_argument("--sizes", nargs="+", metavar="B,T,I,H[,masked]", help="lines of the grid")
    parser.add_argument("--peers", nargs="*", choices=[*PEERS][1:], default=[*PEERS][1:])
    parser.add_argument("--rounds", type=int, default=15, help="of each line, at least")
    parser.add_argument("--seconds", type=float, default=12.0, help="for a line, at least")
    parser.add_argument("--small", action="store_true", help="a minute, to see that it runs")
    parser.add_argument("--output", type=Path, default=RESULTS / "cpu", help="without an ending")
    options = parser.parse_args()
    if options.small and options.output == RESULTS / "cpu":
        options.output = Path(tempfile.mkdtemp()) / "cpu"  # not beside the results
    at_least = 0.0 if options.small else options.seconds
    sizes = GRID
    if options.sizes:
        split = [s.split(",") for s in options.sizes]
        sizes = [(*map(int, s[:4]), "masked" in s[4:]) for s in split]
    if "torch" in options.peers:
        try:
            import torch

            torch.set_num_threads(2)
        except ImportError:
            options.peers.remove("torch")
    cases = [Case(cell, *size) for cell in options.cells for size in sizes]
    cases += () if options.sizes else MORE
    cases = SMALL if options.small else cases
    found: dict[str, Any] = {"environment": environment(options.rounds), "lines": []}
    for case in cases:
        found["lines"] += measure(case, ["jaxlstm", *options.peers], options.rounds, at_least)
        write(options.output, found, markdown(found))
    if options.small or not options.sizes:
        crowded, seconds, count = (SMALL[0], 0.1, 1) if options.small else (CROWDED, 5.0, 3)
        names = [n for n in ("jaxlstm", "deferred", "torch") if n in ("jaxlstm", *options.peers)]
        found["crowding"] = crowding(names, crowded, seconds, count)
        found["first_use"] = first_use(crowded)
        write(options.output, found, markdown(found))
    plot(found, options.output.with_suffix(".png"))
    print(f"written: {options.output}.json, .md and .png")


if __name__ == "__main__":
    main()
