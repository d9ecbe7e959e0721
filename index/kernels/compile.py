"""Compiles the kernels beside their source: `python -m index.kernels.compile`. Installing Bitfold does it.

Needs a C compiler: `$CC`, `cc`, `gcc` or `clang`, else the package `ziglang`, which brings one. Uses nothing but the
standard library, since it runs before anything is installed.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
FLAGS = ["-std=gnu11", "-O3", "-fno-math-errno", "-ffp-contract=fast", "-fPIC", "-shared", "-fvisibility=hidden"]
# A library for any machine, and one for those that have more: which is loaded, the machine decides (`library.py`).
X86: dict[str, list[str]] = {"any": [], "avx2": ["-mavx2", "-mfma", "-mf16c"]}
OTHERS: dict[str, list[str]] = {"any": []}
ZIG = "ziglang"


def library(variant: str) -> Path:
    """Return where the library of a variant lies."""
    return FOLDER / f"kernels-{variant}.so"


def variants() -> dict[str, list[str]]:
    """Return the flags of each variant that this kind of machine can have."""
    return X86 if platform.machine().lower() in ("x86_64", "amd64") else OTHERS


def system_compiler() -> list[str] | None:
    """Return the command of the compiler that the system has, None without one."""
    for name in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        command = shlex.split(name)
        if command and shutil.which(command[0]):
            return command
    return None


def compiler() -> list[str]:
    """Return the command of a compiler; exit with what to do where there is none."""
    found = system_compiler()
    if found is None and importlib.util.find_spec(ZIG):
        # It would compile for the very machine it runs on, and stop programs at what C leaves undefined.
        found = [sys.executable, "-m", ZIG, "cc", "-mcpu=baseline", "-fno-sanitize=all"]
    if found is None:
        raise SystemExit(f"bitfold: no C compiler: install gcc or clang, name one in $CC, or `pip install {ZIG}`")
    return found


def compile_all() -> list[Path]:
    """Compile every variant; return the libraries. Exits where the compiler fails, which says why."""
    made = []
    sources = sorted(map(str, FOLDER.glob("*.c")))
    for variant, flags in variants().items():
        path = library(variant)
        partial = path.with_suffix(".partial")
        command = [*compiler(), *FLAGS, *flags, *sources, "-o", str(partial), "-lm"]
        if subprocess.run(command).returncode:
            raise SystemExit(f"bitfold: the kernels were not compiled by: {shlex.join(command)}")
        partial.replace(path)  # a process that runs keeps the one that it has loaded
        made.append(path)
    return made


if __name__ == "__main__":
    compile_all()
