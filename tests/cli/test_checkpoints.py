"""A study of networks that somebody else pruned: their files become levels, and nothing is said of seeds, rounds or training."""

from __future__ import annotations

import json
import re

import pandas as pd
import pytest
import torch
import yaml

from isogrid.cli import main
from isogrid.core.errors import InputError
from isogrid.core.files import save_tensors
from isogrid.data import load
from isogrid.models import build
from isogrid.study.run import open_study
from isogrid.training import FitConfig, fit


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder, what was said on the terminal): three files of one network, beside a model that is trained and pruned here."""
    home = tmp_path_factory.mktemp("given")
    split = load("digits", train=400)
    network = build("lenet-300-100", (1, 8, 8), 10, 0)
    fit(network, split.train.x, split.train.y, FitConfig(epochs=5), seed=0)
    paths = []
    for level in range(3):
        with torch.no_grad():
            network[1].weight[:, : 10 * level] = 0
        paths.append(str(home / f"level{level}.safetensors"))
        save_tensors(home / f"level{level}.safetensors", network.state_dict())
    base = {"data": {"name": "digits", "train": 100, "test": 100}, "attacks": ["fgs", "pgd", "deepfool"]}
    given = {"name": "lenet-300-100", "checkpoints": paths, "label": "theirs"}
    short = {"training": {"epochs": 20, "retrain_epochs": 5}, "pruning": {"rounds": 1}, "seeds": 2}
    studies = {"alone": base | {"models": [given]}, "mixed": base | short | {"models": [given, "linear"]}}
    said = {}
    for name, study in studies.items():
        (home / f"{name}.yaml").write_text(yaml.safe_dump(study))
        with pytest.MonkeyPatch.context() as patch:
            lines = []
            patch.setattr("isogrid.cli.app.err_console.print", lambda *a, lines=lines, **k: lines.append(" ".join(map(str, a))))
            with pytest.raises(SystemExit) as stopped:
                main(["run", str(home / f"{name}.yaml"), "--out", str(home / name), "--workers", "1"])
        assert not stopped.value.code
        said[name] = "\n".join(lines)
    return home, said


def text_of(page) -> str:
    body = re.sub(
        r"<style>.*?</style>|<svg.*?</svg>|<pre.*?</pre>|<section id=.reading.*?</section>", "", page.read_text(), flags=re.DOTALL
    )
    return " ".join(re.sub(r"<[^>]+>", " ", body).split())


def test_the_files_are_the_levels(made):
    frontier = pd.read_csv(made[0] / "alone" / "frontier.csv")
    sparsity = frontier.query("metric == 'r_inf' and attack == 'fgs@0.1'").set_index("level")["sparsity"]
    assert sparsity.tolist() == pytest.approx([0, 3000 / 50200, 6000 / 50200])
    assert json.loads((made[0] / "alone" / "claims.json").read_text())[1]["verdict"] == "no control"


def test_no_table_names_a_method_an_objective_or_seeds_that_were_not(made):
    frontier = pd.read_csv(made[0] / "alone" / "frontier.csv", keep_default_na=False)
    assert set(frontier["method"]) == {"given"}
    assert set(frontier["objective"]) == {"unknown"}
    summary = json.loads((made[0] / "alone" / "summary.json").read_text())
    assert summary["seeds"] == 1
    assert [(arm["model"], arm["pruner"]) for arm in summary["arms"]] == [("theirs", "given")]
    mixed = pd.read_csv(made[0] / "mixed" / "frontier.csv", keep_default_na=False)
    assert set(mixed.query("model == 'theirs'")["seed"]) == {0}
    assert set(mixed.query("model == 'linear'")["method"]) == {"progressive", "dense"} or "dense" not in set(mixed["method"])
    assert set(mixed.query("model == 'linear'")["seed"]) == {0, 1}


def test_the_first_line_says_what_will_be_done(made):
    alone, mixed = (made[1][name].splitlines()[0] for name in ("alone", "mixed"))
    assert "theirs (3 given files)" in alone
    assert "seed" not in alone
    assert "round" not in alone
    assert "theirs (3 given files), linear, 2 seeds, 1 rounds" in mixed


def test_the_page_does_not_speak_of_training_that_nobody_knows(made):
    page = text_of(made[0] / "alone" / "report.html")
    for untrue in ("progressive", "Seeds", "trained longer", "untouched", "over seeds", "of 1 seed", "One seed", "one seed", "Pruned ("):
        assert untrue not in page, untrue
    assert "given files" in page
    assert "unknown training" in page
    mixed = text_of(made[0] / "mixed" / "report.html")
    assert "unknown training" in mixed
    assert "progressive" in mixed


def test_their_networks_can_be_had(made):
    study = open_study(made[0] / "alone")
    assert int((study.model(level=2)[1].weight == 0).sum()) == 6000
    with pytest.raises(InputError, match="levels 0 to 2"):
        study.model(level=3)
    with pytest.raises(InputError, match="seeds 0 to 0"):
        study.model(seed=1)
    assert open_study(made[0] / "mixed").model(seed=1, level=1, model="linear") is not None
