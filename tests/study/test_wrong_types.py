"""Where InputError is promised nothing else comes out, whatever the types are: specifications and the calls of a study."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from isogrid.core.errors import InputError
from isogrid.study.run import open_study, run_study
from isogrid.study.spec import Spec

WHOLE: dict[str, Any] = {
    "name": "whole",
    "data": {"name": "digits", "train": 100, "test": 20, "box": [0, 1]},
    "models": [{"name": "linear", "classes": [1, 7], "label": "binary"}, "lenet-300-100"],
    "training": {
        "objective": "natural", "penalty": {"name": "l1-weights", "weight": 0.001}, "epochs": 2, "retrain_epochs": 1, "batch_size": 8,
        "schedule": "cosine", "optimizer": {"name": "adam", "lr": 0.01}, "early_stop": {"patience": 3},
    },
    "pruning": {"method": "progressive", "rounds": 2, "rate": 0.5, "criterion": "magnitude", "allocation": "layer"},
    "control": {"rounds": [1, 2], "attacks": ["fgs"]},
    "attacks": [{"name": "fgs", "eps": [0.1, 0.2]}, {"name": "pgd", "eps": 0.1, "steps": 3, "label": "mine", "samples": 5}, "ddn"],
    "transfer": {"attack": {"name": "fgs", "eps": 0.1}, "samples": 5},
    "blackbox": {"attack": {"name": "fgs", "eps": 0.1}, "model": "linear", "levels": [1]},
    "audit": {"levels": [0], "samples": 5},
    "cells": [{"kind": "theory", "eps": [0.1], "levels": [0]}],
    "seeds": 2,
    "tolerance": {"r_inf": 0.01, "distance": "3%", "accuracy": 0.01},
    "threads": 1,
    "device": "cpu",
}  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10**30) | st.floats() | st.text(max_size=5) | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=3),
    max_leaves=4,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    for key, part in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(part, (*path, key))


PLACES = [path for path in places(WHOLE) if path]


def test_the_specification_that_is_broken_below_is_whole():
    assert Spec.parse(WHOLE).seeds == 2
    assert Spec.parse(Spec.parse(WHOLE).resolved()) == Spec.parse(WHOLE)


@settings(max_examples=400, deadline=None)
@given(path=st.sampled_from(PLACES), value=VALUES)
def test_any_value_anywhere_is_taken_or_refused_in_one_line(path, value):
    changed = copy.deepcopy(WHOLE)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    said = ""
    try:
        Spec.parse(changed)
    except InputError as error:
        said = str(error)
    assert "\n" not in said


@pytest.mark.parametrize("spec", [None, {}, "quick", 3])
def test_what_is_no_specification_is_not_run(spec, tmp_path):
    with pytest.raises(InputError, match="spec: got"):
        run_study(spec, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("folder", [None, 3, b"runs", "", "a\0b", ["runs"]])
def test_what_is_no_path_is_no_folder(folder):
    with pytest.raises(InputError, match="got"):
        open_study(folder)
    with pytest.raises(InputError, match="out: got"):
        run_study(Spec.parse(WHOLE), folder)


@pytest.mark.parametrize(
    "wrong", [{"workers": 0}, {"workers": 1.5}, {"workers": True}, {"workers": "2"}, {"engine": "locl"}, {"engine": 3}]
)
def test_wrong_settings_of_a_run_are_refused(wrong, tmp_path):
    with pytest.raises(InputError, match=f"{next(iter(wrong))}: got"):
        run_study(Spec.parse(WHOLE), tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()
