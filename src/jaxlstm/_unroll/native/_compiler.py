"""The machine's C++ compiler: run once for a cell, whose library is then on disk.

What lies on disk is trusted no further than its digest goes, and is never mapped itself: what is
loaded is a copy in memory, so that a file that is cut short later, or a disk from which no program
may run, does no harm.  Whatever fails here is `Unavailable`, with the reason.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Generator, Sequence
from importlib import metadata
from pathlib import Path

import jax

from . import _packaged

# -O3 takes nearly twice as long to compile, and makes no LSTM or GRU faster.  Without peeling, GCC
# keeps loops over gates and rows at -O2, and what they fill lies in memory.  Clang does not know
# that option, and must not stop at it where CXX has -Werror.
FLAGS = (
    "-std=c++17", "-O2", "-fpeel-loops", "-Wno-ignored-optimization-argument",
    "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC",
)  # fmt: skip
NAMES = ("values", "residuals", "back")  # what `loop.cc` offers
LIMIT = 120.0  # seconds for one run of the compiler; it takes about three
ROOM = 8 << 20  # bytes that it may need on a disk
WORK = "jaxlstm-build-"
HERE = Path(__file__).parent
_ADVICE = "Name another by the environment variable CXX, or run by another implementation."

_lock = threading.Lock()
_registered: set[str] = set()
_threads: list[int] = []  # of the first library, for all of them
_failures: dict[tuple[str, ...], str] = {}  # of compilers, in this process


class Unavailable(NotImplementedError):
    """Why there is no library: the rest of a sentence that begins with `native`."""


class NoCompiler(Unavailable):
    """None is found, and none was named: what was made before may still be here."""


def compiler() -> tuple[str, ...]:
    """The compiler and its own arguments: `CXX`, or the first that is found."""
    cxx = os.environ.get("CXX", "").strip()
    try:
        commands = [shlex.split(cxx)] if cxx else [["c++"], ["g++"], ["clang++"]]
    except ValueError as error:
        raise Unavailable(f"needs a C++ compiler; CXX is {cxx!r}: {error}.") from None
    for name, *arguments in commands:
        if path := shutil.which(name):
            return (path, *arguments)
    what = f"CXX names {commands[0][0]!r}" if cxx else "it looked for c++, g++ and clang++"
    kind = Unavailable if cxx else NoCompiler
    raise kind(f"needs a C++ compiler, and none was found: {what}.")


def reason(equations: str) -> str | None:
    """Why there is no library for these equations, as far as it is known without making one."""
    try:
        return _failures.get(compiler())
    except NoCompiler as error:
        return None if _made_before(text := _text(equations)) else _not_packaged(text, error)
    except Unavailable as error:
        return str(error)


def register(equations: str) -> str:
    """Compiles the loop for these equations; gives the prefix of its targets' names."""
    command, text, packaged = (), _text(equations), None
    try:
        try:
            command = compiler()
            name = f"{_digest_of(text)}_{_digest_of_compiler(command)}"
        except NoCompiler as error:
            if not (name := _made_before(text)):
                packaged = _packaged_for(text)
                if isinstance(packaged, str):
                    raise NoCompiler(_also(error, packaged)) from None
                name = f"{packaged.stem}_{packaged.parent.name}".replace("-", "_")
        prefix = f"jaxlstm_{name}"
        with _lock:
            if prefix not in _registered:
                # Only a backend that has begun refuses a library of another FFI here: else it would
                # fail to begin.
                jax.default_backend()
                of_package = packaged and _load_packaged(packaged)
                library = of_package or _library(name, command, text)
                for function in NAMES:
                    capsule = jax.ffi.pycapsule(getattr(library, function))
                    try:
                        jax.ffi.register_ffi_target(f"{prefix}_{function}", capsule, platform="cpu")
                    except Exception as error:  # of XLA, which asks a library for its version
                        raise Unavailable(f"is refused by XLA: {error}.") from error
                _share_threads(library)
                _registered.add(prefix)
    except OSError as error:
        _failures[command] = f"has no library for this cell: {error}."
        raise Unavailable(_failures[command]) from error
    except Unavailable as error:
        _failures[command] = str(error)
        raise
    return prefix


def _packaged_for(text: str) -> Path | str:
    """The library of the package for this text, or why there is none."""
    return _packaged.find(digest_for_package(text), features())


def _not_packaged(text: str, none: NoCompiler) -> str | None:
    found = _packaged_for(text)
    return _also(none, found) if isinstance(found, str) else None


