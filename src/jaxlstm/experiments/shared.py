"""What the experiments share: training of several seeds at once, results that are kept, pictures.

An experiment is a module with `PAPER`, `CLAIM`, `PUBLISHED`, `runs(short)`, which names its
networks and how each learns, and `verdict(results)`, which applies the rule that `RULE` states.
"""

import contextlib
import json
import math
import os
import signal
import statistics
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float
from tqdm import tqdm

import jaxlstm

Results: TypeAlias = dict[str, dict[str, dict[str, Any]]]  # network, seed -> what came


class Verdict(NamedTuple):
    """What the results say of a claim."""

    holds: bool | None  # None: nothing either way
    ours: str  # the figures that decide it

    def __str__(self) -> str:
        return {True: "holds", False: "does not hold", None: "undecided"}[self.holds]


class Batch(NamedTuple):
    """Sequences, the targets of their last steps, and which of these count in loss and score."""

    xs: Float[Array, "time batch features"]
    targets: Any  # of all steps, or of as many as `loss_mask` has
    loss_mask: Bool[Array, "last batch"]


class Task(NamedTuple):
    """What is to be learned; sequences are never seen twice."""

    features: int
    outputs: int
    sample: Callable[[Any, int], Batch]  # key, how many sequences
    loss: Callable[[Array, Any], Array]  # outputs, targets -> (time, batch)
    right: Callable[[Array, Any], Array]  # outputs, targets -> (time, batch)


class Model(NamedTuple):
    """A recurrent network, and what reads the outputs from it, and from the inputs if `direct`."""

    network: Any
    w: Float[Array, "hidden outputs"]
    b: Float[Array, " outputs"]
    direct: Float[Array, "features outputs"] | None = None


class Run(NamedTuple):
    """How one network learns: adam, until every seed has solved the task or the steps are done."""

    init: Callable[[Any], tuple[Any, Any]]  # key -> weights, what is carried from step to step
    loss: Callable[[Any, Any, Any], tuple[Array, Any]]  # weights, carry, key
    test: Callable[[Any], tuple[Array, Array]]  # weights -> loss, score between 0 and 1
    optimizer: Any
    steps: int
    every: int  # steps between tests
    batch: int
    solved: float  # at this score
    recipe: str  # all of the above in words: results of another one are not kept
    extra: Callable[[Any], dict[str, Array]] = lambda weights: {}  # what else is kept at the end
    stops: bool = True  # once every seed has solved the task


def init(
    key: Any,
    cell: jaxlstm.Cell,
    features: int,
    hidden: int,
    outputs: int,
    direct: bool = False,
    **options: Any,
) -> Model:
    first, last = jax.random.split(key)
    network = jaxlstm.init(first, cell, features, hidden, dtype=jnp.float32, **options)
    w = jax.nn.initializers.lecun_normal()(last, (hidden, outputs), jnp.float32)
    model = Model(network, w, jnp.zeros(outputs, jnp.float32))
    return model._replace(direct=jnp.zeros((features, outputs), jnp.float32)) if direct else model


def biased(gate: str, value: float) -> Callable[[Any, Any], Any]:
    """For `change`: the biases of a gate start at this value."""

    def change(key: Any, layer: Any) -> Any:
        return layer._replace(b=layer.b.at[layer.cell.gates.index(gate)].set(value))

    return change


def chrono(longest: int, **gates: str) -> Callable[[Any, Any], Any]:
    """For `change`: the network starts with memories of up to so many steps.

    `gates` are `keep` and `write` of `jaxlstm.initializers.chrono`, for other cells than the LSTM.
    """
    return lambda key, network: jaxlstm.initializers.chrono(key, network, longest, **gates)


def read(model: Model, xs: Array, state: Any = None, last: int = 0) -> tuple[Array, Any]:
    """The outputs of every step, or of the `last` ones, and the last state."""
    ys, state = jaxlstm.apply(model.network, xs, state)
    ys, xs = ys[-last:], xs[-last:]
    outputs = ys @ model.w + model.b
    return outputs if model.direct is None else outputs + xs @ model.direct, state


