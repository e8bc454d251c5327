"""Files that are whole or not there: write to a temporary name, then rename. JSON in one canonical form, tensors as safetensors."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from isogrid.core.errors import InputError, StorageError


def user_path(value: object, field: str, accepted: str = "a path") -> Path:
    """A path that a user gave, `~` replaced by the home folder; raises InputError where `value` can be none.

    >>> user_path("a/b", "out")
    PosixPath('a/b')
    """
    try:
        if not isinstance(value, str | os.PathLike) or not str(value) or "\0" in str(value):
            raise ValueError
        return Path(value).expanduser()
    except (TypeError, ValueError, RuntimeError):  # the last where there is no such user
        raise InputError(field, value, accepted) from None


def exists(path: Path, *, folder: bool = False) -> bool:
    """Whether a file (or folder) is there, as far as one can see: what may not be looked at or has too long a name is not."""
    try:
        return path.is_dir() if folder else path.is_file()
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed onto it on success and removed on failure (a reader never sees half a file).

    Raises StorageError where anything cannot be written, in the block or here.
    """
    with _told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that becomes `path` on success. Where `path` exists already, the first one written stays.

    Raises StorageError where anything cannot be written, in the block or here.
    """
    with _told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            yield temporary
            temporary.chmod(0o777 & ~_umask())
            try:
                temporary.rename(path)
            except OSError:
                if not path.is_dir():  # else an earlier writer of the same cell was first: equal keys, equal content
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(error, path) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal bytes (non-finite numbers are refused)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(value: Any) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of the canonical JSON of `value`.

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:16]


def write_json(path: Path, value: Any) -> None:
    """Readable JSON with sorted keys, whole or not at all."""
    write_text(path, json.dumps(value, sort_keys=True, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The value stored in a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Store tensors as safetensors, contiguous and on the CPU, whole or not at all."""
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        try:
            safetensors.torch.save_file(plain, temporary, metadata=dict(metadata) if metadata else None)
        except safetensors.SafetensorError as error:  # its own form of what the system says
            number = re.search(r"os error (\d+)", str(error))
            code = int(number[1]) if number else errno.EIO
            raise OSError(code, os.strerror(code)) from error


def load_tensors(path: Path, field: str = "weights") -> dict[str, Tensor]:
    """Read a safetensors file; nothing in it is ever executed.

    Raises InputError, naming `field`, where the file is missing or not safetensors (a pickle, say).
    """
    if not exists(path):
        raise InputError(field, str(path), "the path of an existing .safetensors file")
    try:
        return safetensors.torch.load_file(path)
    except Exception as error:  # damaged bytes may raise anything: an unknown type is a KeyError
        raise InputError(field, str(path), f"a safetensors file ({error}); convert with safetensors.torch.save_file") from None
