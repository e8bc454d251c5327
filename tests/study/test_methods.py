"""Every registered pruning method by its name alone: through a study, again where it was interrupted, and from every preset."""

from __future__ import annotations

import shutil

import pytest
import torch

import isogrid
from isogrid.cli.flags import specification
from isogrid.core.errors import InputError
from isogrid.sparsity import PRUNERS, prunable
from isogrid.study.planning import plan
from isogrid.study.run import missing, run_study
from isogrid.study.spec import PRESETS, Spec

TINY = {
    "data": {"name": "digits", "train": 200, "test": 40},
    "models": ["lenet-300-100"],
    "training": {"epochs": 2, "retrain_epochs": 2, "batch_size": 50},
    "control": {"rounds": "none"},
    "attacks": [{"name": "fgs", "eps": 0.1}],
    "seeds": 1,
}
FLAGS = dict.fromkeys(("data", "classes", "model", "weights", "method", "rounds", "penalties", "seeds", "attacks", "eps")) | {
    "device": "auto"
}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Two levels of every method, by its name alone."""
    spec = Spec.parse(TINY | {"pruning": [{"method": name, "rounds": 2} for name in PRUNERS]})
    return run_study(spec, tmp_path_factory.mktemp("methods"), workers=1)


def level(study, name, number):
    (found,) = (one.train for one in study.plan.levels if one.arm.pruner == name and one.level == number)
    return study.store.read(found.key)


@pytest.mark.parametrize("name", PRUNERS)
def test_a_method_gives_the_levels_that_its_settings_say(name, study):
    sparsity = study.frontier().query("method == @name and metric == 'accuracy'").set_index("level")["sparsity"]
    assert list(sparsity.index) == [0, 1, 2]
    assert name == "dense" or 0 < sparsity[1] < sparsity[2]
    (pruner,) = (one for one in study.plan.spec.prunings if one.method == name)
    wanted = [pruner.at(number).get("sparsity") for number in (1, 2)]
    reached = list(sparsity[1:])
    if wanted[0] is not None and PRUNERS[name].exact:
        assert reached == pytest.approx(wanted, abs=1e-4)
    elif wanted[0] is not None:
        assert all(want <= found < want + 0.02 for want, found in zip(wanted, reached, strict=True))


def test_a_level_of_channels_can_be_made_a_smaller_network(study, recipe):
    net, x = study.model(level=2, method="channels"), isogrid.load("digits").test.x
    given: dict = {}
    exec(recipe("Really smaller layers"), given)
    small = given["smaller"](study, x)
    kept = level(study, "channels", 2).metrics["kept"]
    assert sum(weight.numel() for weight in prunable(small).values()) == kept
    torch.testing.assert_close(small(x), net(x), rtol=1e-4, atol=1e-5)


def test_levels_made_again_after_an_interruption_are_the_same_bit_for_bit(study):
    lost = [one.train.key for one in study.plan.levels if one.level == 2]
    before = {key: study.store.read(key) for key in lost}
    parts = ("weights", "masks", "state")
    tensors = {key: {part: entry.tensors(part) for part in parts if entry.has(part)} for key, entry in before.items()}
    for key in lost:
        shutil.rmtree(study.folder / "cells" / key)
    assert {task.key for task in missing(study.plan, study.folder)} >= set(lost)
    run_study(study.plan.spec, study.folder, workers=1)
    for key in lost:
        entry = study.store.read(key)
        for part, values in tensors[key].items():
            again = entry.tensors(part)
            assert all(torch.equal(value, again[name]) for name, value in values.items()), (before[key].metrics, part)


@pytest.mark.parametrize("name", ["surgery", "surgery-target", "cubic", "rigl", "set"])
def test_what_died_and_came_back_is_in_the_frontier_and_when_in_the_state(name, study):
    entry = level(study, name, 1)
    revisions = entry.tensors("state")["revisions"]
    (row,) = study.frontier().query("method == @name and metric == 'came_back' and level == 1").itertuples()
    assert row.value == revisions[:, 2].sum() == entry.metrics["came_back"]
    assert entry.metrics["died"] == revisions[:, 1].sum()
    if name in ("surgery", "surgery-target", "cubic"):  # those that begin with all weights
        assert entry.metrics["total"] - entry.metrics["died"] + entry.metrics["came_back"] == entry.metrics["kept"]
    else:
        assert entry.metrics["died"] == entry.metrics["came_back"]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", PRUNERS)
def test_every_preset_takes_every_method_by_a_flag(name, preset):
    spec = specification(None, preset, FLAGS | {"method": name, "data": "digits"})
    assert spec.pruning.method == name
    own = name == Spec.preset(preset).pruning.method
    assert spec.pruning.rounds == (5 if PRUNERS[name].relation == "targets" and not own else PRESETS_ROUNDS[preset])
    assert specification(None, preset, FLAGS | {"method": name, "data": "digits", "rounds": 3}).pruning.rounds == 3


PRESETS_ROUNDS = {preset: Spec.preset(preset).pruning.rounds for preset in PRESETS}


def test_a_network_from_a_file_has_no_first_weights_to_go_back_to(study):
    weights = str(study.folder / "cells" / study.plan.levels[0].train.key / "weights.safetensors")
    given = TINY | {"models": [{"name": "lenet-300-100", "weights": weights}]}
    for name, settings in (("lottery", {"rounds": 1}), ("rigl", {"rounds": 1, "start": "scratch"})):
        with pytest.raises(InputError, match=r"initial.*known"):
            plan(Spec.parse(given | {"pruning": {"method": name} | settings}))
    plan(Spec.parse(given | {"pruning": {"method": "rigl", "rounds": 1}}))


def test_rounds_by_a_flag_cut_a_list_of_levels(tmp_path):
    (tmp_path / "s.yaml").write_text("pruning: {method: one-shot, sparsity: [0.3, 0.6, 0.9]}\ncontrol: {rounds: none}\n")
    spec = specification(tmp_path / "s.yaml", None, FLAGS | {"rounds": 2})
    assert [spec.pruning.at(level)["sparsity"] for level in range(1, spec.pruning.rounds + 1)] == [0.3, 0.6]
    with pytest.raises(InputError, match="rounds"):
        specification(tmp_path / "s.yaml", None, FLAGS | {"rounds": -1, "method": "progressive"})
