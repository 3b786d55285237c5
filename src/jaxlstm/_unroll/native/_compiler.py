"""The machine's C++ compiler: asked once for a cell, and what it made is kept on disk."""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from importlib import metadata
from pathlib import Path

import jax

FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
NAMES = ("values", "kept", "back")  # what `loop.cc` offers


def compiler() -> str | None:
    """The compiler: `CXX`, or the first that is found."""
    told = os.environ.get("CXX")
    found = (shutil.which(name) for name in ([told] if told else ["c++", "g++", "clang++"]))
    return next((path for path in found if path), None)


@functools.cache
def register(equations: str) -> str:
    """Compiles the loop for these equations; gives the prefix of its targets' names."""
    here = Path(__file__).parent
    texts = [path.read_text() for path in sorted([*here.glob("*.h"), *here.glob("*.cc")])]
    text = f'#include "vector.h"\n{equations}\n#include "loop.cc"\n'
    command = [compiler() or "", *FLAGS, "-pthread", f"-I{here}", f"-I{jax.ffi.include_dir()}"]
    machine = [platform.machine(), platform.processor(), metadata.version("jaxlib"), _features()]
    key = "\0".join([text, *texts, *FLAGS, *machine, command[0]])
    digest = hashlib.sha256(key.encode()).hexdigest()[:24]
    library = _folder() / f"{digest}.so"
    if not library.exists():
        _compile(command, text, library)
    functions = ctypes.CDLL(str(library))
    for name in NAMES:
        capsule = jax.ffi.pycapsule(getattr(functions, name))
        jax.ffi.register_ffi_target(f"jaxlstm_{digest}_{name}", capsule, platform="cpu")
    return f"jaxlstm_{digest}"


def _compile(command: list[str], text: str, library: Path) -> None:
    """Into a file of its own first, so that nobody loads half a library."""
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        source, made = Path(folder) / "cell.cc", Path(folder) / "cell.so"
        source.write_text(text)
        for tune in ("-march=native", "-mcpu=native"):  # Clang on ARM knows the second
            done = subprocess.run(
                [*command, tune, str(source), "-o", str(made)], capture_output=True, text=True
            )
            if done.returncode == 0:
                os.replace(made, library)
                return
    raise RuntimeError(
        f"the C++ compiler {command[0]} did not make the loop of a cell. Name another by the "
        f"environment variable CXX, or run by another implementation. It said:\n{done.stderr}"
    )


def _folder() -> Path:
    """Where libraries are kept: a folder that is the user's alone, since what lies there is run."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(cache) / "jaxlstm"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(folder, os.W_OK) and folder.stat().st_uid == os.getuid():
            return folder
    except OSError:
        pass
    return _own()


@functools.cache
def _own() -> Path:
    return Path(tempfile.mkdtemp(prefix="jaxlstm-"))  # this process's alone


def _features() -> str:
    """What this processor can do, so that a folder shared by several machines holds one each."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((x for x in lines if x.startswith(("flags", "Features"))), "")
