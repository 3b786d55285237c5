"""`native` where it runs: every state that disks, compilers and machines are found in."""

import contextlib
import ctypes
import os
import shlex
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import jaxlstm
from jaxlstm._unroll import native
from jaxlstm._unroll.native import _compiler
from networks import compiler_here, some_of, three_products

pytestmark = pytest.mark.skipif(not compiler_here(), reason="this machine has no C++ compiler")

RUNS = """
import jax, jax.numpy as jnp, jaxlstm
params = jaxlstm.init(jax.random.key(0), jaxlstm.rnn, 3, {hidden}, dtype=jnp.float32)
xs = jnp.ones(({time}, 2, 3), jnp.float32)
loss = lambda p, n: jnp.sum(jaxlstm.apply(p, xs, implementation=n)[0] ** 2)
grad = jax.jit(jax.value_and_grad(loss), static_argnums=1)
got, expected = (grad(params, n) for n in ("native", "scan"))
for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    assert jnp.allclose(a, b, rtol=1e-4, atol=1e-4), (a, b)
print("agrees")
"""


def process(code, **environment):
    """What a process of its own says; None takes a variable away."""
    variables = {**os.environ, "JAX_PLATFORMS": "cpu", **environment}
    variables = {k: v for k, v in variables.items() if v is not None}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=variables, capture_output=True, text=True
    )


def runs(hidden=4, time=5, **environment):
    done = process(RUNS.format(hidden=hidden, time=time), **environment)
    return done.returncode == 0 and "agrees" in done.stdout, done.stderr[-2000:]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A library that is made at once."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "one.cc").write_text('extern "C" int one() { return 1; }')
    made = folder / "one.so"
    command = [*_compiler.compiler(), "-shared", "-fPIC", str(folder / "one.cc"), "-o", str(made)]
    subprocess.run(command, check=True)
    return made


