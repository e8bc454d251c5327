"""Flags over a study: what `--data` says is read by the one parser of data, and nothing of a path is lost."""

from __future__ import annotations

import json

import numpy as np
import pytest

from isogrid.cli.flags import specification
from isogrid.core.errors import InputError

FLAGS = ("data", "model", "classes", "weights", "method", "rounds", "penalties", "seeds", "attacks", "eps")


def spec_of(**flags):
    return specification(None, None, dict.fromkeys(FLAGS) | {"device": "cpu"} | flags)


@pytest.mark.parametrize("name", ["{}/run=3/d.npz", "npz:{}/run=3/d.npz", "{}/run=3/d.npz:box=0.0..2.0"])
def test_the_name_of_data_stays_whole(tmp_path, name):
    (tmp_path / "run=3").mkdir()
    np.savez(tmp_path / "run=3" / "d.npz", x=np.random.default_rng(0).random((50, 8)), y=np.arange(50) % 2)
    text = name.format(tmp_path)
    assert spec_of(data=text).data.name == text
    cut = spec_of(data=text + (",train=30" if "box" in text else ":train=30"))
    assert (cut.data.name, cut.data.train) == (text, 30)


def test_options_of_the_data_reach_their_fields():
    spec = spec_of(data="digits:train=100,test=40,classes=1+7")
    assert (spec.data.name, spec.data.train, spec.data.test) == ("digits", 100, 40)
    assert spec.models[0].classes == (1, 7)
    assert spec_of(data="digits:classes=1+7", classes="3,5").models[0].classes == (3, 5)


def test_fewer_rounds_attack_the_control_at_the_new_last_one():
    def rounds(asked):
        return specification(None, "quick", dict.fromkeys(FLAGS) | {"device": "cpu", "rounds": asked}).control_rounds

    assert [rounds(k) for k in (14, 12, 6, 2, 0)] == [(3, 6, 10, 14), (3, 6, 10, 12), (3, 6), (2,), ()]


def test_fewer_rounds_cut_the_levels_of_every_part_and_of_each_in_a_list(tmp_path):
    part = {"levels": [1, 3], "samples": 5}
    study = {"data": "digits", "models": ["mlp"], "attacks": ["fgs"], "pruning": {"rounds": 3}}
    study |= {"certify": part, "audit": part, "exact": [part, {"levels": [3], "norms": ["l2"]}]}
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps(study))
    spec = specification(path, None, dict.fromkeys(FLAGS) | {"device": "cpu", "rounds": 2})
    assert (spec.certify.levels, spec.audit.levels, [one.levels for one in spec.searches]) == ((1,), (1,), [(1,), ()])


def test_penalties_stand_beside_the_training_without_one(tmp_path):
    spec = spec_of(penalties="l1-activations(weight=1e-5), l1-activations(weight=1/1000)")
    assert [one.regularised for one in spec.trainings] == ["", "l1-activations(weight=1e-05)", "l1-activations(weight=0.001)"]
    assert len({(one.title, one.epochs, one.retrain_epochs, one.batch_size) for one in spec.trainings}) == 1
    study = tmp_path / "study.yaml"
    study.write_text("training: {epochs: 7, penalty: {name: l2-weights, weight: 1e-4}}")
    found = specification(study, None, dict.fromkeys(FLAGS) | {"device": "cpu", "penalties": "l1-activations(weight=2)"}).trainings
    assert [(one.epochs, one.regularised) for one in found] == [(7, ""), (7, "l1-activations(weight=2.0)")]
    study.write_text("training: [{epochs: 7}, {epochs: 8}]")
    with pytest.raises(InputError, match="the study names several trainings"):
        specification(study, None, dict.fromkeys(FLAGS) | {"device": "cpu", "penalties": "l1-activations(weight=2)"})


@pytest.mark.parametrize(
    "text", ["", "l1-activations", "l1-activations(", "l1(weight=1)", "l1-activations(weight=)", "l1-activations(weight=-1)",
             "l1-activations(weight=big)", "l1-activations(weight=1),l1-activations(weight=1)", "l1-activations(size=1)"],
)  # fmt: skip
def test_what_is_no_penalty_is_refused_in_one_line(text):
    with pytest.raises(InputError) as caught:
        spec_of(penalties=text)
    assert "penalt" in caught.value.field or caught.value.field == "training"
    assert "\n" not in str(caught.value)
