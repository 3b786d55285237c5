"""The benchmarks run to their end, without peers; and refuse what computes something else."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

pytestmark = pytest.mark.skipif(not BENCHMARKS.exists(), reason="the source tree has benchmarks")


def run(*args):
    call = [sys.executable, *args]
    return subprocess.run(call, cwd=BENCHMARKS, capture_output=True, text=True, check=False)


def found(path):
    return json.loads(path.with_suffix(".json").read_text()), path.with_suffix(".md").read_text()


@pytest.mark.slow
def test_the_gpu_benchmark_runs_tiny_and_says_that_it_measured_nothing(tmp_path):
    output = tmp_path / "gpu"
    options = "--tiny --cells gru --dtypes bfloat16 --sizes 2,3,4,5 --peers scan equinox --rounds 1"
    done = run("gpu.py", *options.split(), "--output", str(output))
    assert done.returncode == 0, done.stderr
    results, page = found(output)
    assert not results["environment"]["measured"]
    assert "These are not GPU numbers" in page
    assert [x["what"] for x in results["lines"]] == ["forward", "forward+backward"]
    for line in results["lines"]:
        timed, left_out = set(line["us_per_step"]), set(line["left_out"])
        assert timed >= {"jaxlstm", "scan", "chain", "product"}
        assert {"equinox"} == (left_out | timed) - {"jaxlstm", "scan", "chain", "product"}  # either
        assert 0 < max(line["error"]["jaxlstm"].values()) < 0.05  # bfloat16, not float32


def test_streaming_runs_without_peers(tmp_path):
    output = tmp_path / "streaming"
    options = "--cells lstm --sizes 3,4 --blocks 1 2 --calls 1 --peers"
    done = run("streaming.py", "--output", str(output), *options.split())
    assert done.returncode == 0, done.stderr
    results, page = found(output)
    ran = [set(x["latency_us"]) - {"native"} for x in results["lines"]]
    assert ran == [{"step", "block", "empty"}, {"block", "empty"}]
    assert "| 3, 4 | 2 |" in page


@pytest.mark.slow
def test_every_cell_beside_scan(tmp_path):
    output = tmp_path / "cells"
    options = "--cells lstm damped_average --sizes 2,3,4,4 --rounds 1 --output"
    done = run("cells.py", *options.split(), str(output))
    assert done.returncode == 0, done.stderr
    results, page = found(output)
    assert [(x["cell"], x["runs"]) for x in results["lines"][::2]] == [
        ("lstm", "deferred"), ("damped_average", "scan"),
    ]  # fmt: skip
    assert "| `lstm` | `deferred` |" in page
    assert "| worst | |" in page


def test_the_readme_has_the_figures_of_the_results():
    results = "json.load(open('results/cpu.json'))"
    done = run("-c", f"import json, report; print(*report.summary({results}), sep='\\n')")
    assert done.returncode == 0, done.stderr
    assert done.stdout in (BENCHMARKS.parent / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_cpu_benchmark_runs_small_and_measures_the_default_first(tmp_path):
    output = tmp_path / "cpu"
    options = "--small --rounds 1 --peers scan torch"
    done = run("cpu.py", "--output", str(output), *options.split())
    assert done.returncode == 0, done.stderr
    results, page = found(output)
    sizes = [(x["cell"], x["sizes"]) for x in results["lines"] if x["what"] == "forward"]
    assert [cell for cell, _ in sizes] == ["lstm", "lstm", "projected_lstm", "mingru"]
    words = ("bidirectional", "population of 2", "reset", "masked", "bfloat16")
    assert all(any(word in size for _, size in sizes) for word in words)
    for line in results["lines"]:
        ours = [name for name in line["median"] if name not in ("torch", "chain", "product")]
        assert ours == ["jaxlstm", "scan"]
        assert 0 < max(line["error"]["jaxlstm"].values()) < 0.05
    assert "| (batch, time, input, hidden) | ms | scan |" in page
    assert results["crowding"][0]["name"] == "jaxlstm"
    processes = [x["process"] for x in results["first_use"]]
    assert processes == ["first", "second", "without the kernel"]
    assert "| first |" in page
    assert output.with_suffix(".png").exists()


REFUSALS = """
import gpu, numpy as np, streaming
from cases import Case, sample
from peers import Job

case = Case("lstm", 2, 3, 4, 5)
data = sample(case)
true = gpu.truth(case, data)["forward"]
job = gpu.ours(case, data)["forward"]
assert gpu.judge(job, true, np.float32, 1e-5)
for change, reason in (
    (lambda r: r._replace(ys=r.ys + 1e-2), "does not compute the same"),
    (lambda r: r._replace(last=(r.last[0], r.last[1] * np.nan)), "does not compute the same"),
    (lambda r: r._replace(ys=r.ys.astype(np.float16)), "computes in float16"),
):
    _, words = gpu.attempt(
        lambda: gpu.judge(Job(job.run, lambda: change(job.result())), true, np.float32, 1e-3)
    )
    assert words and reason in words, words

blocks = np.ones((1, 2, 1, 4), np.float32)
streaming.same({"block": lambda x: x, "other": lambda x: x + 1e-5}, blocks, "here")
for other in (lambda x: x + 1e-3, lambda x: x * np.nan, lambda x: x[0]):
    try:
        streaming.same({"block": lambda x: x, "other": other}, blocks, "here")
    except SystemExit as e:
        assert "other does not compute the same" in str(e)
    else:
        raise AssertionError("not refused")
print("all refused")
"""


@pytest.mark.slow
def test_what_computes_something_else_is_refused():
    done = run("-c", REFUSALS)
    assert done.stdout == "all refused\n", done.stderr


@pytest.mark.slow
def test_newton_runs_small_and_adds_to_what_is_there(tmp_path):
    output = tmp_path / "newton"
    options = "--times 20 --widths 8 --cells gru --rounds 1 --training 2"
    for more in ((), ("--add",)):
        done = run("newton.py", "--output", str(output), *options.split(), *more)
        assert done.returncode == 0, done.stderr
    results, page = found(output)
    kinds = [(x["dtype"], x["training"]) for x in results["lines"]]
    assert kinds == 2 * [("float32", 0), ("float64", 0), ("float32", 2), ("float64", 2)]
    assert all(set(x["forward+backward"]) == {"newton", "scan"} for x in results["lines"])
    assert "| gru | 8 | initial | float32 | 20 |" in page
