"""Planning: what cannot run is refused before anything is written, and a key holds whatever decides a cell's content."""

from __future__ import annotations

import pytest
import torch

from isogrid.core.errors import InputError
from isogrid.core.files import save_tensors
from isogrid.models import build
from isogrid.study.planning import plan
from isogrid.study.run import run_study
from isogrid.study.spec import Spec
from isogrid.study.spec.reading import PRESETS, preset_data

BASE = {
    "data": {"name": "digits", "train": 100, "test": 20},
    "models": ["linear"],
    "training": {"epochs": 0, "retrain_epochs": 0},
    "pruning": {"rounds": 1},
    "attacks": [{"name": "fgs", "eps": 0.1}],
    "seeds": 1,
}
FACTORY = "from torch import nn\ndef make(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"


def keys(change):
    return {task.label: task.key for task in plan(Spec.parse(BASE | change)).cells}


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_can_be_planned_on_the_embedded_digits(preset, tmp_path):
    settings = preset_data(preset)
    settings["data"] = {"test": 1000} | (settings["data"] if isinstance(settings["data"], dict) else {}) | {"name": "mnist-5k"}
    found = plan(Spec.parse(settings))
    assert len(found.cells) > 100
    tests = {one.spec.title: one.data.counts[1] for one in found.networks}
    assert tests.get("linear-binary", 200) == 200  # of two classes there are no more
    assert tests["lenet-300-100"] == 1000


def test_an_edited_substitute_has_another_key_and_nothing_else_has(tmp_path):
    source = tmp_path / "sub.py"
    source.write_text(FACTORY)
    change = {"blackbox": {"model": f"{source}:make", "seed_samples": 20, "rounds": 1}}
    before = keys(change)
    source.write_text(FACTORY.replace("nn.Flatten(), ", "nn.Flatten(), nn.Identity(), "))
    after = keys(change)
    assert {label for label in before if before[label] != after[label]} == {
        f"substitute-fgs@0.1 on linear seed 0 {level}" for level in ("dense", "progressive level 1")
    }


def test_a_substitute_edited_after_planning_is_not_stored_under_the_old_key(tmp_path):
    source = tmp_path / "sub.py"
    source.write_text(FACTORY)
    spec = Spec.parse(BASE | {"blackbox": {"model": f"{source}:make", "seed_samples": 20, "rounds": 1, "levels": [1]}})
    planned = plan(spec)
    source.write_text(FACTORY + "\n")
    failed = []
    run_study(spec, tmp_path / "out", planned=planned, on_event=lambda event: failed.append(event) if event.kind == "failed" else None)
    assert ["has changed" in event.reason for event in failed] == [True]


@pytest.mark.parametrize(
    ("change", "field", "accepted"),
    [
        ({"blackbox": {"model": "nope"}}, "blackbox.model", "lenet-300-100"),
        ({"blackbox": {"model": "lenet-5"}}, "blackbox.model", "fits"),
        ({"blackbox": {"model": "none.py:make"}}, "blackbox.model", "fits"),
        ({"blackbox": {"model": "linear", "seed_samples": 101}}, "blackbox.seed_samples", "100"),
        ({"models": [{"name": "linear", "weights": "~/none.safetensors"}]}, "weights", "existing"),
        ({"models": [{"name": "linear", "checkpoints": ["~/none.safetensors"]}]}, "checkpoints", "existing"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_written(change, field, accepted, tmp_path):
    with pytest.raises(InputError) as caught:
        run_study(Spec.parse(BASE | change), tmp_path / "out")
    assert str(caught.value).startswith(f"{field}: got ")
    assert accepted in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("given", [{"weights": "~/net.safetensors"}, {"checkpoints": ["~/net.safetensors", "~/net.safetensors"]}])
def test_a_home_folder_is_expanded(given, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    network = build("linear", (1, 8, 8), 10, 0)
    save_tensors(tmp_path / "net.safetensors", network.state_dict())
    study = run_study(Spec.parse(BASE | {"models": [{"name": "linear"} | given]}), tmp_path / "out")
    assert torch.equal(study.model()[1].weight, network[1].weight)


def test_a_label_is_what_tables_show_and_no_part_of_a_key(tmp_path):
    labelled = plan(Spec.parse(BASE | {"attacks": [{"name": "fgs", "eps": 0.1, "label": "mine"}]}))
    plain = plan(Spec.parse(BASE))
    assert [task.key for task in labelled.cells] == [task.key for task in plain.cells]
    assert {cell.about.id for level in labelled.levels for cell in level.attacks} == {"mine@0.1"}
