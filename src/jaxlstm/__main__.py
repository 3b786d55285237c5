"""`python -m jaxlstm`: trains three recurrent networks on text and shows what they learned.

`python -m jaxlstm info` tells what this installation can do, and `python -m jaxlstm build lstm gru`
makes the kernels of cells ahead of their first use.

Stopped at any moment, even killed, the same command goes on from its checkpoint, and ends with
the same weights.

Exit codes: 0 done; 2 the arguments or the text are no good; 130 ended by Ctrl-C, with the
table, the sample and the picture of what there was.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

CELLS = ("rnn", "gru", "lstm")


def _least(kind: Callable[[str], Any], low: float) -> Callable[[str], Any]:
    def read(word: str) -> Any:
        value = kind(word)
        if not low <= value < float("inf"):
            raise argparse.ArgumentTypeError(f"must be {low:g} or more, got {word}")
        return value

    read.__name__ = kind.__name__
    return read


def _parser() -> argparse.ArgumentParser:
    whole = _least(int, 1)
    parser = argparse.ArgumentParser(
        prog="python -m jaxlstm",
        description="Trains a character-level language model with an RNN, a GRU and an LSTM of "
        "equal parameter count, and writes a table, a sample and a picture. Ctrl-C ends it "
        "with what it has.",
        epilog="`python -m jaxlstm info` tells what this installation can do; "
        "`python -m jaxlstm build CELL ...` makes the kernels of cells ahead of their first use.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--text", metavar="FILE", help="a UTF-8 text; else Python's own language reference")
    add("--cells", nargs="+", choices=CELLS, default=list(CELLS), help="which cells to train")
    add("--hidden", type=whole, default=192, help="width of the LSTM; the others follow its size")
    add("--layers", type=whole, default=1, help="layers of each network")
    add("--steps", type=whole, default=1200, help="training steps of each network")
    add("--batch", type=whole, default=32, help="streams that are read side by side")
    add("--chunk", type=whole, default=64, help="characters a step; gradients reach that far")
    add("--rate", type=_least(float, 1e-9), default=3e-3, help="highest learning rate")
    add("--sample", type=whole, default=400, help="characters that the LSTM writes")
    add("--temperature", type=_least(float, 1e-3), default=0.7, help="of the sample")
    add("--seed", type=_least(int, 0), default=0, help="of the weights and of the sample")
    add("--output", type=Path, default=Path("demo-output"), help="folder for what is written")
    add("--checkpoint", type=Path, metavar="FOLDER", help="for checkpoints; else in the output")
    add("--save", type=_least(float, 0), default=10.0, metavar="SECONDS",
        help="between two checkpoints")  # fmt: skip
    return parser


def _table(results: dict[str, Any]) -> str:
    head = ("cell", "hidden", "parameters", "s/step", "held-out bits/char")
    rows = [
        (r["cell"], r["hidden"], f"{r['parameters']:,}", f"{r['seconds_per_step']:.4f}",
         f"{r['held_out_bits']:.3f}" + (" (interrupted)" if r["interrupted"] else ""))
        for r in results["runs"]
    ]  # fmt: skip
    widths = [max(len(str(row[i])) for row in [head, *rows]) for i in range(len(head))]
    lines = ["  ".join(str(v).rjust(n) for v, n in zip(row, widths)) for row in [head, *rows]]
    lines.insert(1, "-" * len(lines[0]))
    unigram, bigram = results["unigram_entropy"], results["bigram_entropy"]
    lines.append(f"\nthe same text: unigram entropy {unigram:.3f}, bigram entropy {bigram:.3f}")
    return "\n".join(lines)


def demo(options: argparse.Namespace) -> int:
    import jax

    import jaxlstm

    from .convert import save
    from .demo import model as lm, picture
    from .demo.checkpoint import Checkpoint
    from .demo.text import check_length, entropies, load
    from .demo.train import train

    text = load(options.text)
    check_length(text, options.batch, options.chunk)
    options.output.mkdir(parents=True, exist_ok=True)
    size, bits = len(text.vocabulary), entropies(text.symbols)
    print(
        f"{text.name}: {len(text.symbols):,} characters, {size} distinct, the last "
        f"{len(text.held_out):,} held out; JAX {jax.__version__} on {jax.devices()[0]}"
    )
    checkpoint = Checkpoint(options.checkpoint or options.output / "checkpoint", options.save)
    print(f"stopped at any moment, the same command goes on from {checkpoint.folder}")

    keys = jax.random.split(jax.random.key(options.seed), len(CELLS) + 1)
    budget = lm.parameters(lm.init(keys[0], jaxlstm.lstm, size, options.hidden, options.layers))
    runs: dict[str, Any] = {}
    interrupted = False
    try:
        for name, key in zip(CELLS, keys):
            if name not in options.cells or interrupted:
                continue
            cell = getattr(jaxlstm, name)
            hidden = lm.hidden_size(cell, size, options.layers, budget)
            start = lm.init(key, cell, size, hidden, options.layers)
            how = (options.steps, options.batch, options.chunk, options.rate)
            run = train(name, start, hidden, text, *how, checkpoint)
            interrupted = run.interrupted
            if run.held_out:  # else ended before its first step
                runs[name] = run
    except KeyboardInterrupt:  # between two cells: those that are done are shown
        interrupted = True

    results = {
        "text": text.name, "characters": len(text.symbols), "distinct": size,
        "unigram_entropy": bits[0], "bigram_entropy": bits[1],
        "options": {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()},
        "jax": jax.__version__, "device": str(jax.devices()[0]),
        "runs": [
            {"cell": name, "hidden": r.hidden, "parameters": r.parameters,
             "seconds_per_step": r.seconds_per_step, "held_out_bits": r.held_out[-1][1],
             "steps": len(r.train_bits), "interrupted": r.interrupted, "held_out": r.held_out}
            for name, r in runs.items()
        ],
    }  # fmt: skip
    if not runs:
        print("ended before the first step: nothing to show.", file=sys.stderr)
        return 130
    print(_table(results))
    if "lstm" in runs:
        first = jax.numpy.asarray(text.held_out[0])
        written = lm.sample(
            keys[-1], runs["lstm"].model, first, options.sample, options.temperature
        )
        results["sample"] = text.decode(written)
        print(
            f"\nthe LSTM writes, at temperature {options.temperature:g}:\n\n{results['sample']}\n"
        )
    (options.output / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    picture.draw(options.output / "demo.png", runs, text, bits, options.batch * options.chunk)
    for name, run in runs.items():
        whole = {**run.model._asdict(), "vocabulary": text.vocabulary}
        save(options.output / f"{name}.safetensors", whole)
    weights = ", ".join(f"{name}.safetensors" for name in runs)
    print(f"written in {options.output}: demo.png, results.json, {weights}")
    if not interrupted:
        checkpoint.remove()
    return 130 if interrupted else 0


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments and arguments[0] in ("info", "build"):
        from . import _installation

        return _installation.main(arguments)
    options = _parser().parse_args(arguments)
    try:
        return demo(options)
    except KeyboardInterrupt:
        print("ended by Ctrl-C.", file=sys.stderr)
        return 130
    except ImportError as e:
        if e.name is None or e.name.split(".")[0] not in ("matplotlib", "tqdm", "safetensors"):
            raise
        print(f"the demo needs {e.name}: pip install 'jaxlstm[demo]'", file=sys.stderr)
        return 2
    except (ValueError, OSError) as e:
        from .convert import FileError
        from .demo.text import TextError

        if not isinstance(e, TextError | OSError | FileError):
            raise
        print(f"python -m jaxlstm: error: {e}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