def _also(none: NoCompiler, why: str) -> str:
    return f"{str(none).removesuffix('.')}; {why}."


def _load_packaged(path: Path) -> ctypes.CDLL:
    if not (code := _read(path)):
        raise Unavailable(f"finds {path} broken: install {_packaged.PACKAGE} anew.")
    return _load(code)


def digest_for_package(text: str) -> str:
    """Of what its libraries are made of; their folders name XLA's FFI and the processor."""
    return _hash(text, *_texts())


_PORTABLE = (
    "-s", "-static-libstdc++", "-static-libgcc", "-ffunction-sections",
    "-Wl,--gc-sections", "-Wl,--exclude-libs,ALL",
)  # fmt: skip


def make_for_package(text: str, level: str, folder: Path) -> Path:
    """Compiles a text for all processors of a level, and for machines without libstdc++."""
    version = ".".join(map(str, _packaged.ffi_version()))
    path = folder / f"ffi-{version}" / level / f"{digest_for_package(text)}.so"
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = (f"-march={level}", *_PORTABLE)
    code = _compile(compiler(), text, [flags])
    path.write_bytes(code + _digest(path, code))
    return path


def _share_threads(library: ctypes.CDLL) -> None:
    function = library.threads_of
    function.restype, function.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    if _threads:
        function(_threads[0])
    else:
        _threads.append(function(None))


def _text(equations: str) -> str:
    return f'#include "vector.h"\n{equations}\n#include "loop.cc"\n'


def _digest_of(text: str) -> str:
    """Of all that a library is made of, but the compiler."""
    machine = [platform.machine(), platform.processor(), features()]
    return _hash(text, *_texts(), *FLAGS, *machine, metadata.version("jaxlib"))


def _digest_of_compiler(command: tuple[str, ...]) -> str:
    return _hash(*command, os.path.realpath(command[0]), version(command))


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _made_before(text: str) -> str | None:
    """The name of a library that some compiler made on a machine of this kind."""
    folder = cache_folder()
    found = folder.glob(f"{_digest_of(text)}_*.so") if folder else []
    return next((path.stem for path in sorted(found) if _read(path)), None)


def _library(name: str, command: tuple[str, ...], text: str) -> ctypes.CDLL:
    """The library on disk if it is whole; else compiled, and written there if possible."""
    folder = cache_folder()
    cached = folder and folder / f"{name}.so"
    if cached and (code := _read(cached)):
        with contextlib.suppress(OSError):  # made beside other system libraries: it is made anew
            return _load(code)
    if not command:
        raise NoCompiler("needs a C++ compiler: what one made before does not load here.")
    code = _compile(command, text)
    try:
        library = _load(code)
    except OSError as error:
        raise Unavailable(f"cannot load what {command[0]} made: {error}.") from error
    if cached:
        with contextlib.suppress(OSError):  # then each process makes it anew
            _write(cached, code)
    return library


# The compiler.


def version(command: tuple[str, ...]) -> str:
    """What the compiler says that it is."""
    path = os.path.realpath(command[0])
    return _version(command, path, os.stat(path).st_mtime_ns)


@functools.cache
def _version(command: tuple[str, ...], path: str, changed: int) -> str:
    """The same, as long as its file is the same."""
    return _ran([*command, "--version"], LIMIT / 4)[1]


# For the processor that it runs on; Clang on ARM knows the second.
_NATIVE = (("-march=native",), ("-mcpu=native",))


def _compile(
    command: tuple[str, ...], text: str, targets: Sequence[tuple[str, ...]] = _NATIVE
) -> bytes:
    with contextlib.closing(_workplaces()) as folders:
        folder = next(folders, None)
        if folder is None:
            raise Unavailable(
                "needs a folder in which a C++ compiler can write, and found none with room. "
                "TMPDIR names one."
            )
        source, made = folder / "cell.cc", folder / "cell.so"
        source.write_text(text)
        arguments = [*command, *FLAGS, "-pthread", f"-I{HERE}", f"-I{jax.ffi.include_dir()}"]
        code, output = 0, ""
        for flags in targets:
            # Its own files go with the folder, even if it is killed.
            line = [*arguments, *flags, str(source), "-o", str(made)]
            code, output = _ran(line, LIMIT, TMPDIR=str(folder))
            if code == 0 and made.exists():
                return made.read_bytes()
            if code < 0:
                break
        ended = f"was killed by signal {-code}" if code < 0 else "did not make the loop of a cell"
        raise Unavailable(
            f"needs a C++ compiler, and {command[0]} {ended}. {_ADVICE} It output:\n{output}"
        )


