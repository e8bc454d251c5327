"""Things known by a name and a few settings: registered classes, and the user's own by `file.py:Class` or `package.module:Class`.

Here: from a name and settings to an instance and back. Not here: what is registered, or what an instance does.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar, cast

from isogrid.core.errors import InputError, one_of
from isogrid.core.targets import load_target, source_digest

T = TypeVar("T")
Config = str | Mapping[str, Any]
"""A name, or `{"name": ..., **settings}`."""
OWN = ("file.py:Class", "package.module:Class")
_names: dict[type, str] = {}
"""What each class is called: a registered one by its row, one of the user's own as it was written."""


class Registry(Mapping[str, type[T]], Generic[T]):
    """Frozen dataclasses by their class attribute `name`; `field` is what their kind is called in a specification.

    >>> from isogrid.sparsity import PRUNERS
    >>> PRUNERS.make({"name": "progressive", "rate": 0.5}).rate
    0.5
    >>> PRUNERS.make({"name": "dense", "rate": 0.5})
    Traceback (most recent call last):
    isogrid.core.errors.InputError: pruner dense: got rate; accepted: nothing beside the name
    """

    def __init__(self, field: str, base: type[Any], *rows: type[T]) -> None:
        self.field, self.base = field, base
        self._rows = {cast(str, vars(row)["name"]): row for row in rows}
        _names.update((row, name) for name, row in self._rows.items())

    def __getitem__(self, name: str) -> type[T]:
        return self._rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def kind(self, name: object, field: str = "") -> type[T]:
        """The class of a name.

        Raises InputError, naming `field`, for an unknown name, and where the user's own is no class of this kind.
        """
        field = field or self.field
        if isinstance(name, str) and name in self._rows:
            return self._rows[name]
        if not isinstance(name, str) or ":" not in name:
            raise one_of(field, str(name), [*self._rows, *OWN])
        found = load_target(field, name)
        wanted = f"a subclass of {self.base.__module__.rpartition('.')[0]}.{self.base.__name__}"
        if not isinstance(found, type) or not issubclass(found, self.base):
            raise InputError(field, f"{name}, which is {'the class' if isinstance(found, type) else 'a'} {_title(found)}", wanted)
        if inspect.isabstract(found):
            missing = ", ".join(sorted(vars(found)["__abstractmethods__"]))
            raise InputError(field, f"{name}, without {missing}", wanted + " that writes every abstract method")
        _names[found] = name
        return found

    def make(self, config: Config | T, field: str = "") -> T:
        """The instance that a configuration stands for; an instance is returned as it is.

        Raises InputError for an unknown name or setting, with the nearest accepted one, and whatever the class says of a bad value.
        """
        if isinstance(config, self.base):
            return cast(T, config)
        field = field or self.field
        name, settings = _split(config)
        kind = self.kind(name, field)
        fields = {f.name: f for f in dataclasses.fields(cast(Any, kind)) if f.init} if dataclasses.is_dataclass(kind) else {}
        for setting in settings:
            if not fields:
                raise InputError(f"{field} {name}", setting, "nothing beside the name")
            if setting not in fields:
                raise one_of(f"{field} {name}", setting, fields)
        for setting, known in fields.items():
            if setting not in settings and known.default is known.default_factory is dataclasses.MISSING:
                raise InputError(f"{field} {name}.{setting}", "nothing", "a value: this setting has no default")
        try:
            return kind(**settings)
        except InputError:
            raise
        except (TypeError, ValueError) as error:  # what a class says that does not verify its settings
            raise InputError(f"{field} {name}", settings, f"settings of the right types ({error})") from None

    def plain(self, config: Config, field: str = "") -> str | dict[str, Any]:
        """The configuration with every default written out, checked; the user's own as it was given, and not loaded.

        A name alone where there are no settings.
        """
        field = field or self.field
        name, settings = _split(config)
        if isinstance(name, str) and ":" in name:
            return {"name": name} | settings if settings else name
        full = config_of(self.make(config, field))
        return full if len(full) > 1 else cast(str, name)


def _split(config: object) -> tuple[object, dict[str, Any]]:
    if isinstance(config, Mapping):
        return config.get("name"), {str(key): value for key, value in config.items() if key != "name"}
    return config, {}


def _title(found: object) -> str:
    return found.__name__ if isinstance(found, type) else type(found).__name__


def config_of(instance: object) -> dict[str, Any]:
    """`{"name": ..., **settings}`, defaults included; `Registry.make` turns it back.

    The name of a class of the user's own is what it was made by, or `package.module:Class`.
    """
    kind = type(instance)
    return {"name": _names.get(kind, f"{kind.__module__}:{kind.__qualname__}")} | {
        f.name: getattr(instance, f.name) for f in dataclasses.fields(cast(Any, instance)) if f.init
    }


def sources_of(config: object) -> dict[str, str]:
    """The digests of the files behind every class of the user's own that a configuration names, at any depth; by name.

    >>> sources_of({"name": "progressive", "rate": 0.5})
    {}
    """
    if isinstance(config, str):
        digest = source_digest(config) if ":" in config else ""
        return {config: digest} if digest else {}
    if isinstance(config, Mapping):
        parts: list[Any] = list(config.values())
    else:
        parts = list(config) if isinstance(config, list | tuple) else []
    return {name: digest for part in parts for name, digest in sources_of(part).items()}


__all__ = ["Config", "Registry", "config_of", "sources_of"]
