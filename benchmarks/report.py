"""The table and the picture of a benchmark's results.

python benchmarks/report.py benchmarks/results/cpu.json     # makes both anew
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

JAX_PEERS = ("flax", "equinox", "keras")


def geometric(values: list[float]) -> float:
    return float(np.exp(np.mean(np.log(values))))


def _size(line: dict[str, Any]) -> str:
    sizes = ",".join(str(line[k]) for k in ("batch", "time", "input", "hidden"))
    return f"({sizes}{', masked' if line['masked'] else ''})"


def _ratios(line: dict[str, Any], names: tuple[str, ...], ours: str) -> list[float]:
    median = line["median"]
    return [median[n] / median[ours] for n in names if n in median and ours in median]


def markdown(found: dict[str, Any]) -> str:
    env = found["environment"]
    versions = ", ".join(f"{k} {v}" for k, v in env["versions"].items() if v)
    text = [
        "# Beside the peers",
        "",
        f"Made by `make bench` on {env['date']}: {env['cpu']}, {env['cores']} cores, "
        f"{env['threads']} threads, Python {env['python']}, {versions}; "
        f"XLA_FLAGS=`{env['xla_flags']}`; medians of {env['rounds']} interleaved rounds.",
        "",
        "Ratios are `t_peer / t_jaxlstm`, of the default: above 1 it is faster. *scan* and "
        "*native* are other ways to run of our own; below 1 they are faster than the default. "
        "*chain* and *product* are the limits: the time of the dependent chain of the small "
        "products alone, and of one large product with all the FLOPs of the forward pass, over "
        "that of jaxlstm. Memory is what the compiled program needs beside arguments and results.",
    ]
    for what in ("forward", "forward+backward"):
        for cell in dict.fromkeys(line["cell"] for line in found["lines"]):
            lines = [x for x in found["lines"] if x["what"] == what and x["cell"] == cell]
            peers = list(dict.fromkeys(n for line in lines for n in line["ratio"]))
            text += ["", f"## {cell}, {what}", ""]
            head = ["(batch, time, input, hidden)", "ms", *peers, "chain", "product"]
            head += ["compile s (scan, native)", "temporary MiB (scan, native)"]
            text += [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
            for line in lines:
                median = line["median"]
                ours = median["jaxlstm"]
                row = [_size(line), f"{ours * 1e3:.2f}"]
                row += [f"{line['ratio'][n]:.2f}" if n in line["ratio"] else "" for n in peers]
                row += [f"{median[n] / ours:.2f}" for n in ("chain", "product")]
                for key, scale in (("compile_seconds", 1.0), ("temporary_bytes", 2.0**20)):
                    pair = [line[key].get(n) for n in ("jaxlstm", "scan", "native")]
                    mine, *rest = [f"{v / scale:.2f}" for v in pair if v is not None]
                    row.append(f"{mine} ({', '.join(rest)})" if rest else mine)
                text.append(f"| {' | '.join(row)} |")
            for name, pick in (("geometric mean", geometric), ("worst", min)):
                ratios = [[x["ratio"][n] for x in lines if n in x["ratio"]] for n in peers]
                row = [name, "", *[f"{pick(r):.2f}" for r in ratios], "", "", "", ""]
                text.append(f"| {' | '.join(row)} |")
    text += ["", "## Beside the best of each line", ""]
    text += [
        "Geometric mean (worst line) of `t_peer / t_ours`, of the default and of `native`.",
        "",
    ]
    text += [
        "| cell | | by | best JAX peer | PyTorch | best of PyTorch, ONNX Runtime | closeness |"
    ]
    text += ["|---|---|---|---|---|---|---|"]
    for cell in dict.fromkeys(line["cell"] for line in found["lines"]):
        for what in ("forward", "forward+backward"):
            lines = [x for x in found["lines"] if x["what"] == what and x["cell"] == cell]
            for ours in ("jaxlstm", "native"):
                row = [cell, what, "default" if ours == "jaxlstm" else f"`{ours}`"]
                for names in (JAX_PEERS, ("torch",), ("torch", "onnxruntime"), ("chain",)):
                    of = lines if names != ("chain",) else [x for x in lines if x["hidden"] >= 128]
                    best = [min(r) for x in of if (r := _ratios(x, names, ours))]
                    row.append(f"{geometric(best):.2f} ({min(best):.2f})" if best else "")
                text.append(f"| {' | '.join(row)} |")
    text += ["", "*closeness*: the dependent chain's time over ours, for hidden 128 and more."]
    text += _short(found["lines"])
    failed = [f"{x['cell']} {_size(x)} {x['what']}" for x in found["lines"] if not x["accurate"]]
    said = "; ".join(failed) if failed else "none"
    text += ["", f"Lines further from float64 than 1.5 times the worst peer: {said}.", ""]
    return "\n".join(text)


def _products(line: dict[str, Any]) -> float:
    """XLA's products of a line alone, in seconds: the thin ones of each loop as the chain takes
    them, all others as fast as the large one; three times the FLOPs with gradients."""
    chain, product = (line["median"][k] for k in ("chain", "product"))
    inputs = product * line["input"] / (line["input"] + line["hidden"])
    if line["what"] == "forward":
        return chain + inputs
    return 2 * chain + 3 * inputs + (product - inputs)


def _short(lines: list[dict[str, Any]]) -> list[str]:
    """What bounds the default where PyTorch or ONNX Runtime is faster."""
    text = [
        "",
        "## Where PyTorch or ONNX Runtime is faster, and what bounds the default",
        "",
        "Milliseconds. *products*: those of XLA alone, without any of the cell's equations: the "
        "thin ones in the loops as the chain takes them, all others at the speed of the large one. "
        "Where they take longer than the peer (*), no arrangement in JAX passes it. Elsewhere it "
        "is what stands around them: [NOTES.md](../NOTES.md).",
        "",
        "| cell | (batch, time, input, hidden) | | peer | its time | default | products | native |",
        "|---|---|---|---|---|---|---|---|",
    ]
    start = len(text)
    for line in lines:
        median = line["median"]
        peers = [n for n in ("torch", "onnxruntime") if n in median]
        best = min(peers, key=median.__getitem__, default=None)
        if best is None or median[best] >= median["jaxlstm"]:
            continue
        products = _products(line)
        times = [median[best], median["jaxlstm"], products, median.get("native")]
        shown = ["" if t is None else f"{t * 1e3:.2f}" for t in times]
        shown[2] += " *" if products > median[best] else ""
        text.append(
            f"| {line['cell']} | {_size(line)} | {line['what']} | {best} | {' | '.join(shown)} |"
        )
    return text if len(text) > start else []


def plot(found: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    cells = list(dict.fromkeys(line["cell"] for line in found["lines"]))
    whats = ("forward", "forward+backward")
    figure, axes = plt.subplots(
        len(cells), 2, figsize=(11, 1 + 2.6 * len(cells)), squeeze=False, sharex=True,
        layout="constrained",
    )  # fmt: skip
    colours = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
    peers = list(dict.fromkeys(n for line in found["lines"] for n in line["ratio"]))
    style = dict(zip(peers, zip(colours, "os^vD*P")))
    for row, cell in zip(axes, cells):
        for ax, what in zip(row, whats):
            lines = [x for x in found["lines"] if x["what"] == what and x["cell"] == cell]
            for name in peers:
                at = [i for i, x in enumerate(lines) if name in x["ratio"]]
                values = [lines[i]["ratio"][name] for i in at]
                colour, marker = style[name]
                ax.plot(values, at, marker, color=colour, label=name, markersize=6)
            ax.axvline(1, color="0.4", linewidth=0.8)
            ax.set(xscale="log", title=f"{cell}, {what}", yticks=range(len(lines)))
            ax.set_yticklabels([_size(x) for x in lines])
            ax.invert_yaxis()
            ax.grid(axis="x", color="0.9")
            ax.set_xticks([0.5, 1, 2, 5, 10, 20, 50])
            ax.xaxis.set_major_formatter("{x:g}")
            ax.xaxis.set_minor_formatter("")
    for ax in axes[-1]:
        ax.set_xlabel("t_peer / t_jaxlstm (right of 1: jaxlstm is faster)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    axes[0, 0].set_xlim(0.9 * min(0.5, *(v for x in found["lines"] for v in x["ratio"].values())))
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    results = json.loads(path.read_text())
    path.with_suffix(".md").write_text(markdown(results), encoding="utf-8")
    plot(results, path.with_suffix(".png"))
