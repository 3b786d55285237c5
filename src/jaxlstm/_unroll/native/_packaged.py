"""Kernels that were made elsewhere: those of the exported cells, in the package `jaxlstm_kernels`.

It holds nothing but libraries, `ffi-MAJOR.MINOR/LEVEL/DIGEST.so`: the version of XLA's FFI that
they were compiled for, the level of x86-64, and what they were made from.  It is trusted as code
is, and its files are read as those of the cache are.
"""

import functools
import importlib.util
import re
from pathlib import Path

import jax

PACKAGE = "jaxlstm_kernels"

_V3 = {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"}
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
LEVELS = {"x86-64-v4": _V4, "x86-64-v3": _V3}  # as Linux names what they need, the best first


def levels(features: str) -> list[str]:
    """What a processor of these features can run."""
    words = set(features.split())
    return [level for level, needed in LEVELS.items() if needed <= words]


@functools.cache
def ffi_version(headers: str | None = None) -> tuple[int, int]:
    """The version of XLA's FFI, as the headers of jaxlib say it."""
    header = Path(headers or jax.ffi.include_dir()) / "xla" / "ffi" / "api" / "c_api.h"
    found = dict(re.findall(r"#define XLA_FFI_API_(MAJOR|MINOR) (\d+)", header.read_text()))
    return int(found["MAJOR"]), int(found["MINOR"])


def folder() -> Path | None:
    """Where the package is, if it is installed."""
    spec = importlib.util.find_spec(PACKAGE)
    places = spec.submodule_search_locations if spec else None
    return Path(next(iter(places))) if places else None


def find(digest: str, features: str) -> Path | str:
    """The library of what has this digest, for this processor and this jaxlib; or why none is."""
    if (package := folder()) is None:
        return (
            f"{PACKAGE} is not installed, which has kernels of the exported cells "
            "(pip install 'jaxlstm[kernels]')"
        )
    if not (possible := levels(features)):
        return f"{PACKAGE} needs an x86-64 processor with AVX2"
    major, minor = ffi_version()
    made_for: list[tuple[int, int]] = []
    for place in sorted(package.glob("ffi-*")):
        if name := re.fullmatch(r"ffi-(\d+)\.(\d+)", place.name):
            made_for.append((int(name[1]), int(name[2])))
    # A newer minor version takes what was made for an older one.
    usable = [version for version in made_for if version[0] == major and version[1] <= minor]
    if not usable:
        others = " and ".join(f"{a}.{b}" for a, b in made_for) or "none"
        return (
            f"{PACKAGE} was made for version {others} of XLA's FFI, and jaxlib has {major}.{minor}"
        )
    for level in possible:
        for a, b in sorted(usable, reverse=True):
            path = package / f"ffi-{a}.{b}" / level / f"{digest}.so"
            if path.is_file():
                return path
    return f"{PACKAGE} has none for these equations"
