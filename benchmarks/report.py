"""The table and the picture of a benchmark's results.

python benchmarks/report.py benchmarks/results/cpu.json     # makes both anew, prints the README's
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

JAX_PEERS = ("flax", "equinox", "keras")
OURS = ("scan", "deferred", "native")  # beside the default
WHATS = ("forward", "forward+backward")


def geometric(values: list[float]) -> float:
    return float(np.exp(np.mean(np.log(values))))


def _size(line: dict[str, Any]) -> str:
    sizes = ",".join(str(line[k]) for k in ("batch", "time", "input", "hidden"))
    return line.get("sizes", f"({sizes}{', masked' if line['masked'] else ''})")


def _ratios(line: dict[str, Any], names: tuple[str, ...], ours: str = "jaxlstm") -> list[float]:
    median = line["median"]
    return [median[n] / median[ours] for n in names if n in median and ours in median]


def _mean_and_worst(
    lines: list[dict[str, Any]], names: tuple[str, ...], ours: str = "jaxlstm"
) -> str:
    """Of the best peer of each line: the geometric mean and the worst line."""
    best = [min(r) for x in lines if (r := _ratios(x, names, ours))]
    return f"{geometric(best):.2f} ({min(best):.2f})" if best else ""


def _plain(line: dict[str, Any]) -> bool:
    return line.get("plain", True)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _groups(lines: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The lines of the grid by cell, and the others."""
    names = dict.fromkeys(x["cell"] if _plain(x) else "others" for x in lines)
    return {
        n: [x for x in lines if (n == "others") != _plain(x) and n in ("others", x["cell"])]
        for n in names
    }


def markdown(found: dict[str, Any]) -> str:
    env = found["environment"]
    versions = ", ".join(f"{k} {v}" for k, v in env["versions"].items() if v)
    text = [
        "# Beside the peers",
        "",
        f"Made by `make bench` on {env['date']}: {env['cpu']}, {env['cores']} cores, "
        f"{env['threads']} threads, Python {env['python']}, {versions}; "
        f"XLA_FLAGS: {env['xla_flags'] or 'none'}; "
        f"medians of at least {env['rounds']} interleaved rounds.",
        "",
        "*ms* and all other columns are of the default call. Ratios are `t_other / t_default`: "
        "above 1 the default is faster. *scan*, *deferred* and *native* are our implementations, "
        "by name. *chain* and *product* are limits: the dependent chain of the small products "
        "alone, and one large product with all the FLOPs of the forward pass. *Compile* is XLA's "
        "part, and memory what the compiled program needs beside arguments and results; both with "
        "those of scan, deferred and native in brackets.",
    ]
    for what in WHATS:
        of_what = [x for x in found["lines"] if x["what"] == what]
        for group, lines in _groups(of_what).items():
            text += ["", f"## {group}, {what}", "", *_table(lines, group == "others")]
    text += _best(found["lines"])
    text += _short(found["lines"])
    text += _alone(found)
    reasons = dict.fromkeys(
        f"- {name}: {reason}"
        for line in found["lines"]
        for name, reason in line["left_out"].items()
    )
    text += ["", "Left out:", "", *reasons] if reasons else []
    failed = [f"{x['cell']} {_size(x)} {x['what']}" for x in found["lines"] if not x["accurate"]]
    listed = "; ".join(failed) if failed else "none"
    text += ["", f"Lines further from float64 than 1.5 times the worst peer: {listed}.", ""]
    return "\n".join(text)


