"""Objects named by the user: "file.py:name" or "package.module:name". What does not belong here: what is done with them."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from isogrid.core.errors import InputError, one_of

FORM = 'a target such as "file.py:name" or "package.module:name"'


def load_target(field: str, target: str) -> Any:
    """The object that `target` names. A file's code runs once for each of its contents; it need not lie on the module path.

    Raises InputError, naming `field`, where the form is wrong, the file or module is missing or raises, or it has no such name.

    >>> load_target("factory", "math:hypot")(3, 4)
    5.0
    >>> load_target("factory", "math:hypto")
    Traceback (most recent call last):
    isogrid.core.errors.InputError: factory: got math:hypto; accepted: a name in math (did you mean math:hypot?)
    """
    place, colon, name = target.rpartition(":")
    if not (colon and place and name):
        raise InputError(field, target, FORM)
    try:
        module = _from_file(field, Path(place), target) if place.endswith(".py") else importlib.import_module(place)
    except InputError:
        raise
    except Exception as error:  # importing runs the user's code, which may raise anything
        raise InputError(field, target, f"{FORM}; importing it raised {type(error).__name__}: {error}") from error
    try:
        return getattr(module, name)
    except AttributeError:
        near = one_of(field, name, [n for n in vars(module) if not n.startswith("_")]).accepted.partition("did you mean ")[2].rstrip("?)")
        hint = f" (did you mean {place}:{near}?)" if near else ""
        raise InputError(field, target, f"a name in {place}{hint}") from None


def _from_file(field: str, path: Path, target: str) -> ModuleType:
    try:
        digest = hashlib.sha256(str(path.resolve()).encode() + path.read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise InputError(field, target, f"the path of a readable .py file ({error.strerror})") from None
    name = f"_isogrid_{path.stem}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before the code runs, as an import does: dataclasses and pickle look there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def source_digest(target: str) -> str:
    """16 hexadecimal digits of the file that holds what `target` names; "" where there is none.

    Pitfall: files that this file imports in turn are not looked at.
    """
    path = _file_of(target.rpartition(":")[0])
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path is not None and path.is_file() else ""


def _file_of(place: str) -> Path | None:
    if place.endswith(".py"):
        return Path(place)
    try:
        spec = importlib.util.find_spec(place) if place else None
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec and spec.origin else None


__all__ = ["load_target", "source_digest"]
