"""Planning: what cannot run is refused before anything is written, and a key holds whatever decides a cell's content."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from isogrid.core.errors import InputError, ModelError
from isogrid.core.files import save_tensors
from isogrid.data import load
from isogrid.models import build
from isogrid.study.planning import plan
from isogrid.study.rehearsal import rehearse
from isogrid.study.run import StudyError, missing, run_study
from isogrid.study.spec import Spec, TrainingSpec
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


@pytest.mark.parametrize("preset", [pytest.param(name, marks=pytest.mark.slow if "cifar" in name else ()) for name in PRESETS])
def test_every_preset_can_be_planned_on_the_embedded_digits(preset, tmp_path):
    settings = preset_data(preset)
    settings["data"] = {"test": 1000} | (settings["data"] if isinstance(settings["data"], dict) else {}) | {"name": "mnist-5k"}
    found = plan(Spec.parse(settings))
    assert len(found.cells) > 100
    tests = {one.spec.title: one.data.counts[1] for one in found.networks}
    assert tests.get("linear-binary", 200) == 200  # of two classes there are no more
    assert {n for title, n in tests.items() if title != "linear-binary"} == {1000}


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
    with pytest.raises(StudyError, match="has changed") as caught:
        run_study(spec, tmp_path / "out", planned=planned)
    assert [event.task.label for event in caught.value.failures] == ["substitute-fgs@0.1 on linear seed 0 progressive level 1"]
    assert len(caught.value.study.frontier())  # the rest has finished, and has its tables


SIZED = """
from pathlib import Path
from torch import nn
def make():
    width = int(Path(__file__).with_name("width.txt").read_text())
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
"""


def test_a_file_that_a_factory_reads_decides_which_network_is_meant(tmp_path):
    (tmp_path / "net.py").write_text(SIZED)
    (tmp_path / "width.txt").write_text("5")
    name, out = f"{tmp_path / 'net.py'}:make", tmp_path / "out"
    spec = Spec.parse(BASE | {"models": [name], "blackbox": {"model": name, "seed_samples": 20, "rounds": 1}})
    study, planned = run_study(spec, out), plan(spec)
    assert missing(planned, out) == []
    (tmp_path / "width.txt").write_text("6")
    assert len(missing(plan(spec), out)) == len(planned.cells)
    with pytest.raises(InputError, match=r"^model: got .*; accepted: .* parameters have other names or shapes"):
        study.model()
    with pytest.raises(StudyError, match="other names or shapes"):
        run_study(spec, tmp_path / "late", planned=planned)
    assert run_study(spec, out).model()[1].weight.shape == (6, 64)


def test_a_network_that_depends_on_the_seed_is_refused(tmp_path):
    (tmp_path / "net.py").write_text(SIZED.replace("int(Path", "__import__('random').randint(1, 10**4) or int(Path"))
    with pytest.raises(InputError, match=r"^model: got .*, or by the seed"):
        plan(Spec.parse(BASE | {"models": [f"{tmp_path / 'net.py'}:make"]}))


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


NETWORKS = """
import torch
from torch import nn

