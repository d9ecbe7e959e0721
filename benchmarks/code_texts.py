"""Which text about code is at hand for training a student? Python functions and what they say they do.

    python -m benchmarks.code_texts OUT.jsonl.gz

Reads the sources of the standard library and of some installed packages (their versions are pinned in the lock), and
writes JSON lines: `{"kind": "code", "text": ...}`, a function as it stands there, and `{"kind": "summary", ...}`, the
first sentence of its docstring, with "python" before it in every second one, as people ask. Deterministic for the same
installation. Neither the evaluation sets nor anything made of them is read.
"""

from __future__ import annotations

import argparse
import ast
import gzip
import hashlib
import importlib.util
import json
import sysconfig
import textwrap
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("numpy", "fastapi", "huggingface_hub", "httpx", "rich", "typer", "uvicorn", "transformers", "pyarrow")
LEFT_OUT = {"test", "tests", "testing", "idlelib", "lib2to3", "site-packages", "dist-packages", "encodings", "models"}
SHORTEST, LONGEST = 12, 140  # characters of a summary
MOST = 12_000  # functions; chosen by the hash of their text


def sources() -> Iterator[Path]:
    """Yield Python files, in order of their paths."""
    roots = [Path(sysconfig.get_paths()["stdlib"])]
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            roots.append(Path(spec.origin).parent)
    for root in roots:
        for path in sorted(root.rglob("*.py")):
            if not LEFT_OUT & set(path.relative_to(root).parts):
                yield path


def functions(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (source, docstring or "") of the functions of a file that do something."""
    source = path.read_text(encoding="utf-8", errors="replace")
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return
    lines = source.splitlines()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and len(node.body) > 1:
            # Not ast.get_source_segment: it takes the file apart for every function.
            text = "\n".join(lines[node.lineno - 1 : node.end_lineno])
            yield textwrap.dedent(text), ast.get_docstring(node) or ""


def summary(docstring: str) -> str:
    """Return the first sentence in lower case, "" where it is none that people might ask for."""
    first = " ".join(docstring.split("\n\n")[0].split()).split(". ")[0].rstrip(".").lower()
    return first if SHORTEST <= len(first) <= LONGEST else ""


def main() -> None:
    """Write the texts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    out: Path = parser.parse_args().out
    found: dict[str, str] = {}
    for path in sources():
        found.update(functions(path))
    by_hash = sorted(found, key=lambda text: hashlib.sha256(text.encode()).digest())
    asked = dict.fromkeys(filter(None, map(summary, (found[text] for text in by_hash))))
    rows = [{"kind": "code", "text": text} for text in by_hash[:MOST]]
    rows += [{"kind": "summary", "text": f"python {text}" if i % 2 else text} for i, text in enumerate(asked)]
    # No name and no time in its header: the same texts are the same file.
    with out.open("wb") as plain, gzip.GzipFile(filename="", mode="wb", fileobj=plain, mtime=0) as file:
        file.writelines(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)
    print(f"{len(found):,} functions: {min(MOST, len(found)):,} of them and {len(asked):,} summaries in {out}")


if __name__ == "__main__":
    main()
