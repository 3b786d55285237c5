"""`python -m jaxlstm`: trains three recurrent networks and shows what they learned.

First on the adding problem over growing distances, to see where each stops learning; then on text,
with a sample of what the LSTM writes.

`python -m jaxlstm info` shows what this installation can do, and `python -m jaxlstm build lstm gru`
compiles the kernels of cells ahead of their first use.

If it is stopped or killed at any moment, the same command resumes from its checkpoint, and ends
with the same weights.

Exit codes: 0 done; 2 the arguments, the text or the cluster are invalid; 130 ended by Ctrl-C,
with the tables, the sample and the pictures of what there was.
"""

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

CELLS = ("rnn", "gru", "lstm")
WHERE = ("devices", "coordinator", "processes", "process", "wait")  # options that say where it runs


def _least(kind: Callable[[str], Any], low: float) -> Callable[[str], Any]:
    def read(word: str) -> Any:
        value = kind(word)
        if not low <= value < float("inf"):
            raise argparse.ArgumentTypeError(f"must be {low:g} or more, got {word}")
        return value

    read.__name__ = kind.__name__
    return read


def _address(word: str) -> str:
    host, _, port = word.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 2**16:
        raise argparse.ArgumentTypeError(f"must be HOST:PORT, such as node1:1234, got {word}")
    return word


def _parser() -> argparse.ArgumentParser:
    whole = _least(int, 1)
    parser = argparse.ArgumentParser(
        prog="python -m jaxlstm",
        description="Trains an RNN, a GRU and an LSTM of equal parameter count, first on the "
        "adding problem over growing distances, then as language models of characters, and writes "
        "tables, a sample and pictures. Ctrl-C stops the training and shows what there is so far.",
        epilog="`python -m jaxlstm info` shows what this installation can do; "
        "`python -m jaxlstm build CELL ...` compiles kernels of cells ahead of their first use.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--distances", nargs="*", type=_least(int, 12), default=[25, 50, 100, 200], metavar="T",
        help="lengths of the sequences of the adding problem; pass none to skip it")  # fmt: skip
    add("--adding-steps", type=whole, default=500, help="most training steps for each length")
    add("--adding-seeds", type=whole, default=3, help="networks trained for each length")
    add("--text", metavar="FILE", help="a UTF-8 text; by default Python's own language reference")
    add("--cells", nargs="+", choices=CELLS, default=list(CELLS), help="which cells to train")
    add("--hidden", type=whole, default=192, help="units of the LSTM; other cells have its weights")
    add("--layers", type=whole, default=1, help="layers of each language model")
    add("--steps", type=whole, default=900, help="training steps of each language model")
    add("--batch", type=whole, default=32, help="streams that are read side by side, rounded up to "
        "a multiple of the devices")  # fmt: skip
    add("--chunk", type=whole, default=64, help="characters a step; gradients reach that far")
    add("--rate", type=_least(float, 1e-9), default=3e-3, help="highest learning rate")
    add("--sample", type=whole, default=400, help="characters that the LSTM writes")
    add("--temperature", type=_least(float, 1e-3), default=0.7, help="of the sample")
    add("--seed", type=_least(int, 0), default=0, help="of the language models and the sample")
    add("--output", type=Path, default=Path("demo-output"), help="folder for the results")
    add("--checkpoint", type=Path, metavar="FOLDER", help="folder for checkpoints; by default in "
        "the folder for the results")  # fmt: skip
    add("--save", type=_least(float, 0), default=10.0, metavar="SECONDS",
        help="time between two checkpoints")  # fmt: skip
    add("--devices", type=whole, metavar="N", help="how many devices share the batch; by default "
        "all of them")  # fmt: skip
    add("--coordinator", type=_address, metavar="HOST:PORT",
        help="of a cluster that JAX does not detect")  # fmt: skip
    add("--processes", type=whole, metavar="N", help="number of processes in such a cluster")
    add("--process", type=_least(int, 0), metavar="I", help="which of these processes this is")
    add("--wait", type=whole, default=300, metavar="SECONDS", help="for the other processes")
    return parser


