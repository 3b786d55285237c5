"""Every cell by the default call beside `scan`, forward and with gradients, in one run.

python benchmarks/cells.py                     # writes results/cells.json and .md
python benchmarks/cells.py --cells lstm sru --sizes 1,1000,128,128 --output cells
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from cases import Case, Data, apply, sample
from report import geometric
from timing import RESULTS, environment, error, rounds, write

import jaxlstm
from peers import PEERS

CELLS = [name for name, c in vars(jaxlstm.cells).items() if isinstance(c, jaxlstm.Cell)]
SIZES = ("16,113,128,128", "1,1000,128,128")  # batch, time, input, hidden
WRONG = 1e-3  # the error beyond which something else was computed
COMPARED = 50  # steps: over many more, some of these networks are chaotic


def compare(case: Case) -> None:
    data = sample(case)
    both = [PEERS[name](case, data)["forward+backward"] for name in ("jaxlstm", "scan")]
    for job in both:
        job.run()
    apart = error(*(job.result() for job in both))
    if not all(e < WRONG for e in apart.values()):
        sys.exit(f"{case}: the default does not compute the same as scan: {apart}")


def taken(case: Case, data: Data) -> str:
    """The implementation that the default call takes: the one whose program it is."""

    def program(name: str | None = None) -> str:
        run = lambda params, xs: apply(case, params, xs, implementation=name)
        return jax.jit(run).lower(data.params, data.xs).as_text()

    default = program()
    if "@jaxlstm_" in default:  # a call of a kernel
        return "native"
    return "scan" if default == program("scan") else "deferred"


def measure(case: Case, count: int) -> list[dict[str, Any]]:
    compare(case._replace(time=min(case.time, COMPARED)))
    data = sample(case)
    both = {name: PEERS[name](case, data) for name in ("jaxlstm", "scan")}
    runs = taken(case, data)
    lines = []
    for what in ("forward", "forward+backward"):
        jobs = {name: of[what] for name, of in both.items()}
        seconds = {name: float(np.median(t)) for name, t in rounds(jobs, count).items()}
        ratio = seconds["scan"] / seconds["jaxlstm"]
        named = {"cell": case.cell, "sizes": case.sizes, "what": what, "runs": runs}
        lines.append({**named, "seconds": seconds, "ratio": ratio})
        print(f"{case!s:40} {what:17} {runs:9} {ratio:.2f}", flush=True)
    return lines


def markdown(found: dict[str, Any]) -> str:
    env, lines = found["environment"], found["lines"]
    columns = list(dict.fromkeys((x["sizes"], x["what"]) for x in lines))
    at = {(x["cell"], x["sizes"], x["what"]): x for x in lines}
    text = [
        "# Every cell, beside `scan`",
        "",
        f"Made by `python benchmarks/cells.py` on {env['date']}: {env['cpu']}, {env['cores']} "
        f"cores, jax {env['versions']['jax']}, float32; medians of {env['rounds']} interleaved "
        "rounds.",
        "",
        "Milliseconds of the default call and, in brackets, `t_scan / t_default`: above 1 the "
        "default is faster. Sizes are (batch, time, input, hidden); *runs* is the implementation "
        "that the default takes.",
        "",
        f"| cell | runs | {' | '.join(f'{s} {w}' for s, w in columns)} |",
        f"|---|---|{'---|' * len(columns)}",
    ]
    for cell in dict.fromkeys(x["cell"] for x in lines):
        of = [at[cell, *column] for column in columns]
        cells = [f"{x['seconds']['jaxlstm'] * 1e3:.2f} ({x['ratio']:.2f})" for x in of]
        runs = dict.fromkeys(f"`{x['runs']}`" for x in of)
        text.append(f"| `{cell}` | {', '.join(runs)} | {' | '.join(cells)} |")
    for name, pick in (("geometric mean", geometric), ("worst", min)):
        picked = [
            pick([x["ratio"] for x in lines if (x["sizes"], x["what"]) == c]) for c in columns
        ]
        text.append(f"| {name} | | {' | '.join(f'{r:.2f}' for r in picked)} |")
    return "\n".join([*text, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=CELLS)
    parser.add_argument("--sizes", nargs="+", metavar="B,T,I,H", default=SIZES)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--output", type=Path, default=RESULTS / "cells", help="without an ending")
    options = parser.parse_args()
    lines: list[dict[str, Any]] = []
    for cell in options.cells:
        for sizes in options.sizes:
            lines += measure(Case(cell, *map(int, sizes.split(","))), options.rounds)
    found = {"environment": environment(options.rounds), "lines": lines}
    write(options.output, found, markdown(found))


if __name__ == "__main__":
    main()
