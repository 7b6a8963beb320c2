"""Execute the lessons: run every NN_name.py (py:percent) beside this file and write its executed copy NN_name.ipynb.

    python notebooks/execute.py              all lessons
    python notebooks/execute.py 00           those whose name begins so

The copy carries a hash of its source cells, so that a test can tell when it is out of date. A cell tagged "picture" has
its figure written to a file as well, the one that its metadata names. Needs the extra `notebooks`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def sources() -> list[Path]:
    """The lessons, in order."""
    return sorted(HERE.glob("[0-9][0-9]_*.py"))


def read(source: Path):
    """A py:percent file as a notebook that has not run, with cell ids that do not change from run to run."""
    import jupytext

    book = jupytext.read(source)
    for number, cell in enumerate(book.cells):
        cell.id = f"cell-{number:02d}"
    book.metadata = {
        "kernelspec": dict(book.metadata["kernelspec"]),
        "minidl": {"source": source.name, "source_sha256": source_hash(book)},
    }
    return book


def source_hash(book) -> str:
    """sha256 over the kind and the text of every cell, in order; outputs do not count."""
    return hashlib.sha256(json.dumps([(c.cell_type, c.source) for c in book.cells]).encode()).hexdigest()


def execute(book, folder: Path = HERE, env: dict[str, str] | None = None, seconds_per_cell: int = 240):
    """Run a notebook in a fresh kernel, in `folder`, with this checkout's minidl. Raises CellExecutionError."""
    from nbclient import NotebookClient

    paths = [(env or {}).get("PYTHONPATH"), str(HERE.parent), os.environ.get("PYTHONPATH")]
    env = {**os.environ, **(env or {}), "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    NotebookClient(
        book, timeout=seconds_per_cell, kernel_name="python3", record_timing=False,
        resources={"metadata": {"path": folder}},
    ).execute(env=env)  # fmt: skip
    book.metadata["language_info"] = {"name": "python"}
    return book


def pictures(book):
    """(file name, PNG bytes) of every cell tagged "picture"."""
    for cell in book.cells:
        if "picture" in cell.metadata.get("tags", []):
            images = [o.data["image/png"] for o in cell.outputs if "image/png" in o.get("data", {})]
            yield cell.metadata["file"], base64.b64decode(images[-1])


def main(prefixes: list[str]) -> None:
    import nbformat

    chosen = [s for s in sources() if not prefixes or s.name.startswith(tuple(prefixes))]
    if not chosen:
        sys.exit(f"no lesson begins with {' or '.join(prefixes)}; there are {', '.join(s.stem for s in sources())}")
    for source in chosen:
        book = execute(read(source))
        nbformat.write(book, source.with_suffix(".ipynb"))
        for name, png in pictures(book):
            (HERE / name).write_bytes(png)
        print(f"{source.name}: {len(book.cells)} cells")


if __name__ == "__main__":
    main(sys.argv[1:])
