"""Finding data: the order of the places, damaged files, and no network."""

import gzip
import hashlib
import sys

import pytest

from minidl.data import fetch
from minidl.data.fetch import Remote, find
from minidl.errors import DataError

CONTENT = b"ten digits"
SHA = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def remote(tmp_path, monkeypatch):
    """One published file, an empty cache, and nothing installed on the system."""
    monkeypatch.delenv("MINIDL_DATA", raising=False)
    monkeypatch.setenv("MINIDL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fetch, "SYSTEM", tmp_path / "system")
    monkeypatch.setattr(fetch, "_network", None)
    monkeypatch.setattr(fetch, "_said", set())
    return Remote("digits", "digits.bin.gz", SHA, ("http://localhost:9/digits/",))


@pytest.mark.parametrize("where", ["digits/digits.bin.gz", "digits/digits.bin", "digits.bin.gz", "digits.bin"])
def test_a_file_may_lie_packed_or_not_in_its_folder_or_directly(remote, tmp_path, where):
    path = tmp_path / where
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(CONTENT, 1) if where.endswith(".gz") else CONTENT)
    assert find([remote], tmp_path, allow_download=False) == [CONTENT]


def test_the_argument_comes_before_the_variable_and_that_before_the_cache(remote, tmp_path, monkeypatch, capsys):
    for place in ("argument", "variable", "cache"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "digits.bin").write_bytes(CONTENT)
    monkeypatch.setenv("MINIDL_DATA", str(tmp_path / "variable"))
    find([remote], tmp_path / "argument")
    find([remote])
    monkeypatch.delenv("MINIDL_DATA")
    find([remote])
    find([remote])  # said once only
    said = capsys.readouterr().err.splitlines()
    assert said == [f"data: digits from {tmp_path / place}" for place in ("argument", "variable", "cache")]


DAMAGED = {  # what lies there -> the part of it whose checksum is told: the content, where it can be uncompressed
    "other": (gzip.compress(b"nine digits"), b"nine digits"),
    "cut": (gzip.compress(CONTENT, mtime=0)[:-5], gzip.compress(CONTENT, mtime=0)[:-5]),
    "no gzip": (b"no gzip at all", b"no gzip at all"),
}


@pytest.mark.parametrize("lies, told", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_named_with_both_checksums_and_left_alone(remote, tmp_path, lies, told):
    path = tmp_path / "digits.bin.gz"
    path.write_bytes(lies)
    with pytest.raises(DataError) as error:
        find([remote], tmp_path)
    text = str(error.value)
    assert str(path) in text and SHA in text and hashlib.sha256(told).hexdigest() in text
    assert path.read_bytes() == lies


def test_a_damaged_file_in_the_cache_is_not_downloaded_over(remote, tmp_path):
    path = tmp_path / "cache" / "digits" / "digits.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half")
    with pytest.raises(DataError, match="damaged"):
        find([remote])
    assert path.read_bytes() == b"half"


def test_the_other_set_under_the_same_name_is_no_damage(remote, tmp_path):
    other = Remote("letters", "digits.bin.gz", hashlib.sha256(b"letters").hexdigest(), ())
    fetch.known([remote, other])
    (tmp_path / "digits.bin").write_bytes(b"letters")
    assert find([remote], tmp_path, allow_download=False) is None
    assert find([other], tmp_path, allow_download=False) == [b"letters"]


def test_a_folder_with_some_of_the_files_says_which_are_missing(remote, tmp_path):
    (tmp_path / "digits.bin").write_bytes(CONTENT)
    with pytest.raises(DataError, match="labels.bin"):
        find([remote, Remote("digits", "labels.bin", SHA, ())], tmp_path)


def test_a_named_folder_that_is_not_there_is_an_error(remote, tmp_path, monkeypatch):
    with pytest.raises(DataError, match="nowhere"):
        find([remote], tmp_path / "nowhere")
    monkeypatch.setenv("MINIDL_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="MINIDL_DATA"):
        find([remote])


def test_without_an_answer_the_network_is_tried_once(remote, monkeypatch):
    asked = []
    monkeypatch.setattr(fetch, "_answers", lambda url: bool(asked.append(url)))
    pytest.importorskip("pooch")
    assert find([remote]) is None and find([remote]) is None
    assert asked == ["http://localhost:9/digits/digits.bin.gz"]


def test_a_refused_connection_is_no_answer():
    pytest.importorskip("requests")
    assert not fetch._answers("http://localhost:9/digits.bin.gz")


def test_without_pooch_nothing_is_downloaded_and_the_reason_is_said(remote, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pooch", None)
    assert find([remote]) is None
    assert "minidl[data]" in capsys.readouterr().err


@pytest.fixture
def server(tmp_path):
    """A web server of this machine's own that publishes one folder."""
    import functools
    import http.server
    import threading

    folder = tmp_path / "published"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    handler.func.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()


def test_a_download_is_checked_and_kept_in_the_cache(remote, server, tmp_path):
    pytest.importorskip("pooch")
    folder, url = server
    (folder / "digits.bin.gz").write_bytes(gzip.compress(CONTENT))
    published = Remote("digits", "digits.bin.gz", SHA, ("http://localhost:9/", url))
    assert find([published]) == [CONTENT]
    assert [path.name for path in (tmp_path / "cache" / "digits").iterdir()] == ["digits.bin.gz"]
    (folder / "digits.bin.gz").unlink()
    assert find([published]) == [CONTENT]  # from the cache


def test_a_download_with_other_content_is_not_kept(remote, server, tmp_path, capsys):
    pytest.importorskip("pooch")
    folder, url = server
    (folder / "digits.bin.gz").write_bytes(b"<html>please log in</html>")
    assert find([Remote("digits", "digits.bin.gz", SHA, (url,))]) is None
    assert "failed" in capsys.readouterr().err
    assert list((tmp_path / "cache" / "digits").iterdir()) == []
