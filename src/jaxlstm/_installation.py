"""What this installation can do, and the kernels of cells ahead of their first use."""

import argparse
import importlib
import platform
import sys
import time
from collections.abc import Sequence
from importlib import metadata

import jax
import jax.numpy as jnp

from . import cells
from ._apply import apply
from ._cell import Cell
from ._init import init
from ._unroll.native import SWITCH, _compiler, _packaged, switched_on


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m jaxlstm")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("info", help="versions, devices, the compiler and where kernels are kept")
    building = commands.add_parser(
        "build",
        help="compile the kernels of cells for the CPU, as for the image of a container",
        description="Compiles the kernels of cells for the CPU of this machine, and keeps them "
        "where they are looked for. A process on a machine of this kind then needs no compiler.",
    )
    building.add_argument(
        "cells", nargs="+", metavar="CELL", help="a cell of jaxlstm, or module:name of your own"
    )
    options = parser.parse_args(list(arguments))
    try:
        return info() if options.command == "info" else build(options.cells)
    except ValueError as error:  # an environment variable
        print(f"python -m jaxlstm: error: {error}", file=sys.stderr)
        return 2


def info() -> int:
    versions = {"Python": platform.python_version()}
    versions |= {name: metadata.version(name) for name in ("jaxlstm", "jax", "jaxlib")}
    lines = {
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "machine": f"{platform.system()} {platform.machine()}",
        "devices": ", ".join(map(str, jax.devices())),
        "kernel": f"{'on' if switched_on() else 'off'} by default ({SWITCH})",
        "compiler": _compiler_here(),
        "cache": _cache_here(),
        "packaged": _packaged_here(),
    }
    for name, line in lines.items():
        print(f"{name:9} {line}")
    return 0


def _compiler_here() -> str:
    try:
        command = _compiler.compiler()
        return f"{' '.join(command)}, {_compiler.version(command).strip().splitlines()[0]}"
    except (OSError, IndexError, _compiler.Unavailable) as reason:
        return f"none: the kernel {reason}"


def _cache_here() -> str:
    folder = _compiler.cache_folder()
    if folder is None:
        return "none that is the user's alone: each process compiles what it uses (XDG_CACHE_HOME)"
    return f"{folder}, with {len([*folder.glob('*.so')])} kernels"


def _packaged_here() -> str:
    folder = _packaged.folder()
    if folder is None:
        return "none: jaxlstm-kernels is not installed"
    usable = ", ".join(_packaged.levels(_compiler.features())) or "none of them"
    version = ".".join(map(str, _packaged.ffi_version()))
    made = ", ".join(sorted(str(p.relative_to(folder)) for p in folder.glob("ffi-*/*")))
    return f"{folder}, with {made}; this processor runs {usable}, and jaxlib has ffi-{version}"


def build(names: Sequence[str]) -> int:
    """2 if any cannot be built, with the reason."""
    failed = False
    for name in names:
        begun = time.perf_counter()
        try:
            make(find(name))
        except (LookupError, NotImplementedError) as reason:
            failed = True
            print(f"{name}: {reason.args[0]}", file=sys.stderr)
        else:
            print(f"{name}: built in {time.perf_counter() - begun:.1f} s")
    return 2 if failed else 0


def find(name: str) -> Cell:
    """A cell by its name, or by `module:name`."""
    module, _, attribute = name.rpartition(":")
    if module.startswith("."):
        raise LookupError("no cell of this name is found: a module is named from the top.")
    try:
        found = getattr(importlib.import_module(module) if module else cells, attribute)
    except (ImportError, AttributeError) as error:
        raise LookupError(f"no cell of this name is found: {error}.") from None
    if not isinstance(found, Cell):
        raise LookupError(f"this is no cell but a {type(found).__name__}.")
    return found


def make(cell: Cell) -> None:
    """Has the kernel of a cell compiled: by tracing a network of it, of any size."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    params = jax.eval_shape(lambda key: init(key, cell, 8, 8, dtype=jnp.float32), key)
    xs = jax.ShapeDtypeStruct((2, 1, 8), jnp.float32)
    jax.eval_shape(lambda params, xs: apply(params, xs, implementation="native"), params, xs)
