"""Called when Bitfold is installed or a wheel of it is built: compiles the kernels. Never imported at run time."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


def _compiling() -> ModuleType:
    # The package `index` cannot be imported yet: what it needs is not there while it is built.
    spec = importlib.util.spec_from_file_location("bitfold_compile", Path(__file__).with_name("compile.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class KernelsHook(BuildHookInterface):  # type: ignore[misc]
    """Puts compiled kernels into wheels, and beside their source where the checkout itself is installed."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """Return what the build needs: a compiler, where the system has none."""
        compiling = _compiling()
        return [] if compiling.system_compiler() else [compiling.ZIG]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and say that the wheel is for this kind of machine."""
        del version
        libraries = _compiling().compile_all()
        build_data["artifacts"] += [str(path.relative_to(self.root)) for path in libraries]
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
