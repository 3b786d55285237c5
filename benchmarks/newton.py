"""Newton's method over time beside `scan`: rounds, time, and the largest Lyapunov exponent.

python benchmarks/newton.py                    # writes results/newton.json and .md
python benchmarks/newton.py --times 100 --widths 1 --cells gru --rounds 1 --training 2
"""

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from timing import RESULTS, environment, rounds, write

import jaxlstm
from peers import Job

CELLS = ("lstm", "gru", "rnn", "indrnn")
INPUT, DELAY, SHORT = 2, 5, 50
IMPLEMENTATIONS = ("newton", "scan")
WHAT = ("forward", "forward+backward")  # gradients for the width 8 alone


def network(cell: str, width: int, dtype: Any, training: int) -> tuple[Any, float]:
    """A layer, trained to recall its input of five steps ago, and the share of variance left."""
    key = jax.random.key(0)
    params = jaxlstm.init(key, getattr(jaxlstm.cells, cell), INPUT, width, dtype=dtype)
    if not training:
        return params, 1.0
    net = (params, jax.random.normal(key, (width, INPUT), dtype) / width**0.5)
    optimiser = optax.adam(1e-2)

    def loss(net: Any, key: Any) -> Any:
        xs = jax.random.normal(key, (SHORT, 32, INPUT), dtype)
        ys = jaxlstm.apply(net[0], xs)[0] @ net[1]
        return jnp.mean((ys[DELAY:] - xs[:-DELAY]) ** 2)

    def update(carry: Any, key: Any) -> Any:
        net, state = carry
        left, grads = jax.value_and_grad(loss)(net, key)
        changes, state = optimiser.update(grads, state, net)
        return (optax.apply_updates(net, changes), state), left

    train = jax.jit(lambda carry, keys: jax.lax.scan(update, carry, keys))
    (net, _), left = train((net, optimiser.init(net)), jax.random.split(key, training))
    return net[0], float(left[-20:].mean())


def programs(params: Any, xs: Any, back: bool) -> dict[str, Job]:
    def job(name: str) -> Job:
        forward = lambda params, xs: jaxlstm.apply(params, xs, implementation=name)[0]
        both = lambda params, xs: jax.vjp(forward, params, xs)[1](xs[:, :1] + params.w[:1, 0])
        program = jax.jit(both if back else forward).lower(params, xs).compile()
        run = lambda: jax.block_until_ready(program(params, xs))
        return Job(run, lambda: None)  # type: ignore[arg-type, return-value]

    return {name: job(name) for name in IMPLEMENTATIONS}


def measure(
    cell: str, width: int, time: int, dtype: str, training: int, count: int
) -> dict[str, Any]:
    with jax.enable_x64(dtype == "float64"):
        params, left = network(cell, width, dtype, training)
        xs = jax.random.normal(jax.random.key(1), (time, INPUT), dtype)
        report = jaxlstm.newton_report(params, xs)
        some = xs[:2000]
        (exponent,) = jaxlstm.lyapunov(params, some, count=1, skip=len(some) // 4)
        line = {
            "cell": cell, "width": width, "time": time, "dtype": dtype, "training": training,
            "variance_left": left, "rounds": int(report.rounds),
            "exponent": float(exponent) if jnp.isfinite(exponent) else None,
            "residual": float(report.residual), "amplification": float(report.amplification),
            "fell_back": bool(report.fell_back),
        }  # fmt: skip
        for what in WHAT if width == 8 else WHAT[:1]:
            timed = rounds(programs(params, xs, what != "forward"), count)
            line[what] = {name: float(np.median(t)) for name, t in timed.items()}
    print(*line.values(), flush=True)
    return line


def markdown(found: dict[str, Any]) -> str:
    env = found["environment"]
    text = [
        "# Newton's method over time, beside `scan`",
        "",
        f"Made by `python benchmarks/newton.py` on {env['date']}: {env['device']}, jax "
        f"{env['versions']['jax']}; one sequence of {INPUT} inputs, medians of at least "
        f"{env['rounds']} interleaved rounds.",
        *([env["note"]] if env["note"] else []),
        "",
        "Exponent: the largest Lyapunov exponent per step. Error: how many times larger errors of "
        "rounding become. Rounds: of Newton's method; those marked `scan` were left to `scan`. "
        "Times: milliseconds of `newton`, and how many of `scan` it is as fast as, "
        "`t_scan / t_newton`: above 1 `newton` is faster.",
        "",
        "| cell | width | weights | dtype | time | exponent | error | rounds | forward, ms | ratio "
        "| forward+backward, ms | ratio |",
        f"|{'---|' * 12}",
    ]
    for x in found["lines"]:
        weights = f"trained ({x['variance_left']:.2f} left)" if x["training"] else "initial"
        row = [
            x["cell"],
            x["width"],
            weights,
            x["dtype"],
            x["time"],
            f"{-np.inf if x['exponent'] is None else x['exponent']:.2f}",
        ]
        row += [f"{x['amplification']:.0f}", f"{x['rounds']}{', scan' if x['fell_back'] else ''}"]
        for what in WHAT:
            times = x.get(what)
            row += (
                [f"{1e3 * times['newton']:.1f}", f"{times['scan'] / times['newton']:.2f}"]
                if times
                else ["", ""]
            )
        text.append(f"| {' | '.join(map(str, row))} |")
    return "\n".join([*text, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS))
    parser.add_argument("--times", nargs="+", type=int, default=[100, 1000, 10_000])
    parser.add_argument("--widths", nargs="+", type=int, default=[1, 8, 64])
    parser.add_argument("--long", type=int, default=0, help="a time for the width 8 alone")
    parser.add_argument("--training", type=int, default=1000, help="steps of training; 0: none")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--note", default="", help="of the machine, for the page")
    parser.add_argument("--output", type=Path, default=RESULTS / "newton", help="without an ending")
    parser.add_argument("--add", action="store_true", help="to the results that are there")
    options = parser.parse_args()
    cases = [(w, t, "float32", 0) for w in options.widths for t in options.times]
    middle = options.widths[len(options.widths) // 2], options.times[len(options.times) // 2]
    cases += [(*middle, "float64", 0)]
    cases += [(middle[0], options.long, "float32", 0)] if options.long else []
    if options.training:
        cases += [(*middle, dtype, options.training) for dtype in ("float32", "float64")]
    (device,) = jax.devices()[:1]
    env = environment(options.rounds)
    of_cpu = f"{env['cpu']}, {env['cores']} cores"
    env |= {"device": of_cpu if device.platform == "cpu" else device.device_kind}
    env |= {"note": options.note}
    before = options.output.with_suffix(".json")
    lines = json.loads(before.read_text())["lines"] if options.add else []
    for cell, case in itertools.product(options.cells, cases):
        lines.append(measure(cell, *case, options.rounds))
        found = {"environment": env, "lines": lines}
        write(options.output, found, markdown(found))


if __name__ == "__main__":
    main()