def adam(steps: int, rate: float, clip: float = 1.0) -> Any:
    """Adam under a bound on the norm of the gradient; its rate falls to zero along a cosine."""
    return optax.chain(
        optax.clip_by_global_norm(clip), optax.adam(optax.cosine_decay_schedule(rate, steps))
    )


def learning(
    task: Task,
    cell: jaxlstm.Cell,
    hidden: int,
    *,
    steps: int,
    rate: float,
    every: int,
    batch: int = 32,
    tests: int = 2560,
    solved: float = 0.99,
    change: Callable[[Any, Any], Any] | None = None,
    optimizer: Any = None,
    note: str = "",
    direct: bool = False,
    **options: Any,
) -> Run:
    """How a network of one cell learns a task; `change(key, network)` is done to it before."""

    def initial(key: Any) -> tuple[Model, None]:
        first, second = jax.random.split(key)
        model = init(first, cell, task.features, hidden, task.outputs, direct, **options)
        if change:
            model = model._replace(network=change(second, model.network))
        return model, None

    def evaluate(model: Model, data: Batch) -> tuple[Array, Array]:
        outputs, _ = read(model, data.xs, last=len(data.loss_mask))
        mean = jnp.sum(task.loss(outputs, data.targets) * data.loss_mask) / data.loss_mask.sum()
        return mean, jnp.mean(jnp.all(task.right(outputs, data.targets) | ~data.loss_mask, axis=0))

    def loss(model: Model, carry: None, key: Any) -> tuple[Array, None]:
        return evaluate(model, task.sample(key, batch))[0], None

    def test(model: Model) -> tuple[Array, Array]:
        return evaluate(model, task.sample(jax.random.key(1234), tests))

    recipe = (
        f"{cell}, {hidden} units, batches of {batch}, {steps:,} steps, learning rate {rate:g}, "
        f"tested every {every} steps on {tests:,} sequences, solved at a score of {solved:g}"
    )
    more = [note, "inputs to outputs too" if direct else ""]
    more += [f"{name} {value}" for name, value in options.items()]
    return Run(
        initial, loss, test, optimizer or adam(steps, rate), steps, every, batch, solved,
        ", ".join([recipe, *filter(None, more)]),
    )  # fmt: skip


