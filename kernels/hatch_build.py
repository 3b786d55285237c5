"""The tag of the wheel: the oldest glibc that has what the libraries call."""

import re
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CustomBuildHook(BuildHookInterface):
    def initialize(self, version, build_data):
        libraries = list(Path(self.root, "jaxlstm_kernels").rglob("*.so"))
        if not libraries:
            raise FileNotFoundError("no libraries: build.py makes them, and then this wheel.")
        calls = [re.findall(rb"\0GLIBC_2\.(\d+)", path.read_bytes()) for path in libraries]
        minor = max(int(n) for found in calls for n in found)
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-manylinux_2_{minor}_x86_64"
