"""What holds across the three packages: import contracts, light imports, installed names, portable files."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("index", "models", "service")
LINE_OF_LOCK = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*==[0-9][0-9a-z.]*(\+[a-z0-9.]+)?")

# Written in pieces, so that this file does not hold what it looks for.
REGISTRY_HOSTS = [
    "py" + "pi.org",
    "python" + "hosted.org",
    "npm" + "js.",
    "npm" + "js.org",
    "debian" + ".org",
    "ubuntu" + ".com",
    "crates" + ".io",
    "ana" + "conda.org",
]
MACHINE_PATHS = [
    "/" + "root/",
    "/" + "work/",
    "/" + "home/",
    "/" + "Users/",
    "/opt/" + "wheels",
    "/opt/" + "py" + "pi",
]


def tracked_files() -> list[Path]:
    """Files that git tracks or would track; without git, everything outside of hidden folders."""
    if shutil.which("git") and (ROOT / ".git").exists():
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
            cwd=ROOT,
            check=True,
            capture_output=True,
        )
        files = [ROOT / os.fsdecode(name) for name in listed.stdout.split(b"\0") if name]
    else:
        files = [path for path in ROOT.rglob("*") if not any(p.startswith(".") for p in path.relative_to(ROOT).parts)]
    return [path for path in files if path.is_file() and not path.is_symlink()]


def modules_after(statement: str, tmp_path: Path) -> set[str]:
    """Names in sys.modules of a fresh interpreter, outside of the source tree, after `statement`."""
    code = f"{statement}\nimport sys\nsys.stdout.write('\\n'.join(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def requirements(lock: str) -> dict[str, str]:
    lines = [line for line in (ROOT / lock).read_text().splitlines() if line and not line.startswith("#")]
    for line in lines:
        assert LINE_OF_LOCK.fullmatch(line), f"{lock}: {line!r} is not name==version"
    pairs = [line.split("==") for line in lines]
    assert len({name for name, _ in pairs}) == len(pairs), f"{lock} pins a name twice"
    return {name: version for name, version in pairs}


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        (
            "index",
            ["torch", "fastapi", "pydantic", "sentence_transformers", "transformers", "models", "service"],
        ),
        ("models", ["torch", "onnxruntime", "tokenizers", "faiss", "fastapi", "pydantic", "index", "service"]),
        ("service.app", ["torch", "onnxruntime", "tokenizers", "transformers", "sentence_transformers"]),
        ("service.cli", ["torch", "onnxruntime", "faiss", "transformers", "sentence_transformers"]),
        ("service.settings", ["torch", "onnxruntime", "faiss", "fastapi"]),
    ],
)
def test_import_is_light(module: str, absent: list[str], tmp_path: Path) -> None:
    loaded = modules_after(f"import {module}", tmp_path)
    assert module in loaded
    assert sorted(loaded.intersection(absent)) == []


def test_light_import_check_sees_a_heavy_import(tmp_path: Path) -> None:
    assert "faiss" in modules_after("import faiss", tmp_path)


def test_import_contracts_hold(tmp_path: Path) -> None:
    code = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"
    done = subprocess.run(
        [sys.executable, "-c", code, "--cache-dir", str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_only_settings_reads_the_environment() -> None:
    readers = set()
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(), str(path))):
                if isinstance(node, ast.Attribute) and node.attr in {"environ", "environb", "getenv"}:
                    readers.add(path.relative_to(ROOT).as_posix())
                if isinstance(node, ast.ImportFrom) and node.module == "os":
                    if {alias.name for alias in node.names} & {"environ", "environb", "getenv"}:
                        readers.add(path.relative_to(ROOT).as_posix())
    # What compiles the kernels runs when Bitfold is installed: $CC names the compiler there.
    assert readers <= {"service/settings.py", "index/kernels/compile.py"}


def test_no_other_distribution_owns_our_names() -> None:
    owners = importlib.metadata.packages_distributions()
    # An editable installation lists nothing at all; the image build repeats this on the installed wheel.
    assert {name: owners[name] for name in PACKAGES if set(owners.get(name, [])) - {"bitfold"}} == {}


def test_test_folders_do_not_shadow_packages() -> None:
    assert [name for name in PACKAGES if (ROOT / "tests" / name).exists()] == []


def test_no_file_names_this_machine_or_a_registry() -> None:
    needles = [needle.encode() for needle in REGISTRY_HOSTS + MACHINE_PATHS]
    files = tracked_files()
    assert ROOT / "pyproject.toml" in files
    found = [
        (path.relative_to(ROOT).as_posix(), needle.decode())
        for path in files
        for content in [path.read_bytes()]
        for needle in needles
        if needle in content
    ]
    assert found == []


def test_locks_pin_every_dependency_inside_its_range() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    runtime = requirements("requirements.lock")
    development = requirements("requirements-dev.lock")
    assert sorted(runtime.keys() & development.keys()) == []
    assert runtime["torch"] == "2.13.0"

    needed = [*project["project"]["dependencies"], *project["project"]["optional-dependencies"]["minilm"]]
    for text, lock in [(t, runtime) for t in needed] + [
        (t, runtime | development) for t in project["dependency-groups"]["dev"]
    ]:
        requirement = Requirement(text)
        version = lock.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not in the lock"
        assert requirement.specifier.contains(version), f"{text}: the lock has {version}"


def test_locks_are_closed() -> None:
    """Whatever a locked package needs here is locked too, so that --no-deps leaves nothing out."""
    pinned = requirements("requirements.lock") | requirements("requirements-dev.lock")
    missing = set()
    for name in pinned:
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for requirement in map(Requirement, needs):
            applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            other = canonicalize_name(requirement.name)
            cuda = name == "torch" and re.match(r"nvidia-|cuda-|triton", other)
            if applies and not cuda and other not in pinned:
                missing.add(f"{name} needs {requirement}")
    assert sorted(missing) == []


@pytest.mark.parametrize("script", [".ci/run", ".ci/install_torch.sh", "tests/check_image.sh"])
def test_scripts_are_executable_and_parse(script: str) -> None:
    path = ROOT / script
    assert os.access(path, os.X_OK)
    shell = path.read_text().splitlines()[0].removeprefix("#!").split()
    done = subprocess.run([*shell, "-n", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_image_gets_only_what_the_dockerfile_copies() -> None:
    """.dockerignore lets through what the Dockerfile copies from the context, and nothing else."""
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = set()
    for line in (ROOT / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            copied.update(name.split("/")[0] for name in line.split()[1:-1])
    assert copied == let_in
    assert [name for name in sorted(copied) if not (ROOT / name).exists()] == []
