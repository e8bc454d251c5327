"""Objects named by the user: "file.py:name" or "package.module:name". What does not belong here: what is done with them."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from isogrid.core.errors import InputError, one_of
from isogrid.core.process import settings_kept
from isogrid.core.sources import Source, contents, find_source

FORM = 'a target such as "file.py:name" or "package.module:name"'


def load_target(field: str, target: str) -> Any:
    """The object that `target` names. A file's code runs once for each of its contents; it need not lie on the module path.

    The file's own folder (for `package.module` the working folder) can be imported from while it loads; a module of the user's own that it
    imports there is the one that lies there, with the contents that it has now, whatever has been imported under its name before.
    What it sets for the whole process (the working folder, torch's threads ...) is put back.
    Raises InputError, naming `field`, where the form is wrong, the file or module is missing or raises, or it has no such name.

    >>> load_target("factory", "math:hypot")(3, 4)
    5.0
    >>> load_target("factory", "math:hypto")
    Traceback (most recent call last):
    isogrid.core.errors.InputError: factory: got math:hypto; accepted: a name in math (did you mean math:hypot?)
    """
    place, colon, name = target.rpartition(":") if isinstance(target, str) else ("", "", "")
    if not (colon and place and name):
        raise InputError(field, target, FORM)
    source = find_source(place)
    if place.endswith(".py") and source is None:
        raise InputError(field, target, "the path of a readable .py file")
    try:
        with _noted(target), settings_kept(), _at_home(source):
            module = _from_file(source) if source is not None and place.endswith(".py") else importlib.import_module(place)
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # importing runs the user's code, which may raise anything
        cure = ""
        if isinstance(error, ImportError) and "relative import" in str(error):
            cure = " (relative imports need a package: an __init__.py beside the file, or package.module:name)"
        raise InputError(field, target, f"{FORM}; importing it raised {type(error).__name__}: {error}{cure}") from error
    try:
        return getattr(module, name)
    except AttributeError:
        near = one_of(field, name, [n for n in vars(module) if not n.startswith("_")]).accepted.partition("did you mean ")[2].rstrip("?)")
        hint = f" (did you mean {place}:{near}?)" if near else ""
        raise InputError(field, target, f"a name in {place}{hint}") from None


def refuse_while_loading(what: str) -> None:
    """Raise InputError where a target is just being loaded: its file's own lines ask for `what`, which would load it once more."""
    if _loading:
        accepted = f'a file that only defines things while it is imported: put {what} under `if __name__ == "__main__":`'
        raise InputError("target", f"{_loading[-1]}, whose file calls {what}", accepted)


_loading: list[str] = []
"""The targets whose files are running now, outermost first."""


@contextlib.contextmanager
def _noted(target: str) -> Iterator[None]:
    _loading.append(target)
    try:
        yield
    finally:
        _loading.pop()


def source_digest(target: str) -> str:
    """16 hexadecimal digits of the file that holds what `target` names and of all that it imports of the user's own; "" for no file.

    Pitfall: installed libraries are not looked at, nor what is imported under a name that only running the code gives, nor data files.
    """
    source = find_source(target.rpartition(":")[0]) if isinstance(target, str) else None
    return "" if source is None else source.digest()


@contextlib.contextmanager
def at_home(target: str) -> Iterator[None]:
    """Inside, imports lead where they lead while `target` is loaded: for calling a function that imports when it is called."""
    with _at_home(find_source(target.rpartition(":")[0])):
        yield


def _from_file(source: Source) -> ModuleType:
    digest = hashlib.sha256(f"{source.path} {source.digest()}".encode()).hexdigest()[:16]
    name = f"{source.package}.".lstrip(".") + f"_isogrid_{source.path.stem}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, source.path, loader=_Present(name, str(source.path)))
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


class _Present(SourceFileLoader):
    """Code from the file itself: the cache of compiled code takes a file changed within a second, of equal length, for the old one."""

    def get_code(self, fullname: str) -> CodeType | None:
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code


class _Neighbours(MetaPathFinder):
    """Finds the user's own modules in the files that were read for the digest."""

    def __init__(self, modules: dict[str, Path]) -> None:
        self.modules = modules

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        file = self.modules.get(fullname)
        if file is None:
            return None
        inside = [str(file.parent)] if file.name == "__init__.py" else None
        loader = _Present(fullname, str(file))
        return importlib.util.spec_from_file_location(fullname, file, loader=loader, submodule_search_locations=inside)


_known: dict[Path, tuple[str, ModuleType]] = {}
"""The user's own modules that have been imported here: by file, the digest of its contents then, and the module."""


@contextlib.contextmanager
def _at_home(source: Source | None) -> Iterator[None]:
    """The source's own modules in the place of others of their names, and its folders on the path; afterwards, the others are back."""
    modules = {} if source is None else source.modules()
    digests = {file: hashlib.sha256(contents(file)).hexdigest() for file in modules.values()}
    if any(file in _known and _known[file][0] != digest for file, digest in digests.items()):
        for name in _names_of({id(module) for _, module in _known.values()}):
            _put(name, None)
        _known.clear()  # whatever imported a file that has changed since holds parts of its former contents
    ours = {id(module) for _, module in _known.values()}
    before = {name: sys.modules[name] for name in {*modules, *_names_of(ours)} if name in sys.modules}
    for name, module in before.items():
        if _file(module) != modules.get(name):
            _put(name, None)
    for name, file in modules.items():
        if file in _known:
            _put(name, _known[file][1])
    finder = _Neighbours(modules)
    folders = [] if source is None else [folder for folder in source.search if folder not in sys.path]
    sys.meta_path.insert(0, finder)
    sys.path.extend(folders)  # for what only running the code names: at the end, so that the standard library stays in force
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for folder in folders:
            if folder in sys.path:
                sys.path.remove(folder)
        for name, file in modules.items():
            if name in sys.modules and _file(sys.modules[name]) == file:
                _known[file] = digests[file], sys.modules[name]
        for name, module in before.items():
            if name not in modules or (id(module) not in ours and _file(module) != modules[name]):
                _put(name, module)


def _names_of(modules: set[int]) -> list[str]:
    return [name for name, module in list(sys.modules.items()) if id(module) in modules]


def _put(name: str, module: ModuleType | None) -> None:
    """Make a name mean `module`, or nothing, in the table of modules and as an attribute of its package."""
    parent, _, leaf = name.rpartition(".")
    holder = vars(sys.modules[parent]) if parent in sys.modules else {}
    if module is not None:
        sys.modules[name] = holder[leaf] = module
    elif holder.get(leaf) is sys.modules.pop(name, None):
        holder.pop(leaf, None)


def _file(module: ModuleType) -> Path | None:
    path = getattr(module, "__file__", None)
    return Path(path).resolve() if path else None


__all__ = ["at_home", "load_target", "refuse_while_loading", "source_digest"]
