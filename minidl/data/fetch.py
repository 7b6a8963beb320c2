"""Find a data file: in a folder, in the user's cache, or on the network; never a damaged one.

Places, in this order: the `data_dir` argument, the environment variable MINIDL_DATA, the user's cache, the system's
data sets (/usr/share/datasets, where Debian's dataset packages lie), the network. What is found is checked by the
sha256 of its *content*, uncompressed, because mirrors and distributions compress the same bytes differently. A file
that is there but damaged is an error: it is not overwritten, and nothing else is taken in its stead.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import os
import sys
import tempfile
import threading
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from minidl.errors import DataError

SYSTEM = Path("/usr/share/datasets")


@dataclass(frozen=True)
class Remote:
    """One file of a data set: its folder, its published name, the sha256 of its content, and where it is published."""

    folder: str
    name: str
    sha256: str
    mirrors: tuple[str, ...]
    """Folders (URLs) that hold the file under its name."""
    packed: bool = False
    """Whether the sha256 is that of the file as it is published, of an archive for example."""


def find(
    files: Sequence[Remote], data_dir: str | Path | None = None, allow_download: bool = True
) -> list[bytes] | None:
    """The contents of these files, all from one place; None if no place has them. Says in one line what was used.

    Raises DataError if a file is damaged, if a place holds only some of the files, or if data_dir is no folder.
    """
    for root in places(data_dir):
        found = [one for file in files if (one := _local(root, file))]
        if len(found) == len(files):
            say(f"{files[0].folder} from {found[0][1].parent}")
            return [content for content, _ in found]
        if found and root != cache():  # a download that was stopped leaves some files in the cache
            missing = ", ".join(file.name for file in files if not _local(root, file))
            raise DataError(f"{root} holds some files of {files[0].folder} but not {missing}: add them")
    if allow_download and _download(files):
        say(f"{files[0].folder} downloaded")
        return find(files, cache(), allow_download=False)
    return None


def places(data_dir: str | Path | None) -> list[Path]:
    """The folders to look in, best first. A folder that was named but is not there is an error, not a detour."""
    named = [("the data folder", data_dir), ("MINIDL_DATA", os.environ.get("MINIDL_DATA"))]
    for what, place in named:
        if place and not Path(place).is_dir():
            raise DataError(f"{what} {str(place)!r} is not a folder: correct the path, or leave it out")
    return [Path(place) for _, place in named if place] + [cache(), SYSTEM]


def cache() -> Path:
    """The user's cache folder: MINIDL_CACHE, else the operating system's usual place."""
    if named := os.environ.get("MINIDL_CACHE"):
        return Path(named)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "minidl"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "minidl"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "minidl"


def read(path: Path) -> bytes:
    """A file's content, uncompressed if its name ends in .gz. Raises DataError if it cannot be read."""
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is damaged and cannot be uncompressed ({error})") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def digest(*contents: bytes) -> str:
    """The sha256 of a content; of several contents, the sha256 of their sha256s written one below the other."""
    sums = [hashlib.sha256(content).hexdigest() for content in contents]
    return sums[0] if len(sums) == 1 else hashlib.sha256("\n".join(sums).encode()).hexdigest()


_said: set[str] = set()


def say(what: str) -> None:
    """Print which data are used, once a process for each, on standard error."""
    if what not in _said:
        _said.add(what)
        print(f"data: {what}", file=sys.stderr)


def _local(root: Path, file: Remote) -> tuple[bytes, Path] | None:
    """The content of a file below `root` (in its folder or directly, packed or not) and where it lies, or None."""
    plain = file.name.removesuffix(".gz")
    for path in (root / folder / name for folder in (file.folder, ".") for name in (plain + ".gz", plain)):
        if not path.is_file():
            continue
        try:
            content = _content(path, file)
        except DataError as error:
            lies = hashlib.sha256(path.read_bytes()).hexdigest() if os.access(path, os.R_OK) else "unknown"
            raise DataError(_damaged(path, file, f"as it lies there, packed, it has sha256 {lies}")) from error
        if (lies := hashlib.sha256(content).hexdigest()) == file.sha256:
            return content, path
        if path.parent == root and root.name != file.folder and lies in _KNOWN - {file.sha256}:
            continue  # Fashion-MNIST's files have MNIST's names: directly in a folder they may be the other set's
        raise DataError(_damaged(path, file, f"its content has sha256 {lies}"))
    return None


def _content(path: Path, file: Remote) -> bytes:
    return path.read_bytes() if file.packed else read(path)


def _damaged(path: Path, file: Remote, found: str) -> str:
    return (
        f"{path} is damaged: {found}, the published content has {file.sha256}. It was not changed: replace it, "
        "or move it away to let minidl look elsewhere."
    )


_KNOWN: set[str] = set()
"""sha256 of every published file that minidl knows."""


def known(files: Sequence[Remote]) -> Sequence[Remote]:
    """Register published files, so that a file of another set under the same name is not called damaged."""
    _KNOWN.update(file.sha256 for file in files)
    return files


_network: bool | None = None
"""Whether the network answered: None before the first try. Without one, only the first data set waits for it."""


def _download(files: Sequence[Remote]) -> bool:
    """Fetch the files into the cache from the first mirror that answers; False if none does."""
    global _network
    try:
        import pooch
    except ImportError:
        say("not downloaded, because pooch is not installed: pip install 'minidl[data]'")
        return False
    if _network is False:
        return False
    for mirror in zip(*(file.mirrors for file in files), strict=True):
        if not _answers(mirror[0] + files[0].name):
            continue
        try:
            for file, folder in zip(files, mirror, strict=True):
                _fetch(pooch, folder + file.name, file)
            _network = True
            return True
        except (OSError, ValueError) as error:  # no disk, no network, or a page that is not the file (DataError)
            say(f"download from {mirror[0]} failed: {error}")
    _network = False
    return False


def _answers(url: str) -> bool:
    """Whether the address answers within 4 s. In a thread, for a name server that is not there has its own patience."""
    import requests

    answer: list[bool] = []

    def ask() -> None:
        try:
            answer.append(requests.head(url, timeout=3, allow_redirects=True).ok)
        except (OSError, ValueError):
            answer.append(False)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(4)
    return bool(answer and answer[0])


def _fetch(pooch, url: str, file: Remote) -> None:
    """Download one file beside its place, check its content, then move it there: a half file never has the name."""
    target = cache() / file.folder / file.name
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as beside:
        bar = sys.stderr.isatty() and importlib.util.find_spec("tqdm") is not None
        downloader = pooch.HTTPDownloader(progressbar=bar, timeout=30)
        pooch.get_logger().setLevel("WARNING")
        packed = pooch.retrieve(url, known_hash=None, fname=file.name, path=beside, downloader=downloader)
        content = _content(Path(packed), file)
        if (got := hashlib.sha256(content).hexdigest()) != file.sha256:
            raise DataError(f"{url} gave a content with sha256 {got}, published is {file.sha256}: nothing was kept")
        os.replace(packed, target)
