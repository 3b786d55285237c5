"""Makes `jaxlstm-kernels`, the wheel of kernels for machines that have no C++ compiler.

    python kernels/build.py [--cells lstm gru] [--to dist] [PYTHON ...]

The kernels are those of the exported cells with their default options, for the levels of x86-64
that have AVX2 and AVX-512.  Versions of JAX may trace the same equations otherwise, and then write
another text: each PYTHON named has such a version and jaxlstm, and its texts are taken too.  This
one should have the oldest of them: newer jaxlibs take what was compiled for an older one's FFI.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from jaxlstm import Cell, _installation, cells
from jaxlstm._unroll import native
from jaxlstm._unroll.native import _compiler, _packaged

HERE = Path(__file__).parent
EXPORTED = [name for name, cell in vars(cells).items() if isinstance(cell, Cell)]


def texts(names: list[str]) -> list[str]:
    """What the kernels of cells are compiled from; some cells have none."""
    found: list[str] = []
    native.register = lambda equations: found.append(_compiler._text(equations)) or "none"
    for name in names:
        try:
            _installation.make(_installation.find(name))
        except NotImplementedError as reason:
            print(f"{name}: {reason}", file=sys.stderr)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pythons", nargs="*", metavar="PYTHON")
    parser.add_argument("--cells", nargs="+", default=EXPORTED, metavar="CELL")
    parser.add_argument("--to", type=Path, default=Path("dist"), metavar="FOLDER")
    parser.add_argument("--texts", action="store_true", help="print them; compile nothing")
    options = parser.parse_args()
    made = texts(options.cells)
    if options.texts:
        return print(json.dumps(made))
    for python in options.pythons:
        command = [python, __file__, "--texts", "--cells", *options.cells]
        made += json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    package = HERE / _packaged.PACKAGE
    shutil.rmtree(package, ignore_errors=True)
    package.mkdir()
    (package / "__init__.py").write_text('"""Kernels of jaxlstm, compiled for x86-64."""\n')
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [
            pool.submit(_compiler.make_for_package, text, level, package)
            for text in dict.fromkeys(made)
            for level in _packaged.LEVELS
        ]
        size = sum(job.result().stat().st_size for job in jobs)
    print(f"{len(jobs)} kernels, {size / 2**20:.1f} MiB")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", options.to, HERE], check=True)


if __name__ == "__main__":
    main()
