"""What `isogrid list` shows: the registries, with the first line of each entry's documentation."""

from __future__ import annotations

import inspect

from isogrid.attacks import ATTACKS, COMPOSED
from isogrid.certify import CERTIFICATES
from isogrid.cli.attack_flags import USES
from isogrid.data import DATA
from isogrid.models import MODELS
from isogrid.sparsity import PRUNERS
from isogrid.study.spec import PRESETS, Spec


def catalogue() -> dict[str, dict[str, str]]:
    """{kind: {name: one line}}."""
    return {
        "data": {name: line for name, (_, line) in DATA.items()},
        "models": {name: line for name, (_, line) in MODELS.items()},
        "methods": {name: _first_line(cls) for name, cls in PRUNERS.items()},
        "attacks": {name: _first_line(cls) for name, cls in ATTACKS.items()},
        "composed attacks": {name: f"{_first_line(cls).rstrip('.')}: as {USES[name]}" for name, cls in COMPOSED.items()},
        "certificates": {name: _first_line(cls) for name, cls in CERTIFICATES.items()},
        "presets": {name: _describe(Spec.preset(name)) for name in PRESETS},
    }


def _first_line(thing: object) -> str:
    return (inspect.getdoc(thing) or "").split("\n")[0]


def _describe(spec: Spec) -> str:
    models = ", ".join(model.title for model in spec.models)
    attacks = ", ".join(attack.name for attack in spec.attacks)
    return f"{models}; {spec.seeds} seeds, {max(one.rounds for one in spec.prunings)} rounds; {attacks}"
