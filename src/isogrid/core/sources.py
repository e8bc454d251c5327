"""Which files a user's code stands on: those that its imports lead to, found by reading and without running anything.

What belongs here: from a file to the modules of the user's own that it imports, and the digest of them all. What does not: importing them.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder
from pathlib import Path

_INSTALLED = {"site-packages", "dist-packages"}
_LIBRARY = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib"))
_ISOGRID = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A user's file: its `path`, its `name` as a module ("" for a file by its path), the `package` that it lies in ("" for none), and the
    folders `search` in which its imports are found."""

    path: Path
    name: str
    package: str
    search: tuple[str, ...]

    def modules(self) -> dict[str, Path]:
        """The modules of the user's own that the file imports, directly or through each other, and it itself: {name: file}."""
        found = dict(_resolve(self.name, self.search)) if self.name else {}
        open_ = [(self.path, self.package)]
        while open_:
            path, package = open_.pop()
            for name in _imports(contents(path), package):
                for module, file in _resolve(name, self.search):
                    if module not in found:
                        found[module] = file
                        open_.append((file, module if file.name == "__init__.py" else module.rpartition(".")[0]))
        return found

    def digest(self) -> str:
        """16 hexadecimal digits of the file and of every module of the user's own that it imports.

        Installed libraries are not looked at, nor what is imported under a name that only running the code gives, nor data files.
        """
        sha = hashlib.sha256(contents(self.path))
        for name, path in sorted(self.modules().items()):
            sha.update(b"" if path == self.path else f"\0{name}\0".encode() + contents(path))
        return sha.hexdigest()[:16]


def find_source(place: str) -> Source | None:
    """The source of `file.py` or `package.module`; None where there is no such file.

    A file finds its neighbours as a script does, and those of its package where its folder is one; a module is looked for in the working
    folder first, as `python -m` does.
    """
    if place.endswith(".py"):
        return of_file(Path(place))
    search = (*_working_folder(), *sys.path)
    steps = list(_steps(place, search)) if all(part.isidentifier() for part in place.split(".")) else []
    if not steps or steps[-1][0] != place or steps[-1][1] is None:
        return None
    package = place if steps[-1][1].name == "__init__.py" else place.rpartition(".")[0]
    return Source(path=steps[-1][1], name=place, package=package, search=search)


def _working_folder() -> tuple[str, ...]:
    try:
        return (str(Path.cwd()),)
    except OSError:  # it has been removed
        return ()


def of_file(path: Path) -> Source | None:
    """The source that a file is; None where it is not there."""
    try:
        path = path.resolve()
        if not path.is_file():
            return None
    except (OSError, ValueError):
        return None
    root, parts = path.parent, []
    while (root / "__init__.py").is_file() and root.name.isidentifier():
        parts.append(root.name)
        root = root.parent
    package = ".".join(reversed(parts))
    return Source(path=path, name="", package=package, search=(str(path.parent), *((str(root),) if package else ()), *sys.path))


def is_own(path: Path) -> bool:
    """Whether a file is the user's: not the interpreter's, no installed library's and not isogrid's."""
    path = path.resolve()
    return not _INSTALLED & set(path.parts) and not any(path.is_relative_to(folder) for folder in (*_LIBRARY, _ISOGRID))


def contents(path: Path) -> bytes:
    """The bytes of a file; none where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


@lru_cache(maxsize=512)
def _imports(code: bytes, package: str) -> tuple[str, ...]:
    """The absolute names that a file's imports may mean, wherever they stand in it; `from a import b` may mean the module a.b."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ()
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*filter(None, above), *filter(None, [node.module])])
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)] if base else []
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            names += [node.args[0].value] if called in ("import_module", "__import__") else []
    return tuple(dict.fromkeys(names))


def _resolve(name: str, search: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """The user's own modules among a name's packages and itself, outermost first; a name of the standard library is that library's."""
    if name.partition(".")[0] in sys.stdlib_module_names:
        return
    for module, file in _steps(name, search):
        if file is not None:
            if not is_own(file):
                return
            yield module, file


def _steps(name: str, search: Sequence[str]) -> Iterator[tuple[str, Path | None]]:
    """(module, file) of each part of a dotted name as far as there is one; the file is None for a folder without `__init__.py`."""
    places = [Path(place) for place in search]
    parts = name.split(".")
    for number, part in enumerate(parts, 1):
        file, folders = _one(part, places)
        if file is None and not folders and number == 1:
            file, folders = _hooked(part)
        if file is None and not folders:
            return
        yield ".".join(parts[:number]), file
        places = folders


def _one(part: str, places: Sequence[Path]) -> tuple[Path | None, list[Path]]:
    """A package's or module's file with the folders of its submodules, as the import system would find it."""
    spaces = []
    for place in places:
        try:
            if (place / part / "__init__.py").is_file():
                return (place / part / "__init__.py").resolve(), [place / part]
            if (place / f"{part}.py").is_file():
                return (place / f"{part}.py").resolve(), []
            if part.isidentifier() and (place / part).is_dir():
                spaces.append(place / part)
        except (OSError, ValueError):
            continue
    return None, spaces


def _hooked(part: str) -> tuple[Path | None, list[Path]]:
    """A top-level module that no folder holds but an import hook knows, as for an editable install. Finding it runs nothing."""
    for finder in sys.meta_path:
        if finder not in (BuiltinImporter, FrozenImporter, PathFinder):
            with contextlib.suppress(Exception):  # somebody else's hook
                spec = finder.find_spec(part, None)
                if spec is not None and spec.origin and spec.origin.endswith(".py"):
                    return Path(spec.origin).resolve(), [Path(place) for place in spec.submodule_search_locations or ()]
    return None, []


__all__ = ["Source", "contents", "find_source", "is_own", "of_file"]