def _table(lines: list[dict[str, Any]], others: bool) -> list[str]:
    names = list(dict.fromkeys(n for line in lines for n in line["ratio"]))
    names = [n for n in OURS if n in names] + [n for n in names if n not in OURS]
    head = [*(["cell"] if others else []), "(batch, time, input, hidden)", "ms", *names]
    head += ([] if others else ["chain", "product"]) + ["compile s", "temporary MiB"]
    text = [_row(head), f"|{'---|' * len(head)}"]
    for line in lines:
        median = line["median"]
        ours = median["jaxlstm"]
        row = [*([line["cell"]] if others else []), _size(line), f"{ours * 1e3:.2f}"]
        row += [f"{line['ratio'][n]:.2f}" if n in line["ratio"] else "" for n in names]
        row += [] if others else [f"{median[n] / ours:.2f}" for n in ("chain", "product")]
        for key, scale in (("compile_seconds", 1.0), ("temporary_bytes", 2.0**20)):
            each = [line[key].get(n) for n in ("jaxlstm", *OURS)]
            mine, *rest = [f"{v / scale:.2f}" for v in each if v is not None]
            row.append(f"{mine} ({', '.join(rest)})" if rest else mine)
        text.append(_row(row))
    for name, pick in (("geometric mean", geometric), ("worst", min)):
        ratios = [[x["ratio"][n] for x in lines if n in x["ratio"]] for n in names]
        row = [name, *[""] * (2 if others else 1), *[f"{pick(r):.2f}" for r in ratios]]
        text.append(_row([*row, *[""] * (len(head) - len(row))]))
    return text


def _best(every: list[dict[str, Any]]) -> list[str]:
    head = ["cell", "", "best JAX peer", "PyTorch", "best of PyTorch, ONNX Runtime", "closeness"]
    text = ["", "## Beside the best of each line", ""]
    text += ["Geometric mean (worst line) of `t_peer / t_default`.", ""]
    text += [_row(head), f"|{'---|' * len(head)}"]
    for cell, of_cell in _groups(every).items():
        for what in WHATS:
            lines = [x for x in of_cell if x["what"] == what]
            row = [cell, what]
            for names in (JAX_PEERS, ("torch",), ("torch", "onnxruntime"), ("chain",)):
                of = lines if names != ("chain",) else [x for x in lines if x["hidden"] >= 128]
                row.append(_mean_and_worst(of, names))
            text.append(_row(row))
    text += ["", "Closeness is *chain* over the default at hidden sizes of 128 and more."]
    return text


def summary(found: dict[str, Any]) -> list[str]:
    """The README's table: the default, and `deferred`, which runs without a C++ compiler."""
    peers = {
        "best of Flax, Equinox, Keras": JAX_PEERS,
        "PyTorch": ("torch",),
        "best of PyTorch and ONNX Runtime": ("torch", "onnxruntime"),
    }
    text = [
        "| | forward | without a compiler | forward and backward | without a compiler |",
        "|---|---|---|---|---|",
    ]
    for cell in ("lstm", "gru"):
        for label, names in peers.items():
            row = [f"`{cell}`, {label}"]
            for what in WHATS:
                lines = [x for x in _groups(found["lines"])[cell] if x["what"] == what]
                ran = any(names[-1] in x["median"] for x in lines)  # ONNX Runtime: forward alone
                for ours in ("jaxlstm", "deferred"):
                    row.append(_mean_and_worst(lines, names, ours) if ran else "")
            text.append(_row(row))
    return text


def _alone(found: dict[str, Any]) -> list[str]:
    text = []
    if crowding := found.get("crowding"):
        text += ["", "## Two processes at once", "", f"{crowding[0]['case']}, with gradients.", ""]
        head = ["", "ms alone", "ms of two at once", "lost"]
        text += [_row(head), f"|{'---|' * len(head)}"]
        for x in crowding:
            name = "default" if x["name"] == "jaxlstm" else x["name"]
            times = [f"{x[k] * 1e3:.2f}" for k in ("alone", "crowded")]
            text.append(_row([name, *times, f"{x['crowded'] / x['alone']:.2f}"]))
    if first := found.get("first_use"):
        text += ["", "## First use", "", f"{first[0]['case']}: seconds from a network and its "]
        text[-1] += "inputs to the first gradients, traced, compiled and run, by the default call."
        text += ["", _row(["process", "s"]), "|---|---|"]
        text += [_row([x["process"], f"{x['seconds']:.2f}"]) for x in first]
    return text


def _products(line: dict[str, Any]) -> float:
    """XLA's products of a line alone, in seconds: the thin ones of each loop as the chain takes
    them, all others as fast as the large one; three times the FLOPs with gradients."""
    chain, product = (line["median"][k] for k in ("chain", "product"))
    inputs = product * line["input"] / (line["input"] + line["hidden"])
    if line["what"] == "forward":
        return chain + inputs
    return 2 * chain + 3 * inputs + (product - inputs)


