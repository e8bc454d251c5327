"""A finished study is whole by itself: it opens, rebuilds and is never emptied, whatever became of the files it was made from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from isogrid.cli import main
from isogrid.core.errors import InputError
from isogrid.core.files import load_tensors, read_json, save_tensors
from isogrid.models import build
from isogrid.study.plan import FORMAT
from isogrid.study.planning import plan
from isogrid.study.run import missing, open_study, run_study, write_study_tables
from isogrid.study.spec import Spec

TABLES = ("frontier.csv", "claims.json", "summary.json", "plan.json", "timings.csv", "gallery.safetensors", "report.html")
FACTORY = "from torch import nn\ndef make(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
ATTACK = "def shift(model, x, y, eps): return x + eps\n"
STUDY = {
    "name": "mine",
    "data": {"name": "digits", "train": 200, "test": 60},
    "models": [{"name": "net.py:make", "checkpoints": ["level0.safetensors", "level1.safetensors"]}],
    "attacks": [
        {"name": "fgs", "eps": 0.1},
        {"name": "callable", "target": "mine.py:shift", "norm": "linf", "eps": 0.1},
        {"name": "pgd", "eps": 0.1, "steps": 3, "survivors": True},
    ],
    "transfer": {"attack": {"name": "fgs", "eps": 0.1}},
}


def sources(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "net.py").write_text(FACTORY)
    (folder / "mine.py").write_text(ATTACK)
    network = build("linear", (1, 8, 8), 10, 0)
    for level in range(2):
        with torch.no_grad():
            network[-1].weight[:, : 10 * level] = 0
        save_tensors(folder / f"level{level}.safetensors", network.state_dict())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished study in `out`, its relative sources in `work` beside it."""
    home = tmp_path_factory.mktemp("home")
    sources(home / "work")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home / "work")
        (home / "work" / "study.yaml").write_text(yaml.safe_dump(STUDY))
        with pytest.raises(SystemExit) as stopped:
            main(["run", "study.yaml", "--out", str(home / "out"), "--workers", "1"])
        assert not stopped.value.code
    return home


@pytest.fixture
def home(made, tmp_path, monkeypatch):
    """A copy of it, entered at `work`."""
    shutil.copytree(made, tmp_path / "home")
    monkeypatch.chdir(tmp_path / "home" / "work")
    return tmp_path / "home"


def tables(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in TABLES}


def factory_edited(home: Path) -> None:
    (home / "work" / "net.py").write_text(FACTORY.replace("Linear(64, 10)", "Linear(64, 10), nn.ReLU()"))


def callable_edited(home: Path) -> None:
    (home / "work" / "mine.py").write_text(ATTACK.replace("+", "-"))


def checkpoint_edited(home: Path) -> None:
    save_tensors(home / "work" / "level1.safetensors", build("linear", (1, 8, 8), 10, 1).state_dict())


def all_gone(home: Path) -> None:
    shutil.rmtree(home / "work")
    (home / "work").mkdir()


@pytest.mark.parametrize("change", [factory_edited, callable_edited, checkpoint_edited, all_gone])
def test_rebuilt_tables_have_the_same_bytes_whatever_became_of_their_sources(home, change):
    before = tables(home / "out")
    change(home)
    write_study_tables(open_study(home / "out"))
    assert tables(home / "out") == before


def test_a_report_is_rebuilt_from_anywhere(home, monkeypatch):
    before = tables(home / "out")
    monkeypatch.chdir(home.parent)
    (home / "out").rename(home.parent / "elsewhere")
    with pytest.raises(SystemExit) as stopped:
        main(["report", "elsewhere"])
    assert not stopped.value.code
    assert tables(home.parent / "elsewhere") == before
    assert len(open_study("elsewhere").frontier()) > 20


