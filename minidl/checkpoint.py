"""Checkpoints: everything a run needs to go on with the same bits, in one file that is either old or new, never half.

    save("run.npz", model=model, optimizer=optimizer, step=step, data=loader)
    start = load("run.npz", model=model, optimizer=optimizer, data=loader).step

The file is an ordinary .npz: arrays under their names, and one member `json` with the rest (numbers, the states of
Generators, the position in the data). Nothing in it is code: no pickle is written or read. With a path that ends in
.safetensors the same goes into that format. A step replaces arrays and never writes into them, so that collecting them
is free; the cost is the writing.

Written atomically: into a second file of the same folder, forced to the disk, then renamed. Whoever is killed leaves
the checkpoint of before.
"""

from __future__ import annotations

import json
import os
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from minidl.errors import DataError, InputError, MissingExtra
from minidl.machine import conditions

_FORMAT = "minidl checkpoint 1"
_OWN = {"rngs", "step", "extra", "conditions", "format"}


@dataclass(frozen=True)
class Checkpoint:
    """What `load` gives back: the steps done, what the caller had added, and where it was written."""

    step: int
    extra: Any = None
    conditions: dict[str, str] = field(default_factory=dict)


def save(path, *, model=None, optimizer=None, step=0, rngs=None, data=None, extra=None) -> None:
    """Write a checkpoint, atomically.

    model, optimizer, data: anything with state_dict() and load_state_dict(): a Module, an Optimizer, a DataLoader.
    step: how many steps are done; a schedule is a function of it. rngs: {name: Generator} besides those inside the
    model (dropout's), which are found. extra: numbers, texts, arrays, and dicts and lists of them.
    Raises InputError for what cannot be stored without pickle, MissingExtra for .safetensors without that package.
    """
    members = {"model": model, "optimizer": optimizer, "data": data}
    tree: dict[str, Any] = {name: member.state_dict() for name, member in members.items() if member is not None}
    found = generators(model, rngs)
    tree["rngs"] = {name: rng.bit_generator.state for name, rng in found.items()}
    tree |= {"step": int(step), "extra": extra, "conditions": conditions(), "format": _FORMAT}
    arrays: dict[str, np.ndarray] = {}
    text = json.dumps(_without_arrays(tree, "", arrays))
    if _is_safetensors(path):
        save_safetensors(path, arrays, {"json": text})
    else:
        content = np.frombuffer(text.encode(), np.uint8)
        # a model may well have a weight called "file", which np.savez(f, **arrays) does not take
        write_atomically(path, lambda file: _write_npz(file, {**arrays, "json": content}))


def load(path, *, model=None, optimizer=None, rngs=None, data=None) -> Checkpoint:
    """Put everything back where `save` took it from. Returns a Checkpoint.

    What is not given is left aside: load(path, model=model) takes the weights alone. What does not fit raises and
    changes nothing. Warns, in a sentence, where the bits of what follows may differ:
    another BLAS kernel, number of threads, version or form. Raises DataError if the file is missing or damaged.
    """
    arrays, text = _read(path)
    try:
        tree = _with_arrays(json.loads(text), arrays)
        if tree["format"] != _FORMAT:
            raise ValueError(f"its format is {tree['format']!r}")
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no checkpoint of minidl: {type(error).__name__} {error}") from error
    members = {k: m for k, m in {"model": model, "optimizer": optimizer, "data": data}.items() if m is not None}
    found = generators(model, rngs)
    missing = sorted((members.keys() - tree.keys()) | (found.keys() - tree["rngs"].keys()))
    if missing:
        raise InputError(f"{path} holds no state for {missing}; it has {sorted([*tree.keys() - _OWN, *tree['rngs']])}")
    before = {name: member.state_dict() for name, member in members.items()}
    states = {name: rng.bit_generator.state for name, rng in found.items()}
    try:
        for name, member in members.items():
            member.load_state_dict(tree[name])
        for name, rng in found.items():
            _set_state(name, rng, tree["rngs"][name])
    except Exception:
        for name, member in members.items():
            member.load_state_dict(before[name])
        for name, rng in found.items():
            rng.bit_generator.state = states[name]
        raise
    here = conditions()
    for what, then in tree["conditions"].items():
        if here.get(what) != then:
            warnings.warn(
                f"{path} was written where {what} was {then}; here it is {here.get(what, 'unknown')}: the run goes "
                "on, but not with the same bits",
                stacklevel=2,
            )
    return Checkpoint(tree["step"], tree["extra"], tree["conditions"])


def save_safetensors(path, arrays: dict[str, np.ndarray], metadata: dict[str, str] | None = None) -> None:
    """Write {name: array}, for instance model.state_dict(), as a safetensors file, atomically; PyTorch reads it.

    Raises MissingExtra without the package safetensors.
    """
    numpy_format, _ = _safetensors()
    # The package writes an array's memory as it lies there: of a transposed view that would be other numbers.
    plain = {name: np.ascontiguousarray(a).reshape(np.shape(a)) for name, a in arrays.items()}
    content = numpy_format.save(plain, metadata)
    write_atomically(path, lambda file: file.write(content))


