"""Counts however they are written: 1e2 is 100 wherever a count may stand, with the same keys; a truth value is a number nowhere."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from isogrid.cli import main
from isogrid.core.errors import InputError
from isogrid.study.planning import plan
from isogrid.study.spec import Spec
from isogrid.training.substitute import SubstituteConfig

ALL: dict[str, Any] = {
    "data": {"name": "digits", "train": 100, "test": 20, "box": [0, 1]},
    "models": [{"name": "linear", "classes": [1, 7]}],
    "training": {
        "objective": {"name": "pgd-at", "eps": 0.1, "steps": 2}, "penalty": {"name": "l1-activations", "weight": 1}, "epochs": 2,
        "retrain_epochs": 1, "batch_size": 10, "optimizer": {"name": "adam", "lr": 1, "weight_decay": 0},
        "early_stop": {"patience": 10, "min_delta": 0},
    },
    "pruning": {"method": "set", "sparsity": [0.5], "every": 10},
    "control": {"rounds": [1]},
    "attacks": [{"name": "fgs", "eps": [1]}, {"name": "pgd", "eps": 0.1, "steps": 10, "samples": 10, "samples_of": {"linear": 10}}],
    "transfer": {"attack": {"name": "fgs", "eps": 0.1}, "samples": 10},
    "blackbox": {"attack": {"name": "fgs", "eps": 0.1}, "model": "linear", "levels": [1], "seed_samples": 20, "rounds": 2},
    "audit": {"levels": [0], "samples": 10},
    "certify": {"samples": 10, "seeds": 1, "levels": [1], "eps": {"linf": [1]}},
    "exact": [{"samples": 10, "seeds": 1, "levels": [1], "eps": {"linf": [1]}, "method": {"nodes": 10}}],
    "lipschitz": {"samples": 10, "seeds": 1, "levels": [1], "radii": {"linf": 1}, "draws": 2, "clever": 10},
    "seeds": 2,
    "tolerance": {"r_inf": 0, "distance": 0, "accuracy": 0},
    "threads": 1,
}  # fmt: skip


def numbers(value: Any, path: tuple[Any, ...] = ()):
    if isinstance(value, int | float):
        yield path
    for key, part in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from numbers(part, (*path, key))


def changed(path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    found = copy.deepcopy(ALL)
    inner = found
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value(inner[path[-1]])
    return found


PLACES = list(numbers(ALL))


@pytest.mark.parametrize("path", PLACES, ids=lambda path: ".".join(map(str, path)))
def test_a_truth_value_is_no_number(path):
    for value in (True, False):
        with pytest.raises(InputError, match=f"got .*{value}.*; accepted: "):
            Spec.parse(changed(path, lambda _, value=value: value))


def test_whole_floats_are_counts_with_the_same_keys():
    settings = ALL | {"training": ALL["training"] | {"penalty": None}, "models": ["linear"]}  # which has no ReLU
    found, written = copy.deepcopy(settings), Spec.parse(settings)
    for path in numbers(settings):
        inner = found
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = float(inner[path[-1]])
    assert [cell.key for cell in plan(Spec.parse(found)).cells] == [cell.key for cell in plan(written).cells]


@pytest.mark.parametrize("path", [p for p in PLACES if p[-1] in ("steps", "samples", "epochs", "every", "nodes", "patience", "threads")])
def test_half_a_count_is_refused(path):
    with pytest.raises(InputError, match=r"got 1\.5; accepted: "):
        Spec.parse(changed(path, lambda _: 1.5))


def test_a_substitutes_counts(tmp_path):
    assert SubstituteConfig(rounds=2.0).rounds == 2
    with pytest.raises(InputError, match=r"substitute\.rounds: got True"):
        SubstituteConfig(rounds=True)


def test_counts_in_flags(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    said = []
    for hundred, one in (("100", "1"), ("1e2", "1e0")):
        attacks = f"pgd(norm=l2,steps={hundred},eps=0.1)"
        command = f"run --model linear --data digits:train={hundred},test=20 --rounds {one} --seeds {one} --workers {one} --dry-run --json"
        with pytest.raises(SystemExit) as stopped:
            main([*command.split(), "--attacks", attacks])
        assert not stopped.value.code
        said.append([line for line in capsys.readouterr().out.splitlines() if "tasks" in line or "workers" in line])
    assert said[0] == said[1]
    with pytest.raises(SystemExit, match="2"):
        main(["run", "--seeds", "1.5"])
    assert "'--seeds': '1.5' is not a whole number" in capsys.readouterr().err
