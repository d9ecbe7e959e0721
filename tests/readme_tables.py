"""The tables of README.md that come from the code: routes, settings, files.

`python tests/readme_tables.py` writes them into README.md; tests/test_readme.py fails when they are out of date.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"

OTHER_FILES = {
    "pyproject.toml": "dependencies as ranges, tool settings, import contracts",
    "requirements.lock": "exact versions of what the service runs on",
    "requirements-dev.lock": "exact versions of what tests and checks need on top",
    "Makefile": "serve, demo, test, lint, bench, docker",
    "Dockerfile": "the image: multi-stage, non-root, model inside",
    "docker-compose.yml": "the service with volume, limits and health check",
    ".ci/run": "what must pass before a change goes in",
    ".ci/install_torch.sh": "torch first and alone, so that no CUDA comes by accident",
    "docs/design.md": "how the pieces fit, and the interfaces between packages",
    "docs/storage.md": "what is promised, and every byte on disk",
    "docs/deployment.md": "running it: container, backup, sizing, how the image was checked",
    "docs/encoders.md": "what each encoder costs and keeps at each of its sizes, and which to take",
    "docs/encoders-tables.md": "every measured figure behind docs/encoders.md",
    "docs/training.md": "how encoders and students are trained",
    "docs/compression.md": "what bits, dimensions and training cost and give, beside other quantizers",
    "docs/compression-tables.md": "every measured figure behind docs/compression.md",
    "docs/benchmarks.md": "measured tables, with the commands that made them",
    "docs/log.md": "dated experiments, failures included",
    "models/data/": "what ships for the default space: its fold, and the student with its training record",
    "service/sample/": "305 documents and 129 questions with known answers, for demo and tests",
}


def api_table() -> str:
    """Return the routes, from the OpenAPI document."""
    from service.app import create_app
    from service.settings import Settings

    rows = [
        f"| `{method.upper()} {path.replace('{collection}', '{c}')}` | {route['summary']} |"
        for path, methods in create_app(Settings()).openapi()["paths"].items()
        for method, route in methods.items()
    ]
    return "\n".join(["| route | what it does |", "|---|---|", *rows])


def settings_table() -> str:
    """Return the settings."""
    from service import settings

    return settings.settings_table()


def _row(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    first = " ".join(docstring.split("\n\n")[0].split()).rstrip(".")
    return f"| `{path.relative_to(ROOT)}` | {first} |"


def files_table() -> str:
    """Return one line a file: its module docstring's first paragraph."""
    head = ["| file | |", "|---|---|"]
    rows = [f"| `{name}` | {text} |" for name, text in OTHER_FILES.items()]
    for folder in ("service", "index", "models", "benchmarks"):
        rows += [_row(path) for path in sorted((ROOT / folder).rglob("*.py")) if path.read_text().strip()]
    tests = [_row(path) for path in sorted((ROOT / "tests").glob("*.py"))]
    return "\n".join([*head, *rows, "", "<details><summary>tests/</summary>", "", *head, *tests, "", "</details>"])


def filled(text: str) -> str:
    """Return README text with its three tables made anew."""
    for name, table in (("api", api_table()), ("settings", settings_table()), ("files", files_table())):
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(\n<!-- /{name} -->)", re.DOTALL)
        if not pattern.search(text):
            raise ValueError(f"README.md has no place for the table {name!r}")
        text = pattern.sub(lambda found, table=table: found[1] + table + found[2], text)
    return text


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    README.write_text(filled(README.read_text()))
