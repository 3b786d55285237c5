"""Kernels that were made elsewhere, on a machine that has no compiler."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from jaxlstm._unroll.native import _compiler, _packaged
from networks import compiler_here
from pages import ROOT

AVX2 = "flags : " + " ".join(sorted(_packaged.LEVELS["x86-64-v3"]))
AVX512 = "flags : " + " ".join(sorted(_packaged.LEVELS["x86-64-v4"]))
MAJOR, MINOR = _packaged.ffi_version()
TEXT = _compiler._text("// packaged")
DIGEST = _compiler.digest_for_package(TEXT)
HERE = _packaged.levels(_compiler.features())


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package, and no compiler."""
    return without_compiler(tmp_path, monkeypatch)


def without_compiler(tmp_path, monkeypatch):
    folder = tmp_path / "site" / _packaged.PACKAGE
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise ImportError('it is never imported')")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(_compiler.shutil, "which", lambda name: None)
    for name, empty in {"_failures": {}, "_threads": [], "_registered": set()}.items():
        monkeypatch.setattr(_compiler, name, empty)
    return folder


def put(folder, level="x86-64-v3", version=None, code=b"a library"):
    path = folder / f"ffi-{version or f'{MAJOR}.{MINOR}'}" / level / f"{DIGEST}.so"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(code + _compiler._digest(path, code))
    return path


def test_a_processor_takes_the_best_that_it_can_run(package):
    least, best = put(package), put(package, "x86-64-v4")
    assert _packaged.find(DIGEST, AVX512) == best
    assert _packaged.find(DIGEST, AVX2) == least
    for lacking in ("avx2", "fma"):
        assert "with AVX2" in _packaged.find(DIGEST, AVX512.replace(f"{lacking} ", ""))
    assert "with AVX2" in _packaged.find(DIGEST, "Features : fp asimd")
    best.unlink()
    assert _packaged.find(DIGEST, AVX512) == least
    assert "none for these equations" in _packaged.find("another", AVX512)


@pytest.mark.parametrize("version", [f"{MAJOR + 1}.0", f"{MAJOR}.{MINOR + 1}"])
def test_what_was_made_for_another_ffi_is_not_loaded(package, version):
    put(package, version=version)
    assert f"version {version} of XLA's FFI" in _packaged.find(DIGEST, AVX2)


def test_a_newer_jaxlib_takes_what_was_made_for_an_older_minor_version(package):
    path = put(package, version=f"{MAJOR}.0")
    assert _packaged.find(DIGEST, AVX2) == path


def test_without_the_package_the_reason_says_how_to_have_it(package, monkeypatch):
    monkeypatch.setattr(_packaged.importlib.util, "find_spec", lambda name: None)
    for message in (r"c\+\+, g\+\+ and clang\+\+; ", r"pip install 'jaxlstm\[kernels\]'\)\.$"):
        with pytest.raises(_compiler.NoCompiler, match=message):
            _compiler.register("// packaged")
    assert "pip install" in _compiler.reason("// packaged")


def test_what_is_not_whole_or_no_library_is_a_reason(package, monkeypatch):
    monkeypatch.setattr(_compiler, "features", lambda: AVX2)
    path = put(package)
    assert _compiler.reason("// packaged") is None
    with pytest.raises(_compiler.Unavailable, match="has no library"):
        _compiler.register("// packaged")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(_compiler.Unavailable, match="broken"):
        _compiler.register("// packaged")


REGISTERED = """
#include "xla/ffi/api/c_api.h"
extern "C" {
static XLA_FFI_Error* asked(XLA_FFI_CallFrame* frame) {
  auto* base = frame->extension_start;
  if (!base || base->type != XLA_FFI_Extension_Metadata) return nullptr;
  auto& version = ((XLA_FFI_Metadata_Extension*)base)->metadata->api_version;
  version.major_version = MAJOR, version.minor_version = XLA_FFI_API_MINOR;
  return nullptr;
}
XLA_FFI_Error* values(XLA_FFI_CallFrame* frame) { return asked(frame); }
XLA_FFI_Error* residuals(XLA_FFI_CallFrame* frame) { return asked(frame); }
XLA_FFI_Error* back(XLA_FFI_CallFrame* frame) { return asked(frame); }
void* threads_of(void* other) { return other; }
}
"""