def test_the_data_may_be_gone_too(tmp_path):
    import numpy as np

    random = np.random.default_rng(0)
    np.savez(tmp_path / "own.npz", x=random.integers(0, 255, (80, 4, 4), dtype=np.uint8), y=np.arange(80) % 3)
    spec = {"data": str(tmp_path / "own.npz"), "models": ["linear"], "training": {"epochs": 1}, "pruning": {"rounds": 0}, "seeds": 1}
    run_study(Spec.parse(spec | {"attacks": ["fgs"]}), tmp_path / "out")
    names = ("frontier.csv", "summary.json", "gallery.safetensors")
    before = [(tmp_path / "out" / name).read_bytes() for name in names]
    (tmp_path / "own.npz").unlink()
    study = open_study(tmp_path / "out")
    write_study_tables(study)
    assert [(tmp_path / "out" / name).read_bytes() for name in names] == before
    clean = load_tensors(tmp_path / "out" / "gallery.safetensors")["linear/clean"]
    assert study.model()(clean).shape == (len(clean), 3)


def test_a_network_needs_its_factory_and_says_so(home):
    study = open_study(home / "out")
    assert torch.equal(study.model(level=1)[1].weight[:, :10], torch.zeros(10, 10))
    factory_edited(home)
    with pytest.raises(InputError, match=r"model: got net.py:make, whose file has changed; accepted: .*the study was run with"):
        study.model(level=1)
    (home / "work" / "net.py").unlink()
    with pytest.raises(InputError, match=r"model: got net.py:make, whose file is missing"):
        study.model()


def test_a_second_run_with_changed_sources_computes_anew_and_mixes_nothing(home):
    out, spec = home / "out", Spec.parse(STUDY)
    before = {level.train.key for level in open_study(out).plan.levels}
    cells = {path.name for path in (out / "cells").iterdir()}
    factory_edited(home)
    todo = missing(plan(spec), out)
    assert len(todo) == len(plan(spec).cells)
    run_study(spec, out)
    assert not before & {level.train.key for level in open_study(out).plan.levels}
    assert cells < {path.name for path in (out / "cells").iterdir()}
    assert len(open_study(out).frontier()) > 20
    sources(home / "work")
    assert missing(plan(spec), out) == []


def test_the_stored_plan_is_the_plan(home):
    stored, fresh = open_study(home / "out").plan, plan(Spec.parse(STUDY))
    assert stored.levels == fresh.levels
    assert stored.transfers == fresh.transfers
    assert stored.cells == fresh.cells
    assert stored.networks == fresh.networks
    text = (home / "out" / "plan.json").read_text()
    assert str(home) not in text
    assert str(home.parent) not in text


def refused(home: Path, capsys) -> str:
    """The line with which `isogrid report` refuses, after which every table is as it was."""
    present = {path: path.read_bytes() for path in (home / "out").iterdir() if path.is_file()}
    with pytest.raises(SystemExit) as stopped:
        main(["report", str(home / "out")])
    assert stopped.value.code == 2
    lines = capsys.readouterr().err.strip().split("\n")
    assert len(lines) == 1
    assert {path: path.read_bytes() for path in (home / "out").iterdir() if path.is_file()} == present
    return lines[0]


def test_without_its_plan_a_study_is_left_as_it_is(home, capsys):
    (home / "out" / "plan.json").unlink()
    assert "plan.json" in refused(home, capsys)


@pytest.mark.parametrize("text", ["{", "[]", '{"plan": 1}', '{"plan": 99}'])
def test_an_unreadable_plan_is_refused(home, capsys, text):
    (home / "out" / "plan.json").write_text(text)
    assert "plan.json" in refused(home, capsys)


def test_a_plan_of_which_nothing_has_finished_empties_no_tables(home, capsys):
    for path in (home / "out" / "cells").glob("train-*"):
        shutil.rmtree(path)
    assert "isogrid run" in refused(home, capsys)


def test_settings_edited_after_the_run_are_not_passed_off_as_those_of_the_figures(home, capsys):
    path = home / "out" / "study.yaml"
    edited = yaml.safe_load(path.read_text())
    edited["data"]["test"] = 50
    path.write_text(yaml.safe_dump(edited))
    assert "isogrid run" in refused(home, capsys)


def test_tolerances_may_be_edited_because_no_cell_depends_on_them(home):
    path = home / "out" / "study.yaml"
    edited = yaml.safe_load(path.read_text())
    edited["tolerance"]["accuracy"] = 0.5
    path.write_text(yaml.safe_dump(edited))
    write_study_tables(open_study(home / "out"))
    assert read_json(home / "out" / "summary.json")["tolerance"]["accuracy"] == 0.5
    assert json.loads((home / "out" / "plan.json").read_text())["plan"] == FORMAT