def load_safetensors(path) -> dict[str, np.ndarray]:
    """{name: array} of a safetensors file. Raises DataError if it is missing or damaged, MissingExtra."""
    return _read_safetensors(path)[0]


def write_atomically(path, write: Callable[[Any], Any]) -> None:
    """Let write(file) fill a new file that then takes the place of `path` in one go: readers see the old or the new.

    The name of the new file is always the same, so that kills leave at most one behind, which the next call overwrites.
    """
    path = Path(path)
    fresh = path.with_name(f".{path.name}.part")
    with open(fresh, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())  # before the rename: else a power cut could leave the new name on empty content
    os.replace(fresh, path)
    if os.name == "posix":  # the rename itself is content of the folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _write_npz(file, arrays: dict[str, np.ndarray]) -> None:
    """np.savez for names of any kind."""
    with zipfile.ZipFile(file, "w", allowZip64=True) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def _is_safetensors(path) -> bool:
    return Path(path).suffix == ".safetensors"


def _read(path) -> tuple[dict[str, np.ndarray], str]:
    """The arrays and the JSON text of a checkpoint."""
    if _is_safetensors(path):
        arrays, metadata = _read_safetensors(path)
        return arrays, metadata.get("json", "")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}  # zipfile compares every checksum
        return arrays, bytes(arrays.pop("json")).decode()
    except FileNotFoundError as error:
        raise DataError(f"there is no checkpoint {path}") from error
    except Exception as error:  # a damaged archive fails in many ways: zipfile, zlib, struct, tokenize, MemoryError
        raise _damaged(path, error) from error


def _read_safetensors(path):
    numpy_format, safe_open = _safetensors()
    try:
        content = Path(path).read_bytes()
        arrays = numpy_format.load(content)
        with safe_open(path, "np") as file:
            return arrays, file.metadata() or {}
    except FileNotFoundError as error:
        raise DataError(f"there is no file {path}") from error
    except Exception as error:
        raise _damaged(path, error) from error


def _damaged(path, error) -> DataError:
    if isinstance(error, PermissionError | IsADirectoryError):
        return DataError(f"{path} cannot be read: {error}")
    size = Path(path).stat().st_size
    return DataError(f"{path} ({size} bytes) is damaged or cut off: {type(error).__name__}: {error}; take an older one")


def _safetensors():
    try:
        import safetensors.numpy
    except ImportError as error:
        raise MissingExtra("safetensors is not installed: pip install 'minidl[data]'") from error
    return safetensors.numpy, safetensors.safe_open


def _without_arrays(value, name: str, arrays: dict[str, np.ndarray]):
    """The same tree for JSON: each array goes into `arrays` under its path, and {"array": path} takes its place.

    A dict becomes {"dict": ...} and a tuple {"tuple": ...}, so that nothing in the tree can be taken for a mark.
    """
    if isinstance(value, dict):
        return {"dict": {str(k): _without_arrays(v, f"{name}/{k}".lstrip("/"), arrays) for k, v in value.items()}}
    if isinstance(value, (list, tuple)):
        parts = [_without_arrays(v, f"{name}/{i}", arrays) for i, v in enumerate(value)]
        return parts if isinstance(value, list) else {"tuple": parts}
    if isinstance(value, (np.ndarray, np.generic)):
        if value.dtype.kind not in "fiubc":
            raise InputError(f"checkpoint: {name} is an array of {value.dtype}, which is stored by pickle alone")
        arrays[name] = np.asarray(value)
        return {"array": name}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise InputError(f"checkpoint: {name} is a {type(value).__name__}; numbers, texts, arrays, dicts and lists fit")


def _with_arrays(value, arrays):
    """The tree from which _without_arrays made `value`."""
    if isinstance(value, list):
        return [_with_arrays(v, arrays) for v in value]
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return arrays[value["array"]][()]  # a number for ()-shaped arrays, as it was
    if "tuple" in value:
        return tuple(_with_arrays(value["tuple"], arrays))
    return {k: _with_arrays(v, arrays) for k, v in value["dict"].items()}


def generators(model, rngs=None) -> dict[str, np.random.Generator]:
    """The Generators that were passed and those that are attributes of the model's modules (dropout's), by name."""
    found = dict(rngs or {})
    for name, module in _modules(model) if model is not None else ():
        for attribute, value in vars(module).items():
            if isinstance(value, np.random.Generator):
                found[f"model/{name}{attribute}"] = value
    return found


def _modules(module, prefix: str = "") -> Iterator[tuple[str, Any]]:
    yield prefix, module
    for name, child in module.children():
        yield from _modules(child, f"{prefix}{name}.")


def _set_state(name: str, rng: np.random.Generator, state: dict) -> None:
    kind = type(rng.bit_generator).__name__
    if state["bit_generator"] != kind:
        raise InputError(f"the Generator {name!r} was a {state['bit_generator']}, here it is a {kind}")
    rng.bit_generator.state = state