@pytest.mark.skipif(not compiler_here(), reason="this machine has no C++ compiler")
@pytest.mark.parametrize("major", [MAJOR, MAJOR + 7])
def test_xla_asks_a_library_for_its_version(monkeypatch, tmp_path, major):
    """So that one in the wrong folder does no harm either."""
    command, made = _compiler.compiler(), tmp_path / "made.so"
    (tmp_path / "made.cc").write_text(f"#define MAJOR {major}\n{REGISTERED}")
    line = [*command, "-shared", "-fPIC", f"-I{jax.ffi.include_dir()}", str(tmp_path / "made.cc")]
    subprocess.run([*line, "-o", str(made)], check=True)
    package = without_compiler(tmp_path, monkeypatch)
    monkeypatch.setattr(_compiler, "features", lambda: AVX2)
    put(package, code=made.read_bytes())
    if major == MAJOR:
        assert _compiler.register("// packaged") == f"jaxlstm_{DIGEST}_x86_64_v3"
    else:
        with pytest.raises(_compiler.Unavailable, match="is refused by XLA"):
            _compiler.register("// packaged")


def test_info_says_what_is_packaged(package, capsys):
    from jaxlstm.__main__ import main

    assert main(["info"]) == 0
    assert f"packaged  {package}" in capsys.readouterr().out


RUNS = """
import jax, jax.numpy as jnp, jaxlstm, sys
jax.config.update("jax_platforms", "cpu")
for name in sys.argv[1:]:
    cell = getattr(jaxlstm.cells, name)
    params = jaxlstm.init(jax.random.key(0), cell, 3, 37, dtype=jnp.float32)
    xs = jax.random.normal(jax.random.key(1), (9, 2, 3))
    loss = lambda p, n: jnp.sum(jaxlstm.apply(p, xs, implementation=n)[0] ** 2)
    grad = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    expected = grad(params, "scan")
    for how in (None, "native"):
        for a, b in zip(jax.tree.leaves(grad(params, how)), jax.tree.leaves(expected), strict=True):
            assert jnp.allclose(a, b, rtol=1e-4, atol=1e-4), (name, how)
    text = jax.jit(jaxlstm.apply).lower(params, xs).as_text()
    print(name, text.count("custom_call @jaxlstm_"))
"""


@pytest.mark.slow
@pytest.mark.skipif(not compiler_here() or not HERE, reason="needs a compiler, and AVX2")
def test_the_wheel_where_there_is_no_compiler(tmp_path):
    """Built for two cells; a third runs as a loop of XLA."""
    here = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "JAX_PLATFORMS": "cpu"}
    kernels = tmp_path / "repository" / "kernels"
    shutil.copytree(ROOT / "kernels", kernels, ignore=shutil.ignore_patterns(_packaged.PACKAGE))
    (tmp_path / "repository" / "src" / "jaxlstm").mkdir(parents=True)
    version = Path("src", "jaxlstm", "__init__.py")
    shutil.copy(ROOT / version, tmp_path / "repository" / version)
    command = [sys.executable, str(kernels / "build.py"), "--cells", "gru", "lstm"]
    subprocess.run([*command, "--to", str(tmp_path)], env=here, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert "manylinux_2_" in wheel.name
    site = str(tmp_path / "site")
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", site, str(wheel)]
    subprocess.run(install, check=True)
    bare = {
        **here, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), site]), "PATH": "/nonexistent",
        "XDG_CACHE_HOME": str(tmp_path / "cache"), "JAXLSTM_KERNEL": "on",
    }  # fmt: skip
    bare.pop("CXX", None)
    run = lambda *names: subprocess.run(
        [sys.executable, "-c", RUNS, *names], env=bare, capture_output=True, text=True
    )
    ran = run("gru", "lstm")
    assert ran.stdout.splitlines() == ["gru 1", "lstm 1"], ran.stderr
    ran = run("mgu")
    assert "has none for these equations" in ran.stderr
    assert list((tmp_path / "cache" / "jaxlstm").iterdir()) == []
