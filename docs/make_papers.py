"""Writes `papers.md`, the page of what the papers claim: `python docs/make_papers.py`.

Made from the results in `papers/`, which `python -m jaxlstm.experiments NAME --output docs/papers`
writes; nothing is run here.
"""

import importlib
import inspect
import json
import pathlib

from jaxlstm.experiments import shared
from jaxlstm.experiments.__main__ import NAMES

HERE = pathlib.Path(__file__).parent
PAGE = HERE / "papers.md"
HEAD = """# The papers

What made the LSTM believed, run again by one command each, on the library's default call. This page
is made by `docs/make_papers.py` from the results in `docs/papers/`, and a test keeps it true.

Every run here trains five networks of each kind, from five seeds, on two shared CPU cores with
today's means: Adam (Kingma and Ba 2015) whose rate falls along a cosine, gradients of norm 1 at
most, batches, and gradients through all of time. The papers' own training (one sequence at a time,
plain gradient descent, gradients cut) was not repeated, so that numbers of sequences compare in
their order of size alone. Sequences are drawn anew and never seen twice. The budgets are small: a
network that has not solved a task here has not solved it *within them*. Nothing was tuned on the
results but what a row says.

**Published figures** are quoted from the papers as we know them. The papers themselves could not be
opened where this page was made; check a figure at its source before you rely on it.

*Solved* says at which score a task counts as solved; it is named under each table.
"""


def experiments():
    """Those that have results: name, module, results."""
    # In the order of the papers' years.
    order = (
        "gradients", "reber", "time_lags", "adding", "adding_500", "adding_1000", "multiplication",
        "temporal_order", "continual", "forget_bias", "copying", "counting", "pixel_mnist",
    )  # fmt: skip
    assert set(NAMES) <= set(order), "an experiment has no place on the page"
    for name in order:
        path = HERE / "papers" / f"{name}.json"
        if path.with_suffix(".png").exists():  # which is written last
            module = importlib.import_module(f"jaxlstm.experiments.{name}")
            results = json.loads(path.read_text(encoding="utf-8"))["networks"]
            missing = module.runs(False).keys() - results.keys()
            yield name, module, results, missing


def page():
    lines = [HEAD, "| claim | paper | published | ours | verdict |", "|---|---|---|---|---|"]
    sections, found = [], [name for name, *_ in experiments()]
    for name, module, results, missing in experiments():
        holds, ours = module.verdict(results)
        verdict = "holds" if holds else "not here"
        title = name.replace("_", " ")
        cells = (module.CLAIM, module.PAPER, module.PUBLISHED, ours)
        texts = (cell.replace("|", "\\|").replace("^", "\\^") for cell in cells)
        lines.append(f"| {' | '.join(texts)} | [{verdict}](#{name.replace('_', '-')}) |")
        about = inspect.cleandoc(module.__doc__).partition("\n")
        rows = shared.table(results)
        recipes = dict.fromkeys(next(iter(seeds.values()))["recipe"] for seeds in results.values())
        sections += [
            f"## {title}",
            about[0],
            about[2].strip(),
            f"```console\npython -m jaxlstm.experiments {name}\n```",
            f"![{title}](papers/{name}.png)",
            "\n".join(
                [
                    "| " + " | ".join(rows[0]) + " |",
                    "|" + "---|" * len(rows[0]),
                    *("| " + " | ".join(row) + " |" for row in rows[1:]),
                ]
            ).replace("^", "\\^"),
            getattr(module, "TRIED", ""),
            f"Not run: {', '.join(sorted(missing))}." if missing else "",
            "How they learned:\n\n" + "\n".join(f"- {recipe}" for recipe in recipes),
        ]
    open_ = sorted(set(NAMES) - set(found))
    if open_:
        lines.append(f"\nNot run yet: {', '.join(f'`{name}`' for name in open_)}.")
    return "\n".join(lines) + "\n\n" + "\n\n".join(s for s in sections if s) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
