"""Settings as plain data, from a file or a preset, and what is said where they cannot be used. Not here: which settings there are."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from isogrid.core.errors import InputError, one_of

PRESETS = ("quick", "paper-mnist")


class _Once(yaml.SafeLoader):
    """A safe loader that refuses a key that stands twice in a mapping, where YAML keeps the last one in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: list[Any] = []
        for key, _ in node.value:
            name = self.construct_object(key)
            if name in seen:
                raise yaml.constructor.ConstructorError(problem=f"the key {name!r} stands twice", problem_mark=key.start_mark)
            seen.append(name)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """Plain data of a YAML file; raises InputError where it is missing or no YAML."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Once) or {}
    except FileNotFoundError:
        raise InputError("study", str(path), "the path of an existing YAML file") from None
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise InputError("study", str(path), f"a readable YAML file ({' '.join(str(error).split())})") from None


def preset_data(name: str) -> dict[str, Any]:
    """A preset as plain data, before validation, so that flags can be laid over it."""
    if name not in PRESETS:
        raise one_of("preset", name, PRESETS)
    text = resources.files("isogrid.study").joinpath("presets", f"{name}.yaml").read_text(encoding="utf-8")
    data: dict[str, Any] = yaml.safe_load(text)
    return data


def explain(error: ValidationError, whole: type[BaseModel], parts: dict[str, type[BaseModel]]) -> InputError:
    """The first finding of pydantic as our one line; an unknown key gets the nearest accepted name."""
    first = error.errors()[0]
    inner = first.get("ctx", {}).get("error")
    if isinstance(inner, InputError):
        return inner
    where = [part for part in first["loc"] if part not in ("tuple[int, ...]",) and not str(part).startswith(("literal[", "function-"))]
    field = ".".join(map(str, where)) or "study"
    if first["type"] == "extra_forbidden":
        kind = next((parts[str(p)] for p in reversed(where[:-1]) if str(p) in parts), whole)
        return one_of("key", field, [f"{'.'.join(map(str, where[:-1]))}.{k}".lstrip(".") for k in kind.model_fields])
    if first["type"] == "missing":
        return InputError(field, "nothing", "a value: this setting has no default")
    accepted = "a list" if first["type"] == "tuple_type" else first["msg"].removeprefix("Input should be ")
    return InputError(field, first.get("input"), accepted[0].lower() + accepted[1:])