def _ran(command: list[str], limit: float, **environment: str) -> tuple[int, str]:
    """The exit status of a command and what it output.  It does not outlive this call."""
    try:
        run = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**os.environ, **environment}, start_new_session=True,
        )  # fmt: skip
        with run:
            try:
                output, _ = run.communicate(timeout=limit)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.killpg(run.pid, signal.SIGKILL)  # it runs programs of its own
                raise
            return run.returncode, output.decode(errors="replace")[-10_000:]
    except subprocess.TimeoutExpired:
        raise Unavailable(
            f"waited {limit:.0f} seconds for the C++ compiler {command[0]}, in vain. {_ADVICE}"
        ) from None
    except OSError as error:
        raise Unavailable(f"could not run the C++ compiler {command[0]}: {error}.") from error


# Files.


def cache_folder() -> Path | None:
    """Where libraries are: a folder that is the user's alone, since what lies there is run."""
    configured = os.environ.get("XDG_CACHE_HOME", "")
    try:
        cache = Path(configured) if os.path.isabs(configured) else Path.home() / ".cache"
        folder = cache / "jaxlstm"
        if not folder.is_absolute():
            return None
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except (OSError, RuntimeError):  # a disk that is not to be written, no home
        return None
    return folder if found.st_uid == os.getuid() and not found.st_mode & 0o022 else None


def _read(library: Path) -> bytes | None:
    """A library that is whole."""
    try:
        data = library.read_bytes() if library.is_file() else b""
    except OSError:
        return None
    code, digest = data[:-32], data[-32:]
    return code if code and digest == _digest(library, code) else None


def _digest(library: Path, code: bytes) -> bytes:
    return hashlib.sha256(library.name.encode() + code).digest()


def _write(library: Path, code: bytes) -> None:
    """A file of its own first: nobody reads half a library, nor one that the disk lost."""
    _tidy(library.parent)
    number, name = tempfile.mkstemp(prefix=WORK, dir=library.parent)
    try:
        with open(number, "wb") as file:
            file.write(code + _digest(library, code))
            file.flush()
            os.fsync(number)
        os.replace(name, library)
    except BaseException:
        os.unlink(name)
        raise


def _tidy(folder: Path) -> None:
    """Removes what a process that was killed has left."""
    for left in folder.glob(f"{WORK}*"):
        with contextlib.suppress(OSError):
            found = left.lstat()
            if found.st_uid == os.getuid() and found.st_mtime < time.time() - 10 * LIMIT:
                shutil.rmtree(left) if left.is_dir() else left.unlink()


def _workplaces() -> Generator[Path, None, None]:
    """New folders with room in them, each for as long as it is looked at."""
    with contextlib.suppress(OSError):
        yield from _new(Path(tempfile.gettempdir()))
    for folder in (cache_folder(), Path("/dev/shm")):
        if folder:
            yield from _new(folder)


def _new(parent: Path) -> Generator[Path, None, None]:
    try:
        _tidy(parent)
        folder = tempfile.TemporaryDirectory(prefix=WORK, dir=parent, ignore_cleanup_errors=True)
    except OSError:
        return
    with folder as name:
        try:
            (Path(name) / "room").write_bytes(bytes(ROOM))
            (Path(name) / "room").unlink()
        except OSError:
            return
        yield Path(name)


def _load(code: bytes) -> ctypes.CDLL:
    """A library, from a copy that nobody else has."""
    errors: list[OSError] = []
    if hasattr(os, "memfd_create"):
        try:
            # Stays open: a later file of this number would be taken for this one.
            number = os.memfd_create("jaxlstm")
            with open(number, "wb", closefd=False) as file:
                file.write(code)
            return ctypes.CDLL(f"/proc/self/fd/{number}")
        except OSError as error:
            errors.append(error)
    with contextlib.closing(_workplaces()) as folders:
        for folder in folders:
            try:
                library = folder / "cell.so"
                library.write_bytes(code)
                return ctypes.CDLL(str(library))
            except OSError as error:
                errors.append(error)
    raise errors[-1] if errors else OSError("no folder has room for it")


@functools.cache
def _texts() -> list[str]:
    return [path.read_text() for path in sorted([*HERE.glob("*.h"), *HERE.glob("*.cc")])]


def features() -> str:
    """What this processor can do, so that a folder shared by several machines holds one each."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((x for x in lines if x.startswith(("flags", "Features"))), "")
