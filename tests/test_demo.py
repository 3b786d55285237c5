"""The demo: what it computes, what it writes, and what it says to bad arguments."""

import contextlib
import json
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlstm
from jaxlstm.__main__ import WHERE, _parser, main
from networks import close, some_of
from pages import ROOT

pytest.importorskip("matplotlib")
pytest.importorskip("tqdm")
pytest.importorskip("safetensors")
from jaxlstm.convert import FileError, load as read
from jaxlstm.demo import distance, model as lm, picture
from jaxlstm.demo.checkpoint import Checkpoint
from jaxlstm.demo.text import Text, entropies, load, streams
from jaxlstm.demo.train import Run, evaluate, train
from jaxlstm.experiments.shared import ctrl_c

ALONE = ["--distances"]  # the language model, without the adding problem
SMALL = [*ALONE, "--hidden", "6", "--steps", "9", "--batch", "4", "--chunk", "8", "--sample", "20"]


@contextlib.contextmanager
def promoting():
    """The demo and optax promote as JAX does by default."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def small_text(tmp_path):
    """A text that a network can learn: the same three words in turn."""
    path = tmp_path / "text.txt"
    path.write_text("one two three. " * 120, encoding="utf-8")
    return path


def test_the_text_that_every_python_carries():
    text = load(None)
    assert len(text.symbols) > 400_000
    assert text.decode(text.symbols[:50]).isprintable() or "\n" in text.decode(text.symbols[:50])
    unigram, bigram = entropies(text.symbols)
    assert 4 < unigram < 5.5
    assert 3 < bigram < unigram


def test_entropies_by_hand():
    """Two fair symbols that alternate: one bit alone, none given the one before."""
    unigram, bigram = entropies(np.array([0, 1] * 500))
    np.testing.assert_allclose([unigram, bigram], [1.0, 0.0], atol=1e-2)
    rng = np.random.default_rng(0)
    np.testing.assert_allclose(entropies(rng.integers(0, 8, 200_000)), [3.0, 3.0], atol=1e-2)


def test_streams_are_contiguous():
    assert streams(np.arange(11), 2).T.tolist() == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]


@pytest.mark.parametrize("layers", some_of((1, 2), (2,)))
def test_equal_parameter_count(layers):
    count = lambda cell, hidden: lm.parameters(
        jax.eval_shape(lambda key: lm.init(key, cell, 103, hidden, layers), jax.random.key(0))
    )
    budget = count(jaxlstm.lstm, 192)
    for cell in (jaxlstm.rnn, jaxlstm.gru):
        n = count(cell, lm.hidden_size(cell, 103, layers, budget))
        assert abs(n / budget - 1) < 0.01


def test_the_loss_is_that_of_the_equations():
    """And a text read in chunks with the state carried has the loss of the whole."""
    model = lm.init(jax.random.key(0), jaxlstm.gru, 5, 4, 1)
    symbols = np.random.default_rng(0).integers(0, 5, 2 * 41)
    ys, _ = jaxlstm.apply(model.network, model.embedding[streams(symbols, 2)[:-1]])
    logits = np.asarray(ys @ model.w + jnp.broadcast_to(model.b, (40, 2, 5)))
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    picked = np.take_along_axis(p, streams(symbols, 2)[1:, :, None], -1)
    with promoting():
        bits = evaluate(model, symbols, 2, 7)
    np.testing.assert_allclose(bits, -np.log2(picked).mean(), rtol=1e-10)


def test_the_gates_that_are_drawn_are_those_of_the_network():
    model = lm.init(jax.random.key(0), jaxlstm.lstm, 5, 4, 1)
    run = Run(model, 4, 0, 0.0, [], [], False)
    symbols = np.array([0, 3, 1, 4])
    gates, memory = picture.activations(run, symbols)
    ys, last = jaxlstm.apply(model.network, model.embedding[symbols])
    close(jnp.asarray(memory[-1]), last.c)
    close(jnp.asarray(gates["o"] * np.tanh(memory)), ys)


def test_it_learns_and_writes_everything(small_text, tmp_path, capsys):
    out = tmp_path / "out"
    small = [*SMALL, "--steps", "150", "--rate", "0.03", "--temperature", "0.1"]
    with promoting():
        assert main(["--text", str(small_text), "--output", str(out), *small]) == 0
    results = json.loads((out / "results.json").read_text())
    assert [r["cell"] for r in results["runs"]] == ["rnn", "gru", "lstm"]
    for run in results["runs"]:
        assert run["held_out_bits"] < results["unigram_entropy"] / 2
    assert len(results["sample"]) == 20
    assert (out / "demo.png").read_bytes()[:4] == b"\x89PNG"
    whole = read(out / "lstm.safetensors")
    assert whole["vocabulary"] == "".join(sorted(set("one two three. ")))
    assert whole["network"].cell == jaxlstm.lstm
    shown = capsys.readouterr().out
    for text in ("parameters", "bigram entropy", "held-out bits/char", results["sample"]):
        assert text in shown


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "cannot be read"),
        (b"", "is empty"),
        (b"short", "too short"),
        (b"\xff\xfe\x00 latin", "not UTF-8"),
    ],
    ids=["missing", "empty", "short", "latin"],
)
def test_a_bad_text_gets_one_clear_error(content, text, tmp_path, capsys):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    assert main(["--text", str(path), "--output", str(tmp_path / "out"), *SMALL]) == 2
    error = capsys.readouterr().err
    assert text in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["--hidden", "0"],
        ["--steps", "-3"],
        ["--rate", "nan"],
        ["--cells", "rwkv"],
        ["--batch", "x"],
        ["--devices", "0"],
        ["--coordinator", "localhost:1"],
        ["--process", "2", "--processes", "2", "--coordinator", "localhost:1"],
    ],
    ids=" ".join,
)
def test_bad_sizes_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_an_output_folder_that_cannot_be_made(small_text, capsys):
    arguments = ["--text", str(small_text), "--output", str(small_text / "below"), *SMALL]
    assert main(arguments) == 2
    assert str(small_text) in capsys.readouterr().err


@pytest.mark.parametrize("presses", [1, 2])
def test_an_interrupted_run_keeps_what_it_has(presses, monkeypatch, capfd):
    """The state, the curve and the model of the steps that were done; pressed again, it ends."""
    from jaxlstm.demo import train as module

    class Stopping(module.tqdm):
        def update(self, n=1):
            super().update(n)
            if self.n == 3:
                for _ in range(presses):
                    signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(module, "tqdm", Stopping)
    text = Text("text", "ab", np.array([0, 1] * 200, np.int32), 300)
    again = pytest.raises(KeyboardInterrupt) if presses == 2 else contextlib.nullcontext()
    with promoting(), again, ctrl_c("the step ends.") as pressed:
        model = lm.init(jax.random.key(0), jaxlstm.lstm, 2, 3, 1)
        run = train("lstm", model, 3, text, 50, 2, 5, 1e-2, None, pressed)
    assert "Ctrl-C: the step ends. Press it again to stop at once." in capfd.readouterr().err
    if presses == 2:
        return
    assert run.interrupted
    assert len(run.train_bits) == 3
    assert run.held_out[-1][0] == 3


def test_a_run_goes_on_to_the_same_weights(tmp_path, monkeypatch, capsys):
    """Ended by Ctrl-C, then by an error in the midst of a step, where the last step is kept."""
    from jaxlstm.demo import train as module

    class Stopping(module.tqdm):
        at = None

        def update(self, n=1):
            super().update(n)
            if self.n == self.at:
                signal.raise_signal(signal.SIGINT)
            if self.n == 20:
                raise RuntimeError("killed")

    text = Text("text", "ab", np.array([0, 1, 1] * 200, np.int32), 500)

    def run(folder, steps=30, seed=0):
        model = lm.init(jax.random.key(seed), jaxlstm.lstm, 2, 3, 1)
        with promoting(), ctrl_c("") as pressed:
            hold = Checkpoint(folder, 0.0)
            return train("lstm", model, 3, text, steps, 2, 5, 1e-2, hold, pressed)

    whole = run(tmp_path / "whole")
    folder = tmp_path / "stopped"
    monkeypatch.setattr(module, "tqdm", Stopping)
    Stopping.at = 7
    assert run(folder).interrupted
    Stopping.at = None
    with pytest.raises(RuntimeError, match="killed"):
        run(folder)
    monkeypatch.undo()
    (file,) = folder.iterdir()
    capsys.readouterr()
    again = run(folder)
    assert "lstm resumes at step 19 of 30" in capsys.readouterr().err
    assert not again.interrupted
    assert (again.train_bits, again.held_out) == (whole.train_bits, whole.held_out)
    jax.tree.map(np.testing.assert_array_equal, again.model, whole.model)
    once_more = run(folder)  # done already
    jax.tree.map(np.testing.assert_array_equal, once_more.model, whole.model)
    assert once_more.held_out == whole.held_out
    run(folder, seed=1), run(folder, steps=31)  # other runs have files of their own
    assert len([*folder.iterdir()]) == 3
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(FileError, match=file.name):
        run(folder)


@pytest.mark.slow
def test_killed_it_ends_with_the_same_weights(small_text, tmp_path, monkeypatch):
    """`kill -9` at any moment, again and again, and the same command once more."""
    monkeypatch.setenv("JAXLSTM_KERNEL", "on")
    small = ["--hidden", "24", "--steps", "8000", "--batch", "4", "--chunk", "8", "--sample", "20"]
    command = [sys.executable, "-m", "jaxlstm", "--text", str(small_text), *ALONE, *small]
    null = subprocess.DEVNULL
    command += ["--save", "0.05", "--cells", "lstm", "--output"]
    subprocess.run([*command, tmp_path / "whole"], check=True, capture_output=True, timeout=400)
    rng, folder = np.random.default_rng(0), tmp_path / "killed" / "checkpoint"

    def times():
        return [file.stat().st_mtime_ns for file in folder.glob("*.safetensors")]

    for _ in range(3):
        before = times()
        with subprocess.Popen([*command, tmp_path / "killed"], stderr=null) as process:
            while process.poll() is None and times() == before:
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.7))
            process.kill()
        assert process.returncode == -signal.SIGKILL
    command += [tmp_path / "killed"]
    done = subprocess.run(command, check=True, capture_output=True, timeout=400)
    assert b"resumes at step" in done.stderr
    one, other = (read(tmp_path / way / "lstm.safetensors") for way in ("whole", "killed"))
    jax.tree.map(np.testing.assert_array_equal, one, other)
    assert not times()  # done, they are removed


@pytest.mark.slow
def test_a_text_in_any_script_is_drawn_without_warnings(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("天地\t玄黄\0$_^\\{. \n" * 60, encoding="utf-8")
    small = [*SMALL, "--cells", "lstm", "--output", str(tmp_path / "out")]
    with promoting():
        assert main(["--text", str(path), *small]) == 0


def test_an_end_between_two_cells_shows_those_that_are_done(
    monkeypatch, small_text, tmp_path, capsys
):
    """And says by its exit code that it was ended."""
    from jaxlstm.demo import train as module

    def stopping(name, *args):
        run = train(name, *args)
        signal.raise_signal(signal.SIGINT)
        return run

    monkeypatch.setattr(module, "train", stopping)
    out = tmp_path / "out"
    with promoting():
        assert main(["--text", str(small_text), "--output", str(out), *SMALL]) == 130
    results = json.loads((out / "results.json").read_text())
    assert [r["cell"] for r in results["runs"]] == ["rnn"]
    assert (out / "demo.png").exists()
    assert "rnn" in capsys.readouterr().out


ADDING = ["--distances", "12", "14", "--adding-steps", "50", "--adding-seeds", "2"]


@pytest.mark.slow
def test_the_adding_problem_comes_first(small_text, tmp_path, capsys):
    """Every cell, with a figure for each seed; then the language model."""
    out = tmp_path / "out"
    arguments = [*SMALL, "--distances", "12", "--adding-steps", "2", "--adding-seeds", "2"]
    arguments += ["--cells", "rnn", "lstm"]
    with promoting(), jax.enable_x64(False):
        assert main(["--text", str(small_text), "--output", str(out), *arguments]) == 0
    results = json.loads((out / "results.json").read_text())
    found = [distance.Learned(**each) for each in results["adding"]]
    assert [(f.cell, f.distance) for f in found] == [("rnn", 12), ("lstm", 12)]
    assert all(f.steps == 2 and len(set(f.errors)) == 2 for f in found)
    assert max(f.weights for f in found) < 1.05 * min(f.weights for f in found)
    assert [r["cell"] for r in results["runs"]] == ["rnn", "lstm"]
    assert (out / "adding.png").read_bytes()[:4] == b"\x89PNG"
    assert not (out / "checkpoint" / "adding.json").exists()  # done, it is removed
    shown = capsys.readouterr().out
    assert shown.index("T = 12") < shown.index("held-out bits/char")


def test_the_table_of_the_adding_problem():
    """A row for each cell, also where Ctrl-C left some of its distances out."""
    learned = lambda cell, length, *errors: distance.Learned(cell, length, 1000, 5, list(errors))
    found = [learned("rnn", 20, 0.5, 0.01), learned("gru", 10, 0.1, 0.3), learned("rnn", 10, 0, 1)]
    assert distance.table(found) == [
        ("cell", "weights", "T = 10", "T = 20"),
        ("rnn", "1,000", "0.500 (0.000 to 1.000)", "0.255 (0.010 to 0.500)"),
        ("gru", "1,000", "0.200 (0.100 to 0.300)", ""),
    ]


@pytest.mark.slow
def test_ctrl_c_in_the_adding_problem_shows_what_there_is(tmp_path, monkeypatch, capfd):
    """It says at once what comes then, leaves the text out, and resumes to the same numbers."""
    from jaxlstm.experiments import shared

    class Stopping(shared.tqdm):
        at = 0

        def update(self, n=1):
            super().update(n)
            Stopping.at += n
            if Stopping.at == 75:  # in the midst of the second of the two
                signal.raise_signal(signal.SIGINT)

    def run(folder):
        arguments = [*SMALL, *ADDING, "--cells", "rnn", "--output", str(tmp_path / folder)]
        with promoting(), jax.enable_x64(False):
            code = main(arguments)
        return code, json.loads((tmp_path / folder / "results.json").read_text())

    code, whole = run("whole")
    assert code == 0
    with monkeypatch.context() as patch:
        patch.setattr(shared, "tqdm", Stopping)
        code, stopped = run("stopped")
    assert code == 130
    assert stopped["adding"] == whole["adding"][:1]
    assert stopped["runs"] == []
    assert (tmp_path / "stopped" / "adding.png").exists()
    assert not (tmp_path / "stopped" / "demo.png").exists()
    assert "Ctrl-C: finishing and saving the current step" in capfd.readouterr().err
    code, resumed = run("stopped")
    assert code == 0
    assert resumed["adding"] == whole["adding"]
    assert resumed["runs"][0]["held_out"] == whole["runs"][0]["held_out"]
    assert "14: 100%" in capfd.readouterr().err


def test_a_loss_that_diverged_is_written_as_null(small_text, tmp_path, monkeypatch):
    """JSON has no NaN."""
    monkeypatch.setattr(jaxlstm.demo.train, "evaluate", lambda *_: float("nan"))
    small = [*SMALL, "--cells", "rnn"]
    with promoting():
        assert main(["--text", str(small_text), "--output", str(tmp_path), *small]) == 0
    text = (tmp_path / "results.json").read_text()
    results = json.loads(text, parse_constant=lambda token: pytest.fail(f"{token} is no JSON"))
    assert results["runs"][0]["held_out_bits"] is None


def test_a_file_that_holds_no_results_of_the_adding_problem(tmp_path, capsys):
    (tmp_path / "adding.json").write_text("[]")
    arguments = [*SMALL, *ADDING, "--output", str(tmp_path), "--checkpoint", str(tmp_path)]
    assert main(arguments) == 2
    assert "adding.json does not hold the results" in capsys.readouterr().err


@pytest.mark.slow
def test_killed_in_the_adding_problem_it_ends_with_the_same_numbers(tmp_path):
    command = [sys.executable, "-m", "jaxlstm", *SMALL, *ADDING, "--adding-steps", "1000"]
    command += ["--cells", "rnn", "--output"]
    subprocess.run([*command, tmp_path / "whole"], check=True, capture_output=True, timeout=400)
    kept = tmp_path / "killed" / "checkpoint" / "adding.json"
    null = subprocess.DEVNULL
    with subprocess.Popen([*command, tmp_path / "killed"], stdout=null, stderr=null) as process:
        while process.poll() is None and not kept.exists():
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    subprocess.run([*command, tmp_path / "killed"], check=True, capture_output=True, timeout=400)
    one, other = (
        json.loads((tmp_path / way / "results.json").read_text()) for way in ("whole", "killed")
    )
    assert one["adding"] == other["adding"]
    weights = [read(tmp_path / way / "rnn.safetensors") for way in ("whole", "killed")]
    jax.tree.map(np.testing.assert_array_equal, *weights)


README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = json.loads((ROOT / "docs" / "demo_results.json").read_text(encoding="utf-8"))
ADDED = [distance.Learned(**each) for each in RESULTS["adding"]]


def test_the_readme_shows_what_the_demo_wrote():
    """Its figures are those of a run with the default options."""
    given = {k: v for k, v in vars(_parser().parse_args([])).items() if k not in WHERE}
    assert {k: v for k, v in RESULTS["options"].items() if k != "output"} == {
        k: v for k, v in given.items() if k != "output"
    }
    for cell, *figures in distance.table(ADDED)[1:]:
        assert f"| `{cell}` | {' | '.join(figures)} |" in README
    for r in RESULTS["runs"]:
        row = f"| `{r['cell']}` | {r['hidden']} | {r['parameters']:,} | {r['held_out_bits']:.2f} |"
        assert row in README
    unigram, bigram = RESULTS["unigram_entropy"], RESULTS["bigram_entropy"]
    assert f"| {unigram:.2f} / {bigram:.2f} |" in README
    minutes, seconds = divmod(round(RESULTS["cpu_seconds"]), 60)
    assert f"JAX {RESULTS['jax']}, {minutes} min {seconds} s of CPU time in all" in README
    assert RESULTS["cpu_seconds"] < 240  # two quiet cores need less


def test_the_picture_is_that_of_these_figures(tmp_path):
    from matplotlib.image import imread

    picture.draw_distances(tmp_path / "adding.png", ADDED)
    drawn, shown = (imread(p) for p in (tmp_path / "adding.png", ROOT / "docs" / "adding.png"))
    assert drawn.shape == shown.shape
    assert np.abs(drawn - shown).mean() < 0.01


@pytest.mark.slow
def test_ctrl_c_ends_it_cleanly(small_text, tmp_path):
    command = [sys.executable, "-m", "jaxlstm", "--text", str(small_text), *SMALL]
    command += ["--steps", "100000000", "--cells", "lstm", "--output", str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        seen = b""
        while b"char/s" not in seen:  # the first steps are done
            seen += process.stderr.read1(200)
            assert process.poll() is None, seen
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert b"Traceback" not in err
    assert b"(interrupted)" in out
    assert b"Ctrl-C: finishing and saving the current step" in err
    assert (tmp_path / "out" / "demo.png").exists()
