"""The page that lies beside a student for people to read: what it is, whose space it reads, how it was made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

CARD: Final = "README.md"


def card(told: Mapping[str, Any], *, space: str, license: str) -> str:
    """Return the page as Markdown.

    Parameters
    ----------
    told : the training record, as `student.json` holds it.
    space : identity of the teacher's space.
    license : SPDX identifier.
    """
    options, found = told["options"], told["held_out"]
    figures = found["static"] | found.get("layers", {})
    rows = [f"| {name} | {value:.4f} |" for name, value in figures.items()]
    files = [f"- {one['name']}, SHA-256 `{one['sha256']}`" for one in told["texts"]]
    parts = "a table of tokens" + (f" and {len(options['layers'])} transformer layers" if options["layers"] else "")
    return "\n".join(
        [
            f"# A student of {told['teacher']}",
            "",
            f"A text encoder made of {parts}. Its vectors are of the space `{space}`:",
            f"they are compared with those of {told['teacher']}. Licence: {license}; it is made of parts of",
            f"{told['teacher']}, and of what that model makes of the texts below.",
            "",
            f"Trained by `bitfold train student` on {found['texts']:,} texts of",
            "",
            *files,
            "",
            "Options and figures are in `student.json`, how the training went in `metrics.jsonl` and `training.svg`.",
            "",
            "On texts that were held out, against the teacher's vectors (cosine, and the share of the teacher's ten",
            "nearest texts that it finds):",
            "",
            "| exit | figure |",
            "|---|---|",
            *rows,
            "",
        ]
    )
