"""Writes `papers.md`, the page of what the papers claim: `python docs/make_papers.py`.

Made from the results in `papers/`, which `python -m jaxlstm.experiments NAME --output docs/papers`
writes; nothing is run here.
"""

import importlib
import inspect
import itertools
import pathlib
import re

from jaxlstm.experiments import shared
from jaxlstm.experiments.__main__ import NAMES

HERE = pathlib.Path(__file__).parent
PAGE = HERE / "papers.md"
HEAD = """# The papers

The experiments on which the reputation of the LSTM rests, each repeated by one command with the
library's default call. `docs/make_papers.py` writes this page from the results in `docs/papers/`,
and a test fails where the two differ.

**How to read the first table.** *ours* gives, for each network, how many of its five seeds solved
the task and, in parentheses, their mean score; where it gives something else, it says what.
`rnn` is the simple network with tanh; `lstm` starts with a forget bias of 1, and `lstm chrono` with
[chrono initialisation](recipes.md#chrono-biases-for-long-memories), so that it remembers for about
as long as the task lasts; `lstm 1997` is the first LSTM, which has no forget gate.

**The verdict** is *holds*, *does not hold* or *undecided*, by a rule that each section states.
Undecided means that these runs say nothing either way, most often because even the network that
should solve the task did not solve it within the steps that it was given. The rules were written
after the first runs, and are the same for all experiments of a kind.

**Training**, except where a section says otherwise: five networks of each kind, from five seeds,
with today's methods. Gradients go through all of time and are clipped to a norm of 1; batches are
drawn anew for every step; the optimiser is Adam (Kingma and Ba 2015), whose learning rate falls to
zero along a cosine. The papers trained on one sequence at a time, by plain gradient descent with
truncated gradients; that was not repeated, so compare numbers of sequences by their order of
magnitude only. Budgets are small: minutes on two CPU cores that other programs shared. What was
changed after a result had been seen is said in the section.

**Published figures** of Hochreiter and Schmidhuber 1997 are those of a transcript of the paper, its
tables 1, 2, 7, 8 and 9. Those of Gers et al. 2000 and of pixel MNIST are as later texts quote them.
For Weiss et al. 2018 there are the figures of the authors' notebook. Other papers could not be
opened where this page was written, and are quoted from memory: check such a figure at its source
before you rely on it.
"""
TABLES = """## How to read the other tables

*score* is the share of the test sequences that are right at every step that counts, its mean and
standard deviation over the seeds; *solved* counts the seeds that reached the score that is named
below the table; *sequences* is how many sequences these had been trained on when they did, the
median and the range; *loss* is the mean over the seeds at the end, nan where one diverged; *s/seed*
is the time of one seed in seconds, while other programs ran too. Training stops once all seeds have
solved the task, except in `continual` and `counting`."""
ARXIV, link = re.compile(r"arXiv:([\d.]+\d)"), r"[\g<0>](https://arxiv.org/abs/\1)"
# In the order of the papers' years: where each is explained.
NOTEBOOKS = {
    "gradients": 2, "reber": 3, "time_lags": 2, "adding": 1, "adding_500": 1, "adding_1000": 1,
    "multiplication": 1, "temporal_order": 2, "continual": 3, "forget_bias": 3, "copying": 1,
    "counting": 3, "pixel_mnist": 4,
}  # fmt: skip


def notebook(number):
    """`(title, path)`, as the page of the notebooks has them."""
    text = (HERE / "notebooks.md").read_text(encoding="utf-8")
    ((title, path),) = re.findall(rf"\[{number}\. ([^\]]+)\]\(([^)]+)\)", text)
    return title, path


def experiments():
    """Those that have results: name, module, results, networks that are missing."""
    assert set(NAMES) == set(NOTEBOOKS), "an experiment has no place on the page"
    for name in NOTEBOOKS:
        path = HERE / "papers" / f"{name}.json"
        if path.with_suffix(".png").exists():  # which is written last
            module = importlib.import_module(f"jaxlstm.experiments.{name}")
            results = shared.from_json(path.read_text(encoding="utf-8"))["networks"]
            missing = module.runs(False).keys() - results.keys()
            yield name, module, results, missing


def escaped(text):
    return text.replace("|", "\\|").replace("^", "\\^")


def table(rows):
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join(f"| {' | '.join(map(escaped, line))} |" for line in lines)


def learned(results):
    """How the networks learned: what is common to all once, and what is not, network by network."""
    parts = {name: next(iter(s.values()))["recipe"].split(", ") for name, s in results.items()}
    alike = [p for p in next(iter(parts.values())) if all(p in own for own in parts.values())]
    text = f"All networks: {', '.join(alike)}."
    groups = {}
    for name, own in parts.items():  # what its name says is not repeated
        rest = [p for p in own if p not in alike and not re.search(rf"\b{re.escape(p)}\b", name)]
        groups.setdefault(", ".join(rest), []).append(name)
    lines = [f"- {title(names, results)}: {own}" for own, names in groups.items() if own]
    return escaped("\n".join([text, "", *lines] if lines else [text]))


def common(lists):
    """What all begin with."""
    return [each[0] for each in itertools.takewhile(lambda e: len(set(e)) == 1, zip(*lists))]


def title(names, results):
    """Of networks that learned alike: what all of their names, and no others, begin with."""
    parts = [name.split(", ") for name in names]
    words = [first.split() for first, *_ in parts]
    start = ", ".join(common(parts)) or " ".join(common(words))
    others = [name for name in results if name not in names]
    alone = start and not any(name.startswith(start) for name in others)
    return start if alone else "; ".join(names)


def page():
    rows = [["claim", "paper", "published", "ours", "verdict", "more"]]
    sections, found = [], []
    for name, module, results, missing in experiments():
        found.append(name)
        verdict = module.verdict(results)
        if any(map(shared.unfinished, results.values())):
            verdict = verdict._replace(holds=None)
        anchor = name.replace("_", "-")
        number = NOTEBOOKS[name]
        heading, path = notebook(number)
        paper = re.sub(r', "[^"]*"(, arXiv:[\d.]+)?', "", module.PAPER)
        more = f"[command, picture](#{anchor}), [notebook {number}]({path})"
        cells = module.CLAIM, paper, module.PUBLISHED, verdict.ours, f"**{verdict}**", more
        rows.append(list(cells))
        about = inspect.cleandoc(module.__doc__).partition("\n")
        drawn = inspect.getdoc(getattr(module, "plot", shared.curves)).partition("\n")[0]
        sections += [
            f"## {name.replace('_', ' ')}",
            escaped(about[0]),
            escaped(about[2].strip()),
            f"```console\npython -m jaxlstm.experiments {name}\n```",
            f"![{escaped(drawn)}](papers/{name}.png)",
            table(shared.table(results)),
            f"**Verdict: {verdict}.** {module.RULE}",
            escaped(getattr(module, "TRIED", "")),
            f"Not run: {', '.join(sorted(missing))}." if missing else "",
            learned(results),
            f"Paper: {ARXIV.sub(link, module.PAPER)}. "
            f"Explained in [notebook {number}, {heading}]({path}).",
        ]
    lines = [HEAD, table(rows)]
    if open_ := [name for name in NOTEBOOKS if name not in found]:
        lines.append(f"\nNot run yet: {', '.join(f'`{name}`' for name in open_)}.")
    return "\n".join([*lines, "", TABLES, ""]) + "\n" + "\n\n".join(filter(None, sections)) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
