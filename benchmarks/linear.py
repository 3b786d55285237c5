"""Linear cells: `associative`, parallel in time, beside `scan`, in one run.

python benchmarks/linear.py                    # writes results/linear.json and .md
python benchmarks/linear.py --rounds 3 --times 100 --batches 1 --widths 64
"""

import argparse
import itertools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from timing import RESULTS, environment, rounds, write

import jaxlstm
from peers import Job

CELLS = ("mingru", "minlstm", "lru")
IMPLEMENTATIONS = ("associative", "scan")


def job(cell: str, batch: int, time: int, width: int, name: str, back: bool) -> Job:
    """One program, compiled and ready to run."""
    made = getattr(jaxlstm.cells, cell)
    params = jaxlstm.init(jax.random.key(0), made, width, width, dtype=jnp.float32)
    xs, dys = jax.random.normal(jax.random.key(1), (2, time, batch, width), jnp.float32)
    forward = lambda params, xs: jaxlstm.apply(params, xs, implementation=name)[0]
    both = lambda params, xs, dys: jax.vjp(forward, params, xs)[1](dys)
    args = (params, xs, dys) if back else (params, xs)
    program = jax.jit(both if back else forward).lower(*args).compile()
    bytes = program.memory_analysis().temp_size_in_bytes
    run = lambda: jax.block_until_ready(program(*args))
    return Job(run, lambda: None, temporary_bytes=bytes)  # type: ignore[arg-type, return-value]


def measure(cell: str, batch: int, time: int, width: int, back: bool, count: int) -> dict[str, Any]:
    jobs = {name: job(cell, batch, time, width, name, back) for name in IMPLEMENTATIONS}
    seconds = {name: float(np.median(t)) for name, t in rounds(jobs, count).items()}
    line = {
        "cell": cell,
        "batch": batch,
        "time": time,
        "width": width,
        "what": "forward+backward" if back else "forward",
        "seconds": seconds,
        "temporary_bytes": {name: j.temporary_bytes for name, j in jobs.items()},
        "ratio": seconds["scan"] / seconds["associative"],
    }
    print(*[line[k] for k in ("cell", "batch", "time", "width", "what")], f"{line['ratio']:.2f}")
    return line


def markdown(found: dict[str, Any]) -> str:
    env, lines = found["environment"], found["lines"]
    sizes = list(dict.fromkeys((x["batch"], x["time"], x["width"]) for x in lines))
    columns = list(dict.fromkeys((x["cell"], x["what"]) for x in lines))
    text = [
        "# Parallel in time, beside `scan`",
        "",
        f"Made by `python benchmarks/linear.py` on {env['date']}: {env['cpu']}, "
        f"{env['cores']} cores, "
        f"jax {env['versions']['jax']}, float32; medians of {env['rounds']} interleaved rounds.",
        "",
        "`t_scan / t_associative`: above 1 `associative` is faster. Width: of input and state.",
        "",
        f"| batch | time | width | {' | '.join(f'{c}, {w}' for c, w in columns)} |",
        f"|{'---|' * (3 + len(columns))}",
    ]
    ratio = {(x["batch"], x["time"], x["width"], x["cell"], x["what"]): x["ratio"] for x in lines}
    for size in sizes:
        row = [f"{ratio[(*size, *c)]:.2f}" if (*size, *c) in ratio else "" for c in columns]
        text.append(f"| {' | '.join([*map(str, size), *row])} |")
    return "\n".join([*text, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--times", nargs="+", type=int, default=[100, 1000, 10_000])
    parser.add_argument("--widths", nargs="+", type=int, default=[8, 64, 256])
    parser.add_argument("--largest", type=int, default=30_000_000, help="elements of `ys`")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, default=RESULTS / "linear", help="without an ending")
    options = parser.parse_args()
    lines: list[dict[str, Any]] = []
    for size in itertools.product(options.batches, options.times, options.widths):
        if np.prod(size) <= options.largest:
            for cell, back in itertools.product(options.cells, (False, True)):
                lines.append(measure(cell, *size, back, options.rounds))
    found = {"environment": environment(options.rounds), "lines": lines}
    write(options.output, found, markdown(found))


if __name__ == "__main__":
    main()
