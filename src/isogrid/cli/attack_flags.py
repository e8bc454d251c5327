"""Attacks as flags name them: `pgd(norm=l2,steps=100),deepfool`, over those of a preset or a study. Not here: what parameters mean."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from isogrid import attacks as attack_library
from isogrid.core.errors import InputError, one_of

ALL_ATTACKS = attack_library.ATTACKS | attack_library.COMPOSED
FORM = "attacks with commas, parameters in brackets: pgd(norm=l2,steps=100),deepfool"
USES = {
    "callable": "my_attacks.py:function(norm=linf,eps=0.1)",
    "ensemble": "ensemble(attacks=fgs(eps=0.1)+pgd(eps=0.1))",
    "minimise": "minimise(attack=pgd(norm=l2,eps=0.5))",
}
"""How each attack that is made of something given is written in `--attacks`."""
INNER = ("attack", "attacks")
"""Settings that name attacks themselves."""
_ENTRY = re.compile(r"([^(),=]+?)\s*(?:\((.*)\))?", re.DOTALL)
_WORDS: dict[str, Any] = {"true": True, "false": False, "none": None, "null": None}


def parse_attacks(text: str) -> list[dict[str, Any]]:
    """The entries, as a study's YAML has them, that a flag's text stands for; raises InputError where it has another form.

    >>> parse_attacks("pgd(norm=l2,steps=100),deepfool")
    [{'name': 'pgd', 'norm': 'l2', 'steps': 100}, {'name': 'deepfool'}]
    """
    return [_attack(entry) for entry in parse_named("attacks", text, FORM)]


def parse_named(field: str, text: str, form: str) -> list[dict[str, Any]]:
    """Names with commas, settings in brackets, as a study's YAML has them; raises InputError, naming `field`, where the form is another.

    >>> parse_named("penalties", "l1-activations(weight=1e-4),mine.py:P", "")
    [{'name': 'l1-activations', 'weight': 0.0001}, {'name': 'mine.py:P'}]
    """
    entries = [_entry(field, part, form) for part in split_outside(field, text, ",", form)]
    if not entries:
        raise InputError(field, text, form)
    return entries


def chosen_attacks(base: list[Any], text: str | None, eps: str | None) -> list[dict[str, Any]]:
    """The attacks of `base` (entries of a study), or those that `text` names, with the budgets `eps` where they have one.

    One that `base` names already, by name or label, keeps its parameters unless `text` gives some. `eps` goes to the attacks that have
    a fixed budget by default, not to those whose budget the text gives. Raises InputError where it goes to none.
    """
    known = [_flat(entry) for entry in base]
    given = [] if text is None else parse_attacks(text)
    chosen = known if text is None else [entry for one in given for entry in _known(known, one) or [one]]
    if eps is None:
        return chosen
    budgets = split_list("eps", eps, number, "numbers with commas, as 0.05,0.1 or 8/255")
    takers = [_has_budget(entry["name"]) and not any(entry is one and "eps" in one for one in given) for entry in chosen]
    if not any(takers):
        names = ", ".join(entry["name"] for entry in chosen)
        raise InputError(
            "eps", eps, f"an attack with a fixed budget by default ({names}: none; eps can be a parameter, as in fab(eps=0.1))"
        )
    return [entry | {"eps": budgets} if takes else entry for entry, takes in zip(chosen, takers, strict=True)]


def _flat(entry: Any) -> dict[str, Any]:
    """An entry of a study in its short form."""
    if not isinstance(entry, dict):
        return {"name": entry}
    parameters = entry.get("parameters")
    return {k: v for k, v in entry.items() if k != "parameters"} | (parameters if isinstance(parameters, dict) else {})


def _known(known: list[dict[str, Any]], entry: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for one in known if set(entry) == {"name"} and entry["name"] in (one.get("name"), one.get("label"))]


def _has_budget(name: str) -> bool:
    if name not in ALL_ATTACKS:
        raise one_of("attack", name, ALL_ATTACKS)
    field = ALL_ATTACKS[name].__dataclass_fields__.get("eps")
    return field is not None and field.default is not None


def _entry(field: str, text: str, form: str) -> dict[str, Any]:
    found = _ENTRY.fullmatch(text)
    if found is None:
        raise InputError(field, text, form)
    entry: dict[str, Any] = {"name": found[1]}
    for part in split_outside(field, found[2] or "", ",", form):
        key, sign, value = (piece.strip() for piece in part.partition("="))
        if not (key.isidentifier() and sign and value) or key in entry:
            raise InputError(field, text, f"name=value in brackets, each name once: {form}")
        entry[key] = value if key in INNER else _value(value)
    return entry


def _attack(entry: dict[str, Any]) -> dict[str, Any]:
    """An attack of its own by its target; the attacks that one is made of in the same form."""
    name = entry["name"]
    entry = ({"name": "callable", "target": name} if ":" in name and name not in ALL_ATTACKS else {"name": name}) | {
        key: value for key, value in entry.items() if key != "name"
    }
    if "attack" in entry:
        entry["attack"] = _attack(_entry("attacks", entry["attack"], FORM))
    if "attacks" in entry:
        entry["attacks"] = [_attack(_entry("attacks", part, FORM)) for part in split_outside("attacks", entry["attacks"], "+", FORM)]
    return entry


def _value(text: str) -> Any:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    for convert in (int, number):
        try:
            return convert(text)
        except ValueError:
            continue
    return text


def number(text: str) -> float:
    """A number as people write it, fractions included; raises ValueError for anything else.

    >>> number("1e-1"), number("8/255")
    (0.1, 0.03137254901960784)
    """
    above, slash, below = text.partition("/")
    try:
        return float(above) / float(below) if slash else float(text)
    except ZeroDivisionError:
        raise ValueError(text) from None


def split_outside(field: str, text: str, separator: str, form: str) -> list[str]:
    """The parts between separators that stand in no brackets; empty ones go. Raises InputError where a bracket has no other.

    >>> split_outside("model", "vgg-like(width=0.25,dropout=0), linear", ",", "names")
    ['vgg-like(width=0.25,dropout=0)', 'linear']
    """
    parts, depth = [""], 0
    for sign in text:
        depth += (sign == "(") - (sign == ")")
        if depth < 0:
            break
        if sign == separator and depth == 0:
            parts.append("")
        else:
            parts[-1] += sign
    if depth != 0:
        raise InputError(field, text, f"as many closing as opening brackets: {form}")
    return [part.strip() for part in parts if part.strip()]


def split_list(field: str, text: str, convert: Callable[[str], Any], accepted: str) -> list[Any]:
    """The parts of a comma-separated flag; raises InputError where one does not convert or there is none.

    >>> split_list("eps", "0.05, 0.1", float, "numbers")
    [0.05, 0.1]
    """
    parts = split_outside(field, text, ",", accepted)
    try:
        values = [convert(part) for part in parts]
    except ValueError:
        raise InputError(field, text, accepted) from None
    if not values:
        raise InputError(field, text, accepted)
    return values