@pytest.fixture
def scripted(tmp_path, monkeypatch, small):
    """A compiler that is a script; where it makes something, it counts it in `count`."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(_compiler, "_registered", set())
    monkeypatch.setattr(_compiler, "_threads", [])

    copies = f'echo made >> "{tmp_path}/count"; cp {shlex.quote(str(small))} "$out"'

    def make(script=copies):
        path = tmp_path / "c++"
        reads = 'for a; do case "$before" in -o) out="$a";; esac; before="$a"; done\n'
        quick = 'case "$*" in *--version*) echo "script 1.0"; exit 0;; esac\n'
        path.write_text(f"#!/bin/sh\n{quick if '--version' not in script else ''}{reads}{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("CXX", str(path))
        return path

    make.made = lambda: len((tmp_path / "count").read_text().splitlines())
    make.folder = tmp_path / "cache" / "jaxlstm"
    return make


def library(name="digest"):
    return _compiler._library(name, _compiler.compiler(), "// no equations")


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path_factory, monkeypatch):
    """What a test finds there is its own, and not that of one that runs beside it."""
    folder = str(tmp_path_factory.mktemp("temporary"))
    monkeypatch.setattr(tempfile, "tempdir", folder)
    monkeypatch.setenv("TMPDIR", folder)


def left():
    """Folders that compilers worked in."""
    return set(Path(_compiler.tempfile.gettempdir()).glob(f"{_compiler.WORK}*"))


DAMAGES = {
    "empty": lambda code: b"",
    "cut short": lambda code: code[: len(code) // 2],
    "one byte short": lambda code: code[:-1],
    "longer": lambda code: code + b"\0",
    "another byte": lambda code: code[:100] + bytes([code[100] ^ 1]) + code[101:],
    "no digest": lambda code: code[:-32],
    "zeros": lambda code: bytes(len(code)),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_broken_library_is_made_anew(scripted, damage):
    scripted()
    assert library().one() == 1
    assert library().one() == 1
    assert scripted.made() == 1
    (kept,) = scripted.folder.iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(damage(whole))
    assert library().one() == 1
    assert scripted.made() == 2
    assert kept.read_bytes() == whole
    assert library().one() == 1
    assert scripted.made() == 2


def test_a_whole_file_that_does_not_load_is_made_anew(scripted):
    scripted()
    library()
    (kept,) = scripted.folder.iterdir()
    _compiler._write(kept, b"of another machine")
    assert library().one() == 1
    assert scripted.made() == 2


def test_the_file_of_another_cell_is_not_taken(scripted):
    scripted()
    library("a")
    os.rename(scripted.folder / "a.so", scripted.folder / "b.so")
    library("b")
    assert scripted.made() == 2


def test_what_is_loaded_is_no_file_that_could_be_cut_short(scripted):
    scripted()
    loaded = library()
    (kept,) = scripted.folder.iterdir()
    os.truncate(kept, 0)
    assert loaded.one() == 1
    assert "jaxlstm/" not in Path("/proc/self/maps").read_text()


def test_a_library_is_loaded_where_there_are_no_files_in_memory(scripted, monkeypatch):
    scripted()
    monkeypatch.delattr(os, "memfd_create")
    before = left()
    assert library().one() == 1
    assert left() == before


@pytest.mark.parametrize("lost", ["directory", "file", "unwritable", "full", "none", "open to all"])
def test_without_a_cache_it_is_made_in_each_process(scripted, monkeypatch, lost, tmp_path):
    scripted()
    before, cache = left(), tmp_path / "cache"
    if lost == "directory":  # where the file should be
        (cache / "jaxlstm" / "digest.so").mkdir(parents=True)
    elif lost == "file":
        cache.write_text("no folder")
    elif lost == "unwritable":
        refuses = lambda *a, **k: (_ for _ in ()).throw(PermissionError(30, "Read-only"))
        monkeypatch.setattr(_compiler.tempfile, "mkstemp", refuses)
    elif lost == "full":
        refuses = lambda *a: (_ for _ in ()).throw(OSError(28, "No space left on device"))
        monkeypatch.setattr(_compiler.os, "fsync", refuses)
    elif lost == "none":
        monkeypatch.delenv("XDG_CACHE_HOME")
        refuses = lambda: (_ for _ in ()).throw(RuntimeError("Could not determine home directory."))
        monkeypatch.setattr(_compiler.Path, "home", refuses)
    else:
        (cache / "jaxlstm").mkdir(parents=True)
        (cache / "jaxlstm").chmod(0o777)
    assert library().one() == 1
    assert library().one() == 1
    assert scripted.made() == 2
    assert left() == before
    folder = cache / "jaxlstm"
    assert [p for p in folder.glob("*") if p.is_file()] == [] if folder.is_dir() else True


def test_what_was_compiled_is_found_again(scripted):
    """And nobody else's folder is trusted."""
    folder = _compiler.cache_folder()
    assert folder == scripted.folder
    assert folder.stat().st_mode & 0o077 == 0


def test_nobody_elses_folder_is_trusted(scripted, monkeypatch):
    owner = _compiler.cache_folder().stat().st_uid
    monkeypatch.setattr(_compiler.os, "getuid", lambda: owner + 1)
    assert _compiler.cache_folder() is None


@pytest.mark.parametrize("variables", ["relative/cache", ""])
def test_a_cache_is_named_from_the_root(monkeypatch, tmp_path, variables):
    monkeypatch.setenv("XDG_CACHE_HOME", variables)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert _compiler.cache_folder() == tmp_path / ".cache" / "jaxlstm"
    monkeypatch.setenv("HOME", "here")
    assert _compiler.cache_folder() is None


def test_what_a_killed_process_left_is_removed(scripted):
    scripted()
    library("a")
    old, new = (scripted.folder / f"{_compiler.WORK}{x}" for x in ("old", "new"))
    old.write_text("half"), new.write_text("half")
    os.utime(old, (0, 0))
    library("b")
    assert not old.exists()
    assert new.exists()