def _lines(rows: Sequence[Sequence[Any]]) -> list[str]:
    widths = [max(len(str(row[i])) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(str(v).rjust(n) for v, n in zip(row, widths)) for row in rows]
    lines.insert(1, "-" * len(lines[0]))
    return lines


def _table(results: dict[str, Any]) -> str:
    head = ("cell", "hidden", "parameters", "s/step", "held-out bits/char")
    rows = [
        (r["cell"], r["hidden"], f"{r['parameters']:,}", f"{r['seconds_per_step']:.4f}",
         f"{r['held_out_bits']:.3f}" + (" (interrupted)" if r["interrupted"] else ""))
        for r in results["runs"]
    ]  # fmt: skip
    lines = _lines([head, *rows])
    unigram, bigram = results["unigram_entropy"], results["bigram_entropy"]
    lines.append(f"\nthe same text: unigram entropy {unigram:.3f}, bigram entropy {bigram:.3f}")
    return "\n".join(lines)


def demo(options: argparse.Namespace) -> int:
    import jax

    from .experiments.shared import ctrl_c

    if jax.process_count() > 1:  # the others would wait for one that ends
        shown = sys.stdout if jax.process_index() == 0 else io.StringIO()
        with contextlib.redirect_stdout(shown):
            return _demo(options, ())
    then = (
        "finishing and saving the current step; then come the tables, the sample and the pictures "
        "of what there is so far."
    )
    with ctrl_c(then) as pressed:
        return _demo(options, pressed)


def _demo(options: argparse.Namespace, pressed: Sequence[int]) -> int:
    import jax

    import jaxlstm

    from .convert import save
    from .demo import distance, model as lm, picture
    from .demo.checkpoint import Checkpoint
    from .demo.devices import Devices
    from .demo.text import check_length, entropies, load
    from .demo.train import train
    from .experiments.shared import to_json

    devices = Devices(options.devices)
    count = len(devices.all)
    batch = -(-options.batch // count) * count
    text = load(options.text)
    check_length(text, batch, options.chunk)
    options.output.mkdir(parents=True, exist_ok=True)
    checkpoint = Checkpoint(options.checkpoint or options.output / "checkpoint", options.save)
    print(f"JAX {jax.__version__} on {devices}")
    print(f"if this is stopped, the same command resumes from {checkpoint.folder}")
    cells = [name for name in CELLS if name in options.cells]
    written: list[str] = []

    added: list[distance.Learned] = []
    if options.distances and devices.alone:  # its networks are too small to share out
        print(
            "\nthe adding problem: remember two marked numbers of a sequence of T steps", flush=True
        )
        how = (cells, options.distances, options.adding_steps, options.adding_seeds)
        added = distance.measure(*how, checkpoint.path("adding.json"), pressed)
    if added:
        print("\n".join(_lines(distance.table(added))))
        print(
            "squared error relative to a network that remembers nothing: mean (range) of "
            f"{options.adding_seeds} seeds, {options.adding_steps} training steps at most"
        )
        picture.draw_distances(options.output / "adding.png", added)
        written.append("adding.png")

    size, bits = len(text.vocabulary), entropies(text.symbols)
    runs: dict[str, Any] = {}
    keys = jax.random.split(jax.random.key(options.seed), len(CELLS) + 1)
    budget = lm.parameters(lm.init(keys[0], jaxlstm.lstm, size, options.hidden, options.layers))
    if not pressed:
        print(
            f"\n{text.name}: {len(text.symbols):,} characters, {size} distinct, the last "
            f"{len(text.held_out):,} held out; {batch} streams side by side",
            flush=True,
        )
    for name, key in zip(CELLS, keys):
        if name not in cells or pressed:
            continue
        cell = getattr(jaxlstm, name)
        hidden = lm.hidden_size(cell, size, options.layers, budget)
        start = lm.init(key, cell, size, hidden, options.layers)
        how = (options.steps, batch, options.chunk, options.rate)
        runs[name] = train(name, start, hidden, text, *how, checkpoint, pressed, devices)
    if jax.process_index():  # the first has the same, and writes it
        return 0

    results = {
        "text": text.name, "characters": len(text.symbols), "distinct": size,
        "unigram_entropy": bits[0], "bigram_entropy": bits[1],
        "options": {
            k: str(v) if isinstance(v, Path) else v
            for k, v in {**vars(options), "batch": batch}.items() if k not in WHERE
        },
        "jax": jax.__version__, "device": str(devices),
        "adding": [each._asdict() for each in added],
        "runs": [
            {"cell": name, "hidden": r.hidden, "parameters": r.parameters,
             "seconds_per_step": r.seconds_per_step, "held_out_bits": r.held_out[-1][1],
             "steps": len(r.train_bits), "interrupted": r.interrupted, "held_out": r.held_out}
            for name, r in runs.items()
        ],
    }  # fmt: skip
    if not runs and not added:
        print("ended before a network was trained: nothing to show.", file=sys.stderr)
        return 130
    if runs:
        print(_table(results))
        per_step = batch * options.chunk
        picture.draw(options.output / "demo.png", runs, text, bits, per_step)
        written.append("demo.png")
    if "lstm" in runs:
        first = jax.numpy.asarray(text.held_out[0])
        sampled = lm.sample(
            keys[-1], runs["lstm"].model, first, options.sample, options.temperature
        )
        results["sample"] = text.decode(sampled)
        print(
            f"\nthe LSTM writes, at temperature {options.temperature:g}:\n\n{results['sample']}\n"
        )
    for name, run in runs.items():
        whole = {**run.model._asdict(), "vocabulary": text.vocabulary}
        save(options.output / f"{name}.safetensors", whole)
        written.append(f"{name}.safetensors")
    user, system, *children, _ = os.times()  # the compiler of the kernel is a child
    results["cpu_seconds"] = round(user + system + sum(children), 1)  # of this command
    (options.output / "results.json").write_text(to_json(results, indent=1), encoding="utf-8")
    names = ", ".join([*written, "results.json"])
    print(f"written in {options.output}: {names}; {results['cpu_seconds']:.0f} s of CPU time")
    if not pressed:
        checkpoint.remove()
    return 130 if pressed else 0


def main(arguments: Sequence[str] | None = None) -> int:
    command = arguments is None  # then JAX has not begun
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments and arguments[0] in ("info", "build"):
        from . import _installation

        return _installation.main(arguments)
    parser = _parser()
    options = parser.parse_args(arguments)
    cluster = options.coordinator, options.processes, options.process
    if 0 < cluster.count(None) < 3:
        parser.error("--coordinator, --processes and --process are given together")
    if options.process is not None and options.process >= options.processes:
        parser.error(f"--process must be below {options.processes}; got {options.process}")
    try:
        if command or options.coordinator:
            from .demo.cluster import join

            join(*cluster, options.wait)
        return demo(options)
    except KeyboardInterrupt:
        print("ended by Ctrl-C.", file=sys.stderr)
        return 130
    except ImportError as e:
        if e.name is None or e.name.split(".")[0] not in (
            "matplotlib",
            "optax",
            "tqdm",
            "safetensors",
        ):
            raise
        print(f"the demo needs {e.name}: pip install 'jaxlstm[demo]'", file=sys.stderr)
        return 2
    except (ValueError, OSError) as e:
        from .convert import FileError
        from .demo.cluster import ClusterError
        from .demo.text import TextError
        from .experiments.shared import ResultsError

        if not isinstance(e, TextError | OSError | FileError | ResultsError | ClusterError):
            raise
        print(f"python -m jaxlstm: error: {e}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