@contextlib.contextmanager
def ctrl_c(then: str) -> Iterator[list[int]]:
    """Gets an entry when Ctrl-C is pressed, and says what comes `then`; pressed again, it raises.

    Python drops an exception that a signal raises in a callback, such as that of JAX in the
    garbage collector, and the run would continue.
    """
    pressed: list[int] = []

    def press(number: int, frame: Any) -> None:
        pressed.append(number)
        signal.signal(number, signal.default_int_handler)
        # Not `print`, which a signal may have interrupted.
        os.write(2, f"\nCtrl-C: {then} Press it again to stop at once.\n".encode())

    try:
        before = signal.signal(signal.SIGINT, press)
    except ValueError:  # not the main thread, which alone hears signals
        yield pressed
        return
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def fit(
    name: str, run: Run, seeds: Sequence[int], path: Path, pressed: Sequence[int] = ()
) -> dict[str, dict[str, Any]]:
    """Trains a network from each of these seeds, all of them side by side in one program.

    Every minute, or every `run.every` steps if these take longer, what there is goes into `path`,
    from which an interrupted run resumes.  So it does once `pressed` has an entry, and what is
    returned says how far it came: `unfinished`.
    """
    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32))
    first, data = jnp.unstack(jax.vmap(jax.random.split)(keys), axis=1)
    weights, carry = jax.jit(jax.vmap(run.init))(first)
    opt_state = jax.vmap(run.optimizer.init)(weights)

    def update(weights: Any, opt_state: Any, carry: Any, key: Any) -> tuple[Any, ...]:
        (loss, carry), grads = jax.value_and_grad(run.loss, has_aux=True)(weights, carry, key)
        updates, opt_state = run.optimizer.update(grads, opt_state, weights)
        return (optax.apply_updates(weights, updates), opt_state, carry), loss

    def several(weights: Any, opt_state: Any, carry: Any, start: Any, keys: Any) -> Any:
        def step(state: Any, i: Any) -> Any:
            weights, opt_state, carry = state
            at = jax.vmap(jax.random.fold_in, (0, None))(keys, i)
            return jax.vmap(update)(weights, opt_state, carry, at)

        return jax.lax.scan(step, (weights, opt_state, carry), start + jnp.arange(run.every))

    several, test = jax.jit(several), jax.jit(jax.vmap(run.test))
    about: dict[str, Any] = {"recipe": run.recipe, "name": name, "seeds": list(seeds)}
    state, saved = restored(path, (weights, opt_state, carry), about)
    weights, opt_state, carry = state
    curves: list[list[tuple[int, float, float]]] = saved.get("curves", [[] for _ in seeds])
    done, before = saved.get("done", 0), saved.get("seconds", 0.0)
    unfinished: dict[str, str] = {}
    began = kept = time.perf_counter()
    with tqdm(total=run.steps, desc=name, mininterval=1.0, initial=done) as bar:
        while done < run.steps:
            (weights, opt_state, carry), _ = several(weights, opt_state, carry, done, data)
            done += run.every
            for curve, loss, score in zip(curves, *test(weights)):
                curve.append((done * run.batch, float(loss), float(score)))
            bar.set_postfix_str(" ".join(f"{curve[-1][2]:.3f}" for curve in curves), False)
            bar.update(run.every)
            if run.stops and all(curve[-1][2] >= run.solved for curve in curves):
                break
            if pressed or time.perf_counter() - kept > 60:
                kept = time.perf_counter()
                now = {"curves": curves, "done": done, "seconds": before + kept - began}
                keep(path, (weights, opt_state, carry), about | now)
            if pressed and done < run.steps:
                unfinished["unfinished"] = f"{done:,} of {run.steps:,} steps"
                break
    if not unfinished:
        path.unlink(missing_ok=True)
    seconds = before + time.perf_counter() - began
    extra = {k: rounded(v) for k, v in jax.jit(jax.vmap(run.extra))(weights).items()}
    count = sum(a.size for a in jax.tree.leaves(weights)) // len(seeds)
    return {
        str(seed): {
            "loss": curve[-1][1],
            "score": curve[-1][2],
            "sequences": next((n for n, _, score in curve if score >= run.solved), None),
            "curve": [[n, float(f"{loss:.4g}"), round(score, 4)] for n, loss, score in curve],
            "weights": count,
            "seconds": round(seconds / len(seeds), 1),
            "recipe": run.recipe,
            **unfinished,
            **{k: v[i] for k, v in extra.items()},
        }
        for i, (seed, curve) in enumerate(zip(seeds, curves))
    }


def keep(path: Path, state: Any, about: dict[str, Any]) -> None:
    new = path.with_suffix(".new.npz")
    np.savez(new, *jax.tree.leaves(state), about=to_json(about))
    new.replace(path)


def restored(path: Path, state: Any, about: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """What was kept of the same run, in the structure of `state`; else `state`."""
    if not path.exists():
        return state, {}
    leaves, tree = jax.tree.flatten(state)
    try:
        with path.open("rb") as f, np.load(f) as found:
            saved = from_json(str(found["about"]))
            if any(saved.get(key) != value for key, value in about.items()):
                return state, {}
            kept = [found[f"arr_{i}"] for i in range(len(leaves))]
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile):  # no file that `keep` wrote
        return state, {}
    return jax.tree.unflatten(tree, kept), saved


