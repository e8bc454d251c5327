"""Settings as plain data, from a file or a preset, and what is said where they cannot be used. Not here: which settings there are."""

from __future__ import annotations

import dataclasses
import re
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from isogrid.core.errors import InputError, one_of

PRESETS = ("quick", "paper-mnist", "paper-cifar")


_MERGE, _NUMBER, _FRACTION = "tag:yaml.org,2002:merge", "tag:yaml.org,2002:float", "!fraction"


class _Loader(yaml.SafeLoader):
    """A safe loader of YAML as people write it: `1e-1` and `8/255` are numbers, `010` is ten, a date is text, merge keys are read.

    It refuses a key that stands twice in a mapping, where YAML keeps the last one in silence; one that overrides a merged key does not.
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                if (key.tag, key.value) in seen:
                    raise yaml.constructor.ConstructorError(problem=f"the key {key.value!r} stands twice", problem_mark=key.start_mark)
                seen.add((key.tag, key.value))
        return node


def _whole(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = node.value.replace("_", "")
    return int(text) if re.fullmatch(r"[-+]?[0-9]+", text) else int(text, 0)


def _fraction(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    above, below = node.value.split("/")
    return float(above) / float(below)


_TEXT = ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:int", _NUMBER)
_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in forms if tag not in _TEXT] for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_SIGNS = list("-+0123456789.")
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"(?:[-+]?[0-9][0-9_]*|0x[0-9a-fA-F]+|0o[0-7]+)$"), _SIGNS)
_Loader.add_implicit_resolver(
    _NUMBER,
    re.compile(r"(?:[-+]?(?:[0-9][0-9_]*\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"),
    _SIGNS,
)
_Loader.add_implicit_resolver(_FRACTION, re.compile(r"[-+]?[0-9]+(?:\.[0-9]+)?/[0-9]*[1-9][0-9]*(?:\.[0-9]+)?$"), _SIGNS)
_Loader.add_constructor("tag:yaml.org,2002:int", _whole)
_Loader.add_constructor(_FRACTION, _fraction)


def read_yaml(path: Path) -> dict[str, Any]:
    """The settings in a YAML file; raises InputError where it is missing, no YAML, empty or no mapping."""
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise InputError("study", str(path), "the path of an existing YAML file") from None
    except Exception as error:  # damaged text may raise anything in the parser: RecursionError, ValueError ...
        raise InputError("study", str(path), f"a readable YAML file ({' '.join(str(error).split()) or type(error).__name__})") from None
    if not isinstance(found, dict):
        what = "which is empty" if found is None else f"which holds {found!r}"
        raise InputError("study", f"{path}, {what}", "a YAML mapping of settings, such as `data: digits`")
    return found


def preset_data(name: str) -> dict[str, Any]:
    """A preset as plain data, before validation, so that flags can be laid over it."""
    if name not in PRESETS:
        raise one_of("preset", name, PRESETS)
    text = resources.files("isogrid.study").joinpath("presets", f"{name}.yaml").read_text(encoding="utf-8")
    data: dict[str, Any] = yaml.load(text, _Loader)
    return data


NOT_WRITTEN = ("tuple[int, ...]", "one", "many")
"""Steps of pydantic's way to a value that nobody has written."""


def explain(error: ValidationError, whole: type, parts: dict[str, type]) -> InputError:
    """The first finding of pydantic as our one line; an unknown key gets the nearest accepted name."""
    first = error.errors()[0]
    inner = first.get("ctx", {}).get("error")
    if isinstance(inner, InputError):
        return inner
    where = _where(first)
    field = ".".join(map(str, where)) or "study"
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        kind = next((parts[str(p)] for p in reversed(where[:-1]) if str(p) in parts), whole)
        return one_of("key", field, [f"{'.'.join(map(str, where[:-1]))}.{k}".lstrip(".") for k in _keys(kind)])
    if first["type"] == "missing":
        return InputError(field, "nothing", "a value: this setting has no default")
    return InputError(
        field, first.get("input"), " or ".join(dict.fromkeys(_accepted(one) for one in error.errors() if _where(one) == where))
    )


def _where(finding: Any) -> list[Any]:
    return [part for part in finding["loc"] if part not in NOT_WRITTEN and not str(part).startswith(("literal[", "function-"))]


def _accepted(finding: Any) -> str:
    accepted: str = "a list" if finding["type"] == "tuple_type" else finding["msg"].removeprefix("Input should be ")
    return accepted[0].lower() + accepted[1:]


def _keys(kind: Any) -> list[str]:
    return list(kind.model_fields) if issubclass(kind, BaseModel) else [field.name for field in dataclasses.fields(kind)]