class Trains(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(64, 8), nn.Linear(8, 10)
    def forward(self, x):
        return self.last(self.first(x.flatten(1)).relu())

class RaisesInTraining(Trains):
    def forward(self, x):
        if self.training:
            raise RuntimeError("not now")
        return super().forward(x)

class Odd(nn.Linear):
    def forward(self, x):
        if self.training:
            raise RuntimeError("not now")
        return super().forward(x)

class RaisesInside(Trains):
    def __init__(self):
        super().__init__()
        self.last = Odd(8, 10)

class HasMoreThanTensors(Trains):
    def get_extra_state(self):
        return {"steps": 3}
    def set_extra_state(self, state):
        pass

class NothingToTrain(Trains):
    def __init__(self):
        super().__init__()
        self.requires_grad_(False)

class CannotBeCopied(Trains):
    def __deepcopy__(self, memo):
        raise TypeError("only one")
"""


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("RaisesInTraining", "not now"),
        ("RaisesInside", "in layer last (Odd)"),
        ("HasMoreThanTensors", "more than tensors: _extra_state"),
        ("CannotBeCopied", "only one"),
    ],
)
def test_a_network_that_would_fail_in_a_worker_is_refused_with_its_layer_before_anything_is_written(name, said, tmp_path):
    (tmp_path / "nets.py").write_text(NETWORKS)
    with pytest.raises((ModelError, InputError)) as caught:
        run_study(Spec.parse(BASE | {"models": [f"{tmp_path / 'nets.py'}:{name}"]}), tmp_path / "out")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_the_rehearsal_leaves_the_network_as_it_is(tmp_path):
    split = load("digits", train=41, test=20)
    network = build("lenet-300-100", split.train.shape, 10, 0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    rehearse(network, split, TrainingSpec(batch_size=8), Spec.parse({}).pruning)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


@pytest.mark.parametrize("levels", [[], None])
def test_no_levels_are_none_and_nothing_said_is_all(levels):
    found = plan(Spec.parse(BASE | {"blackbox": {"model": "linear", "seed_samples": 20, "rounds": 1, "levels": levels}}))
    assert sum(cell.kind == "substitute" for cell in found.cells) == (0 if levels == [] else 2)


def test_of_data_of_ones_own_a_study_of_given_networks_attacks_all_samples(tmp_path):
    random = np.random.default_rng(0)
    np.savez(tmp_path / "own.npz", x=random.integers(0, 255, (80, 8, 8), dtype=np.uint8), y=np.arange(80) % 10)
    save_tensors(tmp_path / "net.safetensors", build("linear", (1, 8, 8), 10, 0).state_dict())
    own = {"data": str(tmp_path / "own.npz")}
    given = plan(
        Spec.parse(BASE | own | {"models": [{"name": "linear", "checkpoints": [str(tmp_path / "net.safetensors")]}], "pruning": {}})
    )
    assert given.networks[0].data.counts[1] == 80
    assert plan(Spec.parse(BASE | own)).networks[0].data.counts[1] < 80


def test_a_box_of_ones_own_is_the_studys(tmp_path):
    np.savez(tmp_path / "own.npz", x=np.random.default_rng(0).uniform(-1, 1, (60, 8, 8)).astype(np.float32), y=np.arange(60) % 10)
    found = plan(Spec.parse(BASE | {"data": {"name": str(tmp_path / "own.npz"), "box": [-1, 1]}}))
    assert found.networks[0].data.load().test.box == (-1.0, 1.0)


@pytest.mark.parametrize("name", ["../evil", "a/b", "..", " a", "a\\b", "a\nb"])
def test_a_name_that_leads_out_of_the_folder_is_refused(name):
    with pytest.raises(InputError, match="one folder"):
        Spec.parse(BASE | {"name": name})


def test_an_affine_map_has_no_dead_units_to_attack():
    leaky = {"attacks": ["fgs", {"name": "fgs", "backward": "leaky"}], "models": ["linear", "lenet-300-100"]}
    found = {(level.arm.model, cell.about.id) for level in plan(Spec.parse(BASE | leaky)).levels for cell in level.attacks}
    assert found == {("linear", "fgs@0.1"), ("lenet-300-100", "fgs@0.1"), ("lenet-300-100", "fgs-leaky@0.1")}


def test_planning_and_leaky_attacks_do_without_torchs_compiler():
    """Importing it takes longer than planning, and every worker would pay for it."""
    code = (
        "import sys, torch; from torch import nn; from isogrid.attacks import PGD; from isogrid.study.spec import Spec;"
        "from isogrid.study.planning import plan; plan(Spec.preset('quick'));"
        "PGD(eps=0.1, backward='leaky')(nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), torch.rand(5, 1, 2, 2),"
        " torch.tensor([0, 1, 0, 1, 0])); print('torch._dynamo' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["False"]


SCRIPT = """
from torch import nn
from isogrid.study.run import run_study
from isogrid.study.spec import Spec
def make(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
def shift(model, x, y, eps): return x + eps
SPEC = {
    "data": {"name": "digits", "train": 100, "test": 20}, "models": ["MODEL"], "training": {"epochs": 0, "retrain_epochs": 0},
    "pruning": {"rounds": 0}, "attacks": [ATTACK], "seeds": 1,
}
"""
FGS, OWN = '{"name": "fgs", "eps": 0.1}', '{"name": "callable", "target": "TARGET:shift", "norm": "linf", "eps": 0.1}'


@pytest.mark.parametrize(
    ("model", "attack", "said"),
    [
        ("s.py:make", FGS, 'target: got s.py:make, whose file calls run_study(...); accepted: .* `if __name__ == "__main__":`'),
        pytest.param("linear", OWN.replace("TARGET", "s.py"), "target: got s.py:shift, .*__main__", marks=pytest.mark.slow),
        ("__main__:make", FGS, "models.name: got __main__:make; accepted: .*FILE.py:make"),
        ("linear", OWN.replace("TARGET", "__main__"), "attacks.parameters.target: got __main__:shift; accepted: .*FILE.py:shift"),
    ],
)
def test_a_script_that_is_its_own_factory_is_refused_before_anything_is_written(model, attack, said, tmp_path):
    (tmp_path / "s.py").write_text(SCRIPT.replace("MODEL", model).replace("ATTACK", attack) + "run_study(Spec.parse(SPEC), 'out')\n")
    done = subprocess.run([sys.executable, "s.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert re.search(said.replace("(", r"\(").replace(")", r"\)"), last), done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_guarded_script_is_its_own_factory(tmp_path):
    guarded = 'if __name__ == "__main__":\n    run_study(Spec.parse(SPEC), "out")\n'
    (tmp_path / "s.py").write_text(SCRIPT.replace("MODEL", "s.py:make").replace("ATTACK", FGS) + guarded)
    subprocess.run([sys.executable, "s.py"], cwd=tmp_path, check=True)
    assert (tmp_path / "out" / "frontier.csv").is_file()