def rounded(values: Array) -> Any:
    """Lists of numbers of four digits, as they are kept."""
    return jax.tree.map(lambda x: float(f"{x:.4g}"), values.tolist())


def to_json(results: Any, indent: int | None = None) -> str:
    """JSON, which has no NaN and no infinities: NaN is written as null, they as strings.

    A loss that diverged is one of them.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [plain(v) for v in value]
        if isinstance(value, float) and not math.isfinite(value):
            return None if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        return value

    return json.dumps(plain(results), indent=indent, allow_nan=False)


def from_json(text: str) -> Any:
    """What `to_json` was given; `sequences` alone may be None, for a task that was not solved."""

    def numbers(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: v if k == "sequences" else numbers(v) for k, v in value.items()}
        if isinstance(value, list):
            return [numbers(v) for v in value]
        return float(value or "nan") if value in (None, "Infinity", "-Infinity") else value

    return numbers(json.loads(text))


class ResultsError(ValueError):
    """A file that does not hold results; the message is for the person who named it."""


def results_of(
    runs: Mapping[str, Run],
    seeds: int,
    path: Path,
    networks: Sequence[str] = (),
    pressed: Sequence[int] = (),
) -> dict[str, Any]:
    """Runs what `path` does not hold yet, and keeps each network's seeds there when it is done.

    Once `pressed` has an entry, the network that is trained is kept as it is, `unfinished`, and the
    others wait.
    """
    try:
        saved = from_json(path.read_text("utf-8")) if path.exists() else {"networks": {}}
        saved["networks"].items()
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ResultsError(
            f"{path} does not hold the results of an experiment: move it away, or name another "
            "folder."
        ) from None
    if unknown := [name for name in networks if name not in runs]:
        raise ValueError(f"`--networks` must be of {list(runs)}; got {unknown}.")
    results = {name: v for name, v in saved["networks"].items() if name in runs}
    for name, run in runs.items():
        if pressed or (networks and name not in networks):
            continue
        kept = {
            k: v for k, v in results.get(name, {}).items()
            if v["recipe"] == run.recipe and "unfinished" not in v
        }  # fmt: skip
        missing = [seed for seed in range(seeds) if str(seed) not in kept]
        if missing:
            kept |= fit(name, run, missing, path.with_suffix(".npz"), pressed)
        results[name] = {k: kept[k] for k in sorted(kept, key=int)}
        saved = {"jax": jax.__version__, "device": str(jax.devices()[0]), "networks": results}
        new = path.with_suffix(".new.json")  # an end at any instant leaves the old one, or this
        new.write_text(to_json(saved) + "\n", encoding="utf-8")
        new.replace(path)
    ours = lambda name: all(v["recipe"] == runs[name].recipe for v in results[name].values())
    return {name: results[name] for name in runs if name in results and ours(name)}


def unfinished(seeds: Mapping[str, Mapping[str, Any]]) -> str:
    """How far a network came that was stopped."""
    return next((seed["unfinished"] for seed in seeds.values() if "unfinished" in seed), "")


def scores(results: Results, name: str, what: str = "score") -> list[float]:
    """Of every seed of a network."""
    return [seed[what] for seed in results[name].values()]


def mean(results: Results, name: str, what: str = "score") -> float:
    return statistics.fmean(scores(results, name, what))


def solved(results: Results, name: str) -> int:
    """How many seeds solved the task."""
    return sum(seed["sequences"] is not None for seed in results[name].values())


def seeds_of(results: Results, names: Iterable[str]) -> str:
    """How many seeds of each network solved the task, and its mean score."""
    return ", ".join(
        f"{name.partition(', ')[0]}: {solved(results, name)} of {len(results[name])} "
        f"({100 * mean(results, name):.0f} %)"
        for name in names
    )


RULE = (
    "It holds if every seed of one of the LSTMs solves the task and no seed of the simple network "
    "does; it does not hold if a seed of the simple network solves it. It is undecided if neither "
    "is so: with more steps the LSTM might solve it with every seed."
)


def decided(holds: bool, fails: bool) -> bool | None:
    """What a rule comes to; where neither is so, nothing is said either way."""
    return True if holds else False if fails else None


def lstm_alone(results: Results, names: Sequence[str]) -> Verdict:
    """By `RULE`, of these networks."""
    lstms, simple = ([n for n in names if n.startswith(kind)] for kind in ("lstm", "rnn"))
    every = any(solved(results, name) == len(results[name]) for name in lstms)
    fails = any(solved(results, name) for name in simple)
    return Verdict(decided(every and not fails, fails), seeds_of(results, names))


def table(results: Results) -> list[tuple[str, ...]]:
    """A line for each network: what it is, who solved the task and when, the score, the loss."""
    rows = [("network", "weights", "solved", "sequences", "score", "loss", "s/seed")]
    for name, seeds in results.items():
        after = sorted(seed["sequences"] for seed in seeds.values() if seed["sequences"])
        when = f"{statistics.median(after):,.0f} ({after[0]:,} to {after[-1]:,})" if after else ""
        each, losses = scores(results, name), scores(results, name, "loss")
        part = unfinished(seeds)
        rows.append(
            (
                f"{name} ({part})" if part else name,
                f"{next(iter(seeds.values()))['weights']:,}",
                f"{len(after)} of {len(seeds)}",
                when,
                f"{statistics.fmean(each):.3f} ± {statistics.pstdev(each):.3f}",
                f"{statistics.fmean(losses):.4f}",
                f"{mean(results, name, 'seconds'):.0f}",
            )
        )
    return rows


def picture(experiment: Any, results: Results, path: Path) -> None:
    """The experiment's own picture, or the learning curves: every seed, and their mean."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style: Any = {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(7, 2.8), layout="constrained", dpi=100)
        FigureCanvasAgg(figure)
        getattr(experiment, "plot", curves)(figure, results)
        figure.savefig(path)


