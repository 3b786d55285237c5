"""The page on what is said about the LSTM: its figures are those of the stored results."""

import json
import pathlib
import re
import statistics

import nbformat
import pytest

ROOT = pathlib.Path(__file__).parents[1]
TEXT = " ".join((ROOT / "docs" / "article.md").read_text(encoding="utf-8").split())


def papers(name):
    return json.loads((ROOT / "docs" / "papers" / f"{name}.json").read_text())["networks"]


def solved(seeds):
    return f"{sum(s['sequences'] is not None for s in seeds.values())} of {len(seeds)}"


@pytest.mark.parametrize(
    ("name", "wording"),
    [
        ("rnn", "plain network"),
        ("gru", "GRU, default start"),
        ("lstm", "LSTM, forget bias 1"),
        ("lstm chrono", "LSTM, chrono start"),
        ("lstm 1997", "LSTM of 1997"),
    ],
)
def test_the_adding_problem(name, wording):
    seeds = papers("adding")[f"{name}, T = 100"]
    right = [100 * seed["score"] for seed in seeds.values()]
    figures = f"{statistics.fmean(right):.1f} % ({min(right):.1f} to {max(right):.1f})"
    assert f"| {wording} | {figures} | {solved(seeds)} |" in TEXT


def test_gradients():
    found = papers("gradients")
    for scale in ("0.8", "1.3", "2.0"):
        flow = next(iter(found[f"tanh {scale}, free"].values()))["flow"][0]
        assert f"{flow:.1e} at {scale}" in TEXT
    with_, without = (solved(found[f"tanh 2.0, {kind}"]) for kind in ("clipped", "free"))
    assert f"with clipping in {with_} seeds, and without it in {without}" in TEXT


def test_the_forget_gate():
    found = papers("continual")
    old, new = solved(found["lstm 1997"]), solved(found["lstm"])
    assert f"{old} seeds of the LSTM of 1997 solves the task, and {new} with a forget gate" in TEXT
    page = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")
    (memory,) = re.findall(r"grows to ([\d,]+) on a stream", TEXT)
    assert f"largest memory {memory}" in page  # which a test holds to the results


def test_gru_beside_lstm():
    found = json.loads((ROOT / "benchmarks" / "results" / "gru_beside_lstm.json").read_text())
    rows = {
        "adding problem": ("adding problem, squared error", 4),
        "MNIST-1D": ("MNIST-1D, share of errors", 3),
        "characters": ("characters, bits a character", 3),
    }
    assert found.keys() == rows.keys()
    for task, (wording, digits) in rows.items():
        last = [[c[-1] for c in seeds] for seeds in found[task]["curves"].values()]
        cells = [
            f"{statistics.fmean(a):.{digits}f} ± {statistics.stdev(a):.{digits}f}" for a in last
        ]
        assert f"| {wording} | {' | '.join(cells)} |" in TEXT


def test_the_page_of_cells():
    found = json.loads((ROOT / "benchmarks" / "results" / "cells_on_tasks.json").read_text())
    lstm, gru = (found["mnist1d"][name]["accuracy"] for name in ("lstm", "gru"))
    assert f"the LSTM is right on {lstm:.1f} % and the GRU on {gru:.1f} %" in TEXT
    margin = 2 * (lstm * (100 - lstm) / 1000) ** 0.5  # of 1,000 test sequences
    assert abs(lstm - gru) < margin


def test_pixel_by_pixel():
    scores = (papers("pixel_mnist")[name]["0"]["score"] for name in ("gru", "lstm chrono"))
    gru, lstm = (f"{100 * score:.1f} %" for score in scores)
    assert f"the GRU is right on {gru} and an LSTM with chrono initialisation on {lstm}" in TEXT


def printed(start):
    (path,) = (ROOT / "notebooks").glob(f"{start}*.ipynb")
    cells = [c for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
    return " ".join(o.get("text", "") for cell in cells for o in cell.outputs)


def test_notebook_2():
    shown = printed("02")
    for wording, words in (
        ("a factor of {} a step", r"by a factor ([\d.]+) a step"),
        ("halves every {} steps", r"halves every ([\d.]+) steps"),
        ("and {} at 5", r"derivative of tanh at z = 5: ([\d.]+)"),
        ("grows by {} in 30 steps", r"unit 2 at 1: norm of dh_30/dh_0 ([\d.e+]+)"),
    ):
        (figure,) = re.findall(words, shown)
        assert wording.format(figure) in TEXT


def test_every_link_to_a_notebook():
    for name in re.findall(r"\(notebooks/([^)]+)\)", TEXT):
        assert (ROOT / "notebooks" / name).is_file(), name
