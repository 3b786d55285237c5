"""`python -m jaxlstm.experiments NAME`: runs what a paper did, and says whether it came out.

Exit codes: 0 done; 2 the arguments are no good, or data are not to be had; 130 ended by Ctrl-C.
What is done is kept in `NAME.json`, network by network, and is not run again.
"""

import argparse
import ast
import importlib
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path

import jaxlstm.experiments

NAMES = [
    m.name
    for m in pkgutil.iter_modules(jaxlstm.experiments.__path__)
    if m.name not in ("__main__", "shared", "grammar")
]


def subject(name: str) -> str:
    """The first line of an experiment, which need not be imported for `--help`."""
    source = (Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def parser() -> argparse.ArgumentParser:
    wide = max(map(len, NAMES))
    head = "experiments, minutes each on two cores; copying half an hour, pixel_mnist nights:"
    parser = argparse.ArgumentParser(
        prog="python -m jaxlstm.experiments",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Runs an experiment of a paper again. Writes a picture, and a JSON file that\n"
        "keeps what is done, so that the same command resumes an interrupted run.",
        epilog="\n".join([head, "", *(f"  {name:{wide}}  {subject(name)}" for name in NAMES)]),
    )
    add = parser.add_argument
    add("name", metavar="NAME", choices=NAMES, help="which experiment: see below")
    add("--seeds", type=int, default=5, help="how many networks of each kind are trained (5)")
    add("--short", action="store_true", help="a small form that takes seconds")
    add(
        "--networks",
        nargs="+",
        default=[],
        metavar="NETWORK",
        help="only these, by their names in the table",
    )
    add(
        "--output", type=Path, default=Path("experiments-output"), metavar="FOLDER",
        help="where results and pictures are written (experiments-output)",
    )  # fmt: skip
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        from . import shared

        experiment = importlib.import_module(f".{options.name}", jaxlstm.experiments.__name__)
        options.output.mkdir(parents=True, exist_ok=True)
        path = options.output / f"{options.name}{'_short' if options.short else ''}.json"
        if options.seeds < 1:
            raise ValueError(f"`--seeds` must be 1 or more; got {options.seeds}.")
        given = experiment.runs(options.short), options.seeds, path, options.networks
        then = "the steps that run end, and are kept; then come the table and the picture so far."
        with shared.ctrl_c(then) as pressed:
            results = shared.results_of(*given, pressed)
        if pressed and not results:
            raise KeyboardInterrupt
        shared.picture(experiment, results, path.with_suffix(".png"))
    except KeyboardInterrupt:
        print("ended by Ctrl-C; the same command resumes from what is kept.", file=sys.stderr)
        return 130
    except ImportError as e:
        if e.name is None or e.name.split(".")[0] not in ("matplotlib", "optax", "tqdm"):
            raise
        print(f"the experiments need {e.name}: pip install 'jaxlstm[demo]'", file=sys.stderr)
        return 2
    except (OSError, ValueError) as e:
        print(f"python -m jaxlstm.experiments: {e}", file=sys.stderr)
        return 2
    rows = shared.table(results)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.rjust(n) for cell, n in zip(row, widths)))
    print(f"\n{experiment.PAPER}\nclaim: {experiment.CLAIM}\npublished: {experiment.PUBLISHED}")
    if not (pressed or options.networks):
        verdict = experiment.verdict(results)
        form = " of the short form" if options.short else ""
        print(f"ours: {verdict.ours}\nverdict{form}: {verdict}\nrule: {experiment.RULE}")
    print(f"written: {path}, {path.with_suffix('.png')}")
    if pressed:
        print("ended by Ctrl-C; the same command resumes from what is kept.", file=sys.stderr)
    return 130 if pressed else 0


if __name__ == "__main__":
    sys.exit(main())