def _short(lines: list[dict[str, Any]]) -> list[str]:
    """Where PyTorch or ONNX Runtime is faster, and what bounds XLA's loops there."""
    text = [
        "",
        "## Where PyTorch or ONNX Runtime is faster",
        "",
        "In milliseconds. *products*: those of XLA alone, without any of the cell's equations: the "
        "thin ones in the loops as the chain takes them, all others at the speed of the large one. "
        "Where they take longer than the peer (*), no arrangement in XLA passes it. Elsewhere it "
        "is what stands around them: [NOTES.md](../NOTES.md).",
        "",
        "| cell | (batch, time, input, hidden) | | peer | ms | default | deferred | products |",
        "|---|---|---|---|---|---|---|---|",
    ]
    start = len(text)
    for line in lines:
        median = line["median"]
        peers = [n for n in ("torch", "onnxruntime") if n in median]
        best = min(peers, key=median.__getitem__, default=None)
        if best is None or median[best] >= median["jaxlstm"]:
            continue
        times = [median[best], median["jaxlstm"], median.get("deferred")]
        shown = ["" if t is None else f"{t * 1e3:.2f}" for t in times]
        products = _products(line) if "chain" in median else None
        mark = " *" if products and products > median[best] else ""
        shown.append(f"{products * 1e3:.2f}{mark}" if products else "")
        text.append(_row([line["cell"], _size(line), line["what"], best, *shown]))
    return text if len(text) > start else []


def plot(found: dict[str, Any], path: Path) -> None:
    """One axis for all: to the right of 1 the default is faster."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    groups = _groups(found["lines"])
    heights = [1 + len({(x["cell"], _size(x)) for x in lines}) for lines in groups.values()]
    figure, axes = plt.subplots(
        len(groups), 2, figsize=(12, 1.5 + 0.34 * sum(heights)), squeeze=False, sharex=True,
        sharey="row", height_ratios=heights, layout="constrained",
    )  # fmt: skip
    colours = ("#999999", "#0072B2", "#009E73", "#D55E00", "#CC79A7", "#E69F00", "#56B4E9", "#000")
    names = list(dict.fromkeys(n for line in found["lines"] for n in line["ratio"]))
    style = dict(zip(names, zip(colours, "xos^vD*P")))
    drawn: dict[str, Any] = {}
    for row, (group, of_group) in zip(axes, groups.items()):
        for ax, what in zip(row, WHATS):
            lines = [x for x in of_group if x["what"] == what]
            for name in names:
                at = [i for i, x in enumerate(lines) if name in x["ratio"]]
                values = [lines[i]["ratio"][name] for i in at]
                colour, marker = style[name]
                (points,) = ax.plot(values, at, marker, color=colour, label=name, markersize=6)
                drawn[name] = points
            ax.axvline(1, color="0.4", linewidth=0.8)
            ax.set(xscale="log", title=f"{group}, {what}", yticks=range(len(lines)))
            prefix = (lambda x: f"{x['cell']} ") if group == "others" else (lambda x: "")
            ax.set_yticklabels([prefix(x) + _size(x) for x in lines])
            ax.grid(axis="x", color="0.9")
            ax.set_xticks([0.5, 1, 2, 5, 10, 20, 50])
            ax.xaxis.set_major_formatter("{x:g}")
            ax.xaxis.set_minor_formatter("")
        row[0].invert_yaxis()  # of both, which share it
    figure.supxlabel("time of the other / time of the default: right of 1 the default is faster")
    figure.legend(drawn.values(), drawn, loc="outside upper center", ncols=8, frameon=False)
    least = min([0.5, *(v for x in found["lines"] for v in x["ratio"].values())])
    axes[0, 0].set_xlim(0.9 * least)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    results = json.loads(path.read_text())
    path.with_suffix(".md").write_text(markdown(results), encoding="utf-8")
    plot(results, path.with_suffix(".png"))
    print("\n".join(summary(results)))