def curves(figure: Any, results: Results) -> None:
    """Score over the sequences seen; networks whose names end alike share a panel."""
    from ..plot import COLOURS, STROKES

    panels = list(dict.fromkeys(name.partition(", ")[2] for name in results))
    kinds = list(dict.fromkeys(name.partition(", ")[0] for name in results))
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for name, seeds in results.items():
        kind, _, panel = name.partition(", ")
        at = kinds.index(kind)
        ax, colour = axes[panels.index(panel)], COLOURS[at % len(COLOURS)]
        for i, seed in enumerate(seeds.values()):
            seen, _, score = zip(*seed["curve"])
            style = {"color": colour, "ls": STROKES[at % len(STROKES)], "lw": 1, "alpha": 0.6}
            ax.plot(seen, score, label=None if i else kind, **style)
    for ax, panel in zip(axes, panels):
        ax.set(title=panel, xlabel="sequences seen", ylim=(-0.03, 1.03))
        ax.xaxis.set_major_locator(_few())
        ax.xaxis.set_major_formatter(thousands())
    axes[0].set_ylabel("sequences right, of those tested")
    axes[0].legend(frameon=False)


def _few() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(4)


def thousands() -> Any:
    from matplotlib.ticker import EngFormatter

    return EngFormatter(sep="")


def cross_entropy(outputs: Array, targets: Array) -> Array:
    """Of whole numbers, the classes."""
    return optax.softmax_cross_entropy_with_integer_labels(outputs, targets)


def most_likely(outputs: Array, targets: Array) -> Array:
    return outputs.argmax(-1) == targets


def squared(outputs: Array, targets: Array) -> Array:
    return jnp.square(outputs[..., 0] - targets)


def within(outputs: Array, targets: Array) -> Array:
    """As Hochreiter and Schmidhuber count: an error below 0.04."""
    return jnp.abs(outputs[..., 0] - targets) < 0.04