def test_several_at_once(scripted):
    scripted("sleep 0.3; " + scripted().read_text().splitlines()[-1])
    found = []
    threads = [threading.Thread(target=lambda: found.append(library())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [lib.one() for lib in found] == [1] * 4
    assert [p.name for p in scripted.folder.iterdir()] == ["digest.so"]


FAILURES = {
    "fails": ("echo 'out of order' >&2; exit 1", "(?s)CXX.*out of order"),
    "makes nothing": ("exit 0", "(?s)did not make the loop"),
    "makes nonsense": ('echo nonsense > "$out"', "cannot load what"),
    "killed": ("kill -9 $$", "was killed by signal 9"),
    "hangs": ("sleep 1000", "waited 1 seconds.*CXX"),
    "hangs in a program of its own": ("sleep 1000 & wait", "waited 1 seconds"),
    "hangs at once": ("# --version\nsleep 1000", "waited 0 seconds"),
    "is no program": (None, "could not run the C\\+\\+ compiler"),
}


@pytest.mark.parametrize(("script", "message"), FAILURES.values(), ids=FAILURES)
def test_a_compiler_that_fails_is_a_reason(scripted, monkeypatch, script, message):
    path = scripted(script or "")
    if script is None:
        path.write_bytes(b"\x7fELF nonsense")
    monkeypatch.setattr(_compiler, "LIMIT", 1.0)
    before, begun = left(), time.monotonic()
    params = jaxlstm.init(jax.random.key(0), jaxlstm.rnn, 3, 5, dtype=jnp.float32)
    xs = jnp.ones((4, 2, 3), jnp.float32)
    with pytest.raises(NotImplementedError, match=r"^`native` "):
        jaxlstm.apply(params, xs, implementation="native")
    with pytest.raises(NotImplementedError, match=message):
        _compiler.register("// no equations")
    assert jaxlstm.implementations(params, xs)["native"]
    ys, _ = jaxlstm.apply(params, xs, implementation=("native", "scan"))
    assert ys.shape == (4, 2, 5)
    assert time.monotonic() - begun < 30
    assert left() == before
    assert not scripted.folder.is_dir() or list(scripted.folder.iterdir()) == []


def test_a_reason_does_not_depend_on_what_ran_before(monkeypatch):
    params = jaxlstm.init(jax.random.key(0), jaxlstm.rnn, 3, 6, dtype=jnp.float32)
    xs = jnp.ones((4, 2, 3), jnp.float32)
    can = lambda: jaxlstm.implementations(params, xs)["native"]
    assert can() is None
    jaxlstm.apply(params, xs, implementation="native")
    with monkeypatch.context() as context:
        context.setenv("CXX", "no-such-compiler")
        assert "'no-such-compiler'" in can()
        context.setenv("CXX", "'")
        assert "No closing quotation" in can()
    assert can() is None


def test_arguments_of_the_compiler(monkeypatch):
    (path, *_) = _compiler.compiler()
    monkeypatch.setenv("CXX", f"  {path} -O1  -g ")
    assert _compiler.compiler() == (path, "-O1", "-g")
    monkeypatch.setenv("CXX", " ")
    assert _compiler.compiler() == (path,)


def test_another_version_of_a_compiler_is_another_library(scripted, monkeypatch):
    names = []
    monkeypatch.setattr(_compiler, "_library", lambda name, *a: names.append(name) or no_functions)
    monkeypatch.setattr(jax.ffi, "pycapsule", lambda f: f)
    monkeypatch.setattr(jax.ffi, "register_ffi_target", lambda *a, **k: None)
    for version in ("1.0", "1.0", "2.0"):
        path = scripted(f'case "$*" in *--version*) echo {version};; esac')
        _compiler.register("// no equations")
    os.utime(path, (0, 0))
    _compiler.register("// no equations")
    assert len(names) == len(set(names)) == 2


no_functions = ctypes.CDLL(None)
vars(no_functions).update(dict.fromkeys(_compiler.NAMES), threads_of=lambda other: 0)


def test_one_registration_for_threads_at_once(scripted, monkeypatch):
    scripted()
    seen = []
    monkeypatch.setattr(_compiler, "_library", lambda *a: time.sleep(0.2) or no_functions)
    monkeypatch.setattr(jax.ffi, "pycapsule", lambda f: f)
    monkeypatch.setattr(jax.ffi, "register_ffi_target", lambda name, *a, **k: seen.append(name))
    threads = [threading.Thread(target=_compiler.register, args=("// none",)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == len(_compiler.NAMES)


@pytest.mark.slow
def test_a_process_with_a_broken_cache(tmp_path):
    cache = str(tmp_path / "cache")
    good = runs(XDG_CACHE_HOME=cache)
    assert good[0], good[1]
    kept = list((tmp_path / "cache" / "jaxlstm").iterdir())
    assert kept
    for path in kept:
        os.truncate(path, path.stat().st_size // 2)
    mended = runs(XDG_CACHE_HOME=cache)
    assert mended[0], mended[1]


@pytest.mark.slow
def test_a_process_without_a_home(tmp_path):
    ran = runs(XDG_CACHE_HOME=None, HOME=None)
    assert ran[0], ran[1]


# Threads.

REFUSING = """
#include <pthread.h>
#include <atomic>
#include <thread>
#include <cerrno>
#include <cstdlib>
static std::atomic<int> may_begin{%d};
static int sometimes(pthread_t* t, const pthread_attr_t* a, void* (*f)(void*), void* x) {
  return may_begin-- > 0 ? pthread_create(t, a, f, x) : EAGAIN;
}
#define pthread_create sometimes
"""


def program(tmp_path, code, *flags):
    """What a program around the kernel's threads says."""
    (tmp_path / "try.cc").write_text(code)
    here, made = Path(_compiler.__file__).parent, str(tmp_path / "try")
    variables = ["-std=c++17", "-O1", "-pthread", f"-I{here}", *flags, "try.cc", "-o", made]
    subprocess.run([*_compiler.compiler(), *variables], cwd=tmp_path, check=True)
    return subprocess.run([made], capture_output=True, text=True, check=True).stdout


STEPS = """
#include "threads.h"
#include <cstdio>
#include <sys/wait.h>
// Every part of every step once, and none before all of the step before it.
static bool right(int threads, int members, int steps, int parts, int work = 0) {
  std::vector<std::atomic<int>> done(members * (steps + 1));
  std::atomic<bool> good{true};
  in_steps(threads, members, steps, parts, [&](long member, int part, long step) {
    auto* row = &done[member * (steps + 1)];
    if (step && row[step - 1] != parts) good = false;
    for (volatile int i = 0; i < work; i++) {}
    row[step]++;
  });
  for (int i = 0; i < members * (steps + 1); i++)
    if (done[i] != (i % (steps + 1) < steps ? parts : 0)) good = false;
  return good;
}
"""


@pytest.mark.parametrize("granted", some_of((0, 1, 10), (1,)))
def test_fewer_threads_than_were_asked_for(tmp_path, granted):
    """What they do not do is done by those that there are, and by the caller if it must."""
    code = """
int main() {
  bool good = true;
  for (int turn = 0; turn < 20; turn++)
    good = good && right(4, 1, 50, 4) && right(4, 3, 20, 1) && right(3, 2, 10, 2);
  std::printf("%d", good);
}
"""
    assert program(tmp_path, REFUSING % granted + STEPS + code) == "1"


def test_several_calls_at_once_and_children_of_fork(tmp_path):
    code = """
int main() {
  std::atomic<bool> good{true};
  auto some = [&] {
    for (int turn = 0; turn < 30; turn++)
      if (!right(3, 1, 30, 3, 200)) good = false;
  };
  std::thread a(some), b(some);
  some(), a.join(), b.join();
  for (int turn = 0; turn < 5; turn++) {
    pid_t child = fork();
    if (!child) _exit(right(4, 2, 30, 2, 200) && right(1, 1, 9, 2) ? 0 : 1);
    int status = 1;
    waitpid(child, &status, 0);
    if (status) good = false;
    some();
  }
  std::printf("%d", (int)good);
}
"""
    assert program(tmp_path, STEPS + code) == "1"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity")
def test_no_more_threads_than_the_process_may_use(tmp_path):
    code = """
int main() {
  std::printf("%d ", allowed());
  setenv("JAXLSTM_THREADS", "1", 1);
  std::printf("%d ", allowed());
  setenv("JAXLSTM_THREADS", "many", 1);
  try { allowed(); } catch (const std::invalid_argument& e) { std::printf("%s", e.what()); }
}
"""
    few, one, message = program(tmp_path, STEPS + code).split(" ", 2)
    assert 1 <= int(few) <= len(os.sched_getaffinity(0))
    assert one == "1"
    assert message == "the environment variable JAXLSTM_THREADS must be a whole number from 1."


def test_a_number_of_threads_that_is_none_is_an_error_of_the_call(monkeypatch):
    params = jaxlstm.init(jax.random.key(0), jaxlstm.rnn, 3, 6, dtype=jnp.float32)
    run = lambda: jaxlstm.apply(params, jnp.ones((4, 2, 3), jnp.float32), implementation="native")
    expected = jax.block_until_ready(run()[0])
    monkeypatch.setenv("JAXLSTM_THREADS", "0")
    with pytest.raises(
        (ValueError, jax.errors.JaxRuntimeError), match="JAXLSTM_THREADS must be a whole number"
    ):
        jax.block_until_ready(run())
    monkeypatch.setenv("JAXLSTM_THREADS", "1")
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        jax.block_until_ready(run())  # XLA may give what waits behind an error that error too
    assert (run()[0] == expected).all()


# By sanitizers: `make sanitize`.

CALLS = """
#include <cmath>
#include <cstdio>
#include <deque>
struct Call {
  std::deque<XLA_FFI_Buffer> buffers;
  std::deque<std::vector<int64_t>> dims;
  std::deque<std::vector<float>> numbers;
  std::vector<void*> args, rets;
  std::vector<std::vector<float>*> made;
  std::vector<float>* add(std::vector<void*>& to, std::vector<int64_t> shape, float scale) {
    long size = 1;
    for (auto n : shape) size *= n;
    auto& a = numbers.emplace_back(size);
    for (long i = 0; i < size; i++) a[i] = scale * std::sin(0.37f * i + 0.01f * i * i);
    auto& d = dims.emplace_back(shape);
    XLA_FFI_Buffer b{};
    b.struct_size = sizeof b, b.data = a.data(), b.rank = d.size(), b.dims = d.data();
    to.push_back(&buffers.emplace_back(b));
    return &a;
  }
  std::vector<float>* flags(std::vector<int64_t> shape, int every, bool rare) {
    auto* a = add(args, shape, 0);
    for (size_t i = 0; i < a->size(); i++) ((uint8_t*)a->data())[i] = (i % every == 0) == rare;
    return a;
  }
  void result(std::vector<int64_t> shape) { made.push_back(add(rets, shape, NAN)); }
  void run(XLA_FFI_Error* (*f)(XLA_FFI_CallFrame*)) {
    XLA_FFI_CallFrame frame{};
    frame.args.args = args.data(), frame.rets.rets = rets.data();
    if (f(&frame)) std::printf("failed ");
  }
};
// A layer forwards and backwards, with masks and resets: the sum of all that it gives.
static double all_of_it(long m, long t, long n, long in, long h) {
  double sum = 0;
  for (bool back : {false, true}) {
    Call call;
    auto a = [&](std::vector<int64_t> shape) { call.add(call.args, shape, 0.3f); };
    auto one = [&](std::vector<int64_t> shape) { call.result(shape); };
    auto fields = [&](auto f, std::vector<int64_t> shape) {
      for (int i = 0; i < FIELDS; i++) f(shape);
    };
    auto gates = [&](auto f) {
      for (int g = 0; g < Gates::GROUPS; g++)
        if (Gates::count(g)) f(std::vector<int64_t>{m, t, n, Gates::count(g), h});
    };
    *(int32_t*)call.add(call.args, {1}, 0)->data() = 1;
    a({m, t, n, in}), a({m, in, GATES, h});
    if (!back) a({m, GATES, h});
    a({m, h, RECURRENT, h});
    if (!back) a({m, RECURRENT, h});
    a({m, OWN, h});
    if (!back) fields(a, {m, n, h}), fields(a, {m, n, h});
    else fields(a, {m, t, n, h}), gates(a), a({m, t, n, h}), fields(a, {m, n, h});
    call.flags({m, t, n}, 5, false), call.flags({m, t, n}, 7, true);
    if (!back) one({m, t, n, h}), fields(one, {m, n, h}), fields(one, {m, t, n, h}), gates(one);
    else one({m, t, n, in}), one({m, in, GATES, h}), one({m, GATES, h}), one({m, h, RECURRENT, h}),
         one({m, RECURRENT, h}), one({m, OWN, h}), fields(one, {m, n, h}), fields(one, {m, n, h});
    call.run(back ? ::back : residuals);
    for (auto* a : call.made)
      for (float x : *a) sum += std::abs(x);
  }
  return sum;
}
int main() {
  bool good = true;
  long sizes[][5] = {{1, 20, 7, 5, 130}, {3, 9, 4, 3, 37}, {2, 300, 1, 9, 70}, {1, 40, 1, 3, 300}};
  for (auto& s : sizes) {
    setenv("JAXLSTM_THREADS", "1", 1);
    double alone = all_of_it(s[0], s[1], s[2], s[3], s[4]);
    unsetenv("JAXLSTM_THREADS");
    double several[3];
    std::vector<std::thread> callers;
    for (double& each : several)
      callers.emplace_back([&each, &s] { each = all_of_it(s[0], s[1], s[2], s[3], s[4]); });
    for (auto& caller : callers) caller.join();
    for (double each : several) good = good && std::abs(each - alone) < 1e-4 * alone;
  }
  std::printf("%d", good);
}
"""


@pytest.mark.slow
@pytest.mark.parametrize("cell", [jaxlstm.lstm, three_products], ids=str)
@pytest.mark.parametrize("kind", ["thread", "address,undefined"])
def test_sanitizers_find_nothing_in_calls_at_once(tmp_path, kind, cell):
    """Odd sizes, members, masks and resets, several calls at once on threads that they share."""
    try:
        assert program(tmp_path, "int main() {}", f"-fsanitize={kind}") == ""
    except subprocess.CalledProcessError:
        pytest.skip("this compiler or machine has no such sanitizer")
    sources = []
    made = lambda text: sources.append(text) or "jaxlstm_none"
    params = jaxlstm.init(jax.random.key(0), cell, 3, 5, dtype=jnp.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "register", made)
        run = lambda: jaxlstm.apply(
            params, jnp.ones((4, 2, 3), jnp.float32), implementation="native"
        )
        jax.clear_caches()
        jax.make_jaxpr(run)()
        jax.clear_caches()
    text = _compiler._text(sources[0]) + CALLS
    flags = [f"-I{jax.ffi.include_dir()}", "-g", "-fno-sanitize-recover=all", f"-fsanitize={kind}"]
    assert program(tmp_path, text, *flags) == "1"


SHIMS = {
    "no thread": REFUSING % 0,
    "no memory": """
#include <cerrno>
#include <cstdlib>
static int none(void** p, size_t, size_t) { return ENOMEM; }
#define posix_memalign none
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("lack", SHIMS)
def test_where_the_machine_refuses(tmp_path, lack):
    """An error of the call at worst; no end of the process."""
    (tmp_path / "shim.h").write_text(SHIMS[lack])
    variables = f"{shlex.join(_compiler.compiler())} -include {tmp_path / 'shim.h'}"
    ran = runs(300, 40, CXX=variables, XDG_CACHE_HOME=str(tmp_path))
    if lack == "no memory":
        assert "found no memory" in ran[1]
    else:
        assert ran[0], ran[1]


# From the command line.


def commanded(*arguments):
    from jaxlstm.__main__ import main

    return main(arguments)


@jaxlstm.general_cell("h", jaxlstm.HiddenState, recurrent="h")
def no_kernel(s, u, recur):
    return (jnp.tanh(u[0] + recur(jnp.sin(s.h))[0]),)


def test_what_is_built_ahead_needs_no_compiler(capsys):
    """As in the image of a container that has none; another cell runs as a loop there."""
    cells = "lstm", f"{__name__}:no_kernel", "nix", "os:path", ".os:path"
    assert commanded("build", *cells) == 2
    message = capsys.readouterr()
    assert "lstm: built in" in message.out
    assert "`native` needs a cell whose first product is that of the hidden state" in message.err
    assert "nix: no cell of this name is found" in message.err
    assert "this is no cell but a module" in message.err
    assert ".os:path: no cell of this name is found: a module is named from the top" in message.err
    code = """
        import jax, jaxlstm, jax.numpy as jnp
        @jaxlstm.gated_cell("h", jaxlstm.HiddenState)
        def never_built(s, u, v):
            return (jnp.tanh(u + 2 * v)[0],)
        for cell in (jaxlstm.lstm, never_built):
            p = jaxlstm.init(jax.random.key(0), cell, 3, 4)
            text = jax.jit(jaxlstm.apply).lower(p, jnp.ones((5, 3))).as_text()
            print(text.count("custom_call @jaxlstm_"), jaxlstm.apply(p, jnp.ones((5, 3)))[0].shape)
    """
    done = process(code, PATH="/nonexistent", CXX=None, JAXLSTM_KERNEL="on", JAX_ENABLE_X64="0")
    assert done.stdout.splitlines() == ["1 (5, 4)", "0 (5, 4)"], done.stderr[-2000:]
    assert done.stderr.count("Recurrences on the CPU run as loops of XLA") == 1


def test_what_this_installation_can_do(capsys, monkeypatch, tmp_path):
    assert commanded("info") == 0
    message = capsys.readouterr().out
    for part in ("jaxlib", "devices", str(_compiler.compiler()[0]), str(_compiler.cache_folder())):
        assert part in message
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("JAXLSTM_KERNEL", "off")
    (tmp_path / "cache").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert commanded("info") == 0
    message = capsys.readouterr().out
    assert "CXX names 'no-such-compiler'" in message
    assert "off by default" in message
    assert "each process compiles what it uses" in message
    monkeypatch.setenv("JAXLSTM_KERNEL", "maybe")
    assert commanded("info") == 2
    assert "JAXLSTM_KERNEL must be on or off; got 'maybe'" in capsys.readouterr().err


def test_a_library_that_is_kept_is_used_without_a_compiler(scripted, monkeypatch):
    """If it is whole, and not where a compiler was named that is not there."""
    scripted()
    name = f"{_compiler._digest_of(_compiler._text('// kept'))}_one"
    library(name)
    monkeypatch.delenv("CXX")
    monkeypatch.setattr(_compiler.shutil, "which", lambda name: None)
    assert _compiler.reason("// kept") is None
    assert _compiler._library(name, (), "").one() == 1
    assert "needs a C++ compiler" in _compiler.reason("// another")
    with pytest.raises(_compiler.NoCompiler):
        _compiler.register("// another")
    kept = scripted.folder / f"{name}.so"
    kept.write_bytes(kept.read_bytes()[:-1])
    assert "needs a C++ compiler" in _compiler.reason("// kept")
    monkeypatch.setenv("CXX", "nix")
    assert "'nix'" in _compiler.reason("// kept")
