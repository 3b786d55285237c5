"""The page of the GPU benchmark."""

from collections import Counter
from typing import Any

from report import geometric

NOT_MEASURED = (
    "**These are not GPU numbers.**  They come from tiny sizes or from a machine without a GPU "
    "(JAX ran on `{backend}`, {device}), and show only that the benchmark runs to its end.  No "
    "time, ratio or memory on this page says anything about a GPU."
)


def markdown(found: dict[str, Any]) -> str:
    env, lines = found["environment"], found["lines"]
    versions = ", ".join(f"{k} {v}" for k, v in env["versions"].items() if v)
    text = ["# Beside the peers, on a GPU", ""]
    if not env["measured"]:
        text += [NOT_MEASURED.format(**env), ""]
    text += [
        f"Made by `make bench-gpu` on {env['date']}: {env['device']} ({env['platform']}), host "
        f"{env['cpu']}, Python {env['python']}, {versions}; "
        f"XLA_FLAGS: {env['xla_flags'] or 'none'}; precision of float32 products: "
        f"{env['precision']}; medians of {env['rounds']} interleaved rounds, each with "
        "the wait for the device.",
        "",
        "Microseconds per time step; in brackets `t_peer / t_jaxlstm`: above 1 jaxlstm is faster.  "
        "*chain* is the dependent chain of the small products `h r` alone, as XLA runs it (twice "
        "for forward+backward: as many products must wait on each other on the way back), and "
        "*closeness* is that limit over the time of jaxlstm.  A kernel that keeps the weights on "
        "the chip may pass it.  *product* is one large product with all the FLOPs of the job.  "
        "Temporary memory is what is needed beside arguments and results; error is the norm of "
        "that of an output or a gradient over the norm of the float64 truth, the worst of them.",
    ]
    for cell in dict.fromkeys(x["cell"] for x in lines):
        for dtype in dict.fromkeys(x["dtype"] for x in lines):
            for what in ("forward", "forward+backward"):
                some = [
                    x for x in lines if (x["cell"], x["dtype"], x["what"]) == (cell, dtype, what)
                ]
                if some:
                    text += ["", f"## {cell}, {dtype}, {what}", "", *_times(some)]
                    text += ["", *_costs(some)]
    text += ["", "## Left out", "", *_left_out(lines), ""]
    return "\n".join(text)


def _size(line: dict[str, Any]) -> str:
    return f"({','.join(str(line[k]) for k in ('batch', 'time', 'input', 'hidden'))})"


def _table(rows: list[list[str]]) -> list[str]:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], f"|{'---|' * len(rows[0])}", *lines[1:]]


def _names(lines: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(n for x in lines for n in x["error"]))


def _times(lines: list[dict[str, Any]]) -> list[str]:
    peers = [n for n in _names(lines) if n != "jaxlstm"]
    head = ["(batch, time, input, hidden)", "jaxlstm", "chain", "product", "closeness", *peers]
    rows = [head]
    for x in lines:
        us, back = x["us_per_step"], x["what"] == "forward+backward"
        chain, product = us["chain"] * (2 if back else 1), us["product"] * (3 if back else 1)
        mine = us.get("jaxlstm")
        row = [_size(x), f"{mine:.2f}" if mine else "", f"{chain:.2f}", f"{product:.2f}"]
        row.append(f"{chain / mine:.2f}" if mine else "")
        for n in peers:
            ratio = f" ({x['ratio'][n]:.2f})" if n in x["ratio"] else ""
            row.append(f"{us[n]:.2f}{ratio}" if n in us else "")
        rows.append(row)
    for name, pick in (("geometric mean", geometric), ("worst", min)):
        ratios = [[x["ratio"][n] for x in lines if n in x["ratio"]] for n in peers]
        rows.append([name, "", "", "", "", *[f"({pick(r):.2f})" if r else "" for r in ratios]])
    return _table(rows)


def _costs(lines: list[dict[str, Any]]) -> list[str]:
    """Seconds to compile, temporary MiB, and the worst error, of everyone."""
    names = _names(lines)
    rows = [["compile s / temporary MiB / error", *names]]
    for x in lines:
        row = [_size(x)]
        for n in names:
            seconds, memory = x["compile_seconds"].get(n), x["temporary_bytes"].get(n)
            entries = [
                "-" if seconds is None else f"{seconds:.2f}",
                "-" if memory is None else f"{memory / 2**20:.1f}",
                f"{max(x['error'][n].values()):.0e}" if n in x["error"] else "-",
            ]
            row.append(" / ".join(entries))
        rows.append(row)
    return _table(rows)


def _left_out(lines: list[dict[str, Any]]) -> list[str]:
    """Every reason once, with the lines that it took."""
    group = lambda x: f"{x['cell']} {x['dtype']}"
    whole = Counter(map(group, lines))
    reasons: dict[tuple[str, str], dict[str, list[str]]] = {}
    for x in lines:
        for name, reason in x["left_out"].items():
            at = reasons.setdefault((name, reason), {}).setdefault(group(x), [])
            at.append(f"{_size(x)} {x['what']}")
    entries = []
    for (name, reason), groups in reasons.items():
        where = [g if len(at) == whole[g] else f"{g} {', '.join(at)}" for g, at in groups.items()]
        entries.append(f"- {name}, {'; '.join(where)}: {reason}")
    return entries or ["Nobody."]
