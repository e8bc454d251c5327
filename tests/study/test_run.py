"""A study as a whole: the same bytes whatever happened on the way, nothing done twice, nothing lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from isogrid.core.errors import InputError
from isogrid.core.files import load_tensors, read_json
from isogrid.core.typed import plain, typed
from isogrid.study.planning import plan
from isogrid.study.results import Summary
from isogrid.study.run import forecast, missing, open_study, run_study
from isogrid.study.spec import Spec

SMALL = {
    "name": "small",
    "data": {"name": "digits", "train": 600, "test": 200},
    "models": ["linear", "lenet-300-100"],
    "training": {"epochs": 6, "retrain_epochs": 2, "batch_size": 64},
    "pruning": {"rounds": 4, "rate": 0.5},
    "twin": {"rounds": [2, 3], "attacks": ["fgs", "pgd", "apgd-t", "deepfool"]},
    "attacks": [
        {"name": "fgs", "eps": 0.1},
        {"name": "pgd", "eps": 0.1, "steps": 5},
        {"name": "apgd-t", "eps": 0.1, "steps": 5, "survivors": True},
        {"name": "deepfool"},
    ],
    "transfer": {"attack": {"name": "fgs", "eps": 0.1}, "samples": 100},
    "seeds": 2,
}
TABLES = ("frontier.csv", "claims.json", "summary.json", "study.yaml", "plan.json")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "undisturbed"
    return run_study(Spec.parse(SMALL), folder, workers=2)


def tables(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in TABLES}


def test_nothing_failed_and_every_table_is_there(finished):
    assert read_json(finished.folder / "summary.json")["failures"] == []
    frontier = finished.frontier()
    assert set(frontier["method"]) == {"progressive", "dense"}
    assert set(frontier.query("method == 'progressive'")["level"]) == set(range(5))
    assert set(frontier.query("method == 'dense' and metric == 'r_inf'")["level"]) == {2, 3}
    assert {1, 2, 3} <= {claim["claim"] for claim in read_json(finished.folder / "claims.json")}


def test_one_worker_gives_the_bytes_of_two(finished, tmp_path):
    run_study(Spec.parse(SMALL), tmp_path, workers=1)
    assert tables(tmp_path) == tables(finished.folder)


def test_a_second_run_computes_nothing_and_another_attack_retrains_nothing(finished):
    before = {path: path.stat().st_mtime_ns for path in (finished.folder / "cells").iterdir()}
    started = []
    run_study(Spec.parse(SMALL), finished.folder, workers=1, on_event=started.append)
    assert started == []
    more = SMALL | {"attacks": [*SMALL["attacks"], {"name": "rfgs", "eps": 0.1}]}
    todo = missing(plan(Spec.parse(more)), finished.folder)
    assert todo
    assert {task.key.split("-")[0] for task in todo} == {"attack"}
    assert {task.label.split("@")[0] for task in todo} == {"rfgs"}
    assert before == {path: path.stat().st_mtime_ns for path in (finished.folder / "cells").iterdir()}


@pytest.mark.parametrize(
    "change",
    [
        {"training": SMALL["training"] | {"epochs": 7}},
        {"training": SMALL["training"] | {"optimizer": {"lr": 0.05}}},
        {"data": SMALL["data"] | {"train": 500}},
        {"threads": 2},
    ],
)
def test_no_cell_of_another_configuration_is_taken(finished, change):
    other = plan(Spec.parse(SMALL | change))
    assert len(missing(other, finished.folder)) == len(other.cells)


def test_more_rounds_and_more_seeds_keep_what_is_there(finished):
    spec = Spec.parse(SMALL | {"seeds": 3, "pruning": SMALL["pruning"] | {"rounds": 5}})
    todo = missing(plan(spec), finished.folder)
    assert all("seed 2" in task.label or "level 5" in task.label or task.key.startswith("transfer") for task in todo)


def test_the_recorded_figures_are_those_of_the_stored_networks(finished):
    study = finished
    frontier = study.frontier()
    for level in (0, 4):
        network = study.model(seed=1, level=level, model="lenet-300-100")
        test = __import__("isogrid.data", fromlist=["load"]).load("digits", train=600, test=200).test
        accuracy = (network(test.x).argmax(1) == test.y).double().mean().item()
        row = frontier.query(
            "model == 'lenet-300-100' and method == 'progressive' and seed == 1 and level == @level and metric == 'accuracy'"
        )
        assert row["value"].item() == pytest.approx(accuracy, abs=1e-12)
        zeros = sum(int((p == 0).sum()) for n, p in network.named_parameters() if n.endswith("weight"))
        total = sum(p.numel() for n, p in network.named_parameters() if n.endswith("weight"))
        assert row["sparsity"].item() == pytest.approx(zeros / total, abs=1e-9)
        assert type(network) is torch.nn.Sequential
    records = study.records("deepfool", seed=0, level=3, model="lenet-300-100")
    assert (records["distance"][records["clean"] != records["label"]] == 0).all()
    assert np.isfinite(records["distance"][records["success"]]).all()


def test_theory_is_an_oracle_inside_the_study(finished):
    rows = finished.frontier().query("attack == 'theory' and norm == 'l2' and domain == 'free'")
    rows = rows.pivot_table(index=["seed", "level"], columns="metric", values="value")
    assert len(rows) == 10
    assert np.allclose(rows["r_2_deepfool"], rows["r_2_optimal"], rtol=1e-4)
    assert (rows["r_2_optimal"] <= rows["bound_r_2"] * (1 + 1e-9)).all()


def test_the_frontier_parquet_and_csv_agree(finished):
    a, b = finished.frontier(), pd.read_csv(finished.folder / "frontier.csv", keep_default_na=False, na_values=[""])
    assert len(a) == len(b)
    assert np.allclose(a["value"].to_numpy(), b["value"].to_numpy(dtype=float), equal_nan=True)


def test_examples_are_what_their_records_say(finished):
    gallery = load_tensors(finished.folder / "gallery.safetensors")
    clean = gallery["lenet-300-100/clean"]
    x_adv, distance = gallery["lenet-300-100/0/deepfool/x_adv"], gallery["lenet-300-100/0/deepfool/distance"]
    moved = (x_adv - clean).flatten(1).norm(dim=1)
    assert torch.allclose(moved[distance > 0], distance[distance > 0], atol=1e-5)


def test_an_attack_on_survivors_sees_them_only_and_speaks_through_the_envelope(finished):
    place = {"seed": 1, "level": 2, "model": "lenet-300-100"}
    fgs, pgd, apgd = (finished.records(f"{name}@0.1", **place) for name in ("fgs", "pgd", "apgd-t"))
    broken = fgs["success"] | pgd["success"]
    assert set(apgd["sample"]) == set(fgs["sample"][~broken & (fgs["clean"] == fgs["label"])])
    rows = finished.frontier().query("model == 'lenet-300-100' and method == 'progressive' and seed == 1 and level == 2 and eps == 0.1")
    envelope = rows.query("attack == 'envelope' and metric == 'r_inf'")["value"].item()
    left = (fgs["clean"] == fgs["label"]).sum() - broken.sum() - apgd["success"].sum()
    assert envelope == pytest.approx(left / len(fgs))
    assert set(rows.query("attack == 'apgd-t@0.1'")["metric"]) == {"success_rate_on_survivors"}


def test_the_transfer_matrix_has_the_attacks_own_figures_on_its_diagonal(finished):
    summary = read_json(finished.folder / "summary.json")
    entry = next(t for t in summary["transfer"] if t["arm"]["model"] == "lenet-300-100")
    assert entry["levels"] == list(range(5))
    for level, row in zip(entry["levels"], entry["matrix"], strict=True):
        own = finished.records("fgs@0.1", seed=0, level=level, model="lenet-300-100").iloc[:100]
        assert row[level] == pytest.approx((own["adversarial"] == own["label"]).mean())


def test_probes_of_a_level_the_substitute_and_the_audit(tmp_path):
    spec = Spec.parse(
        {
            "data": SMALL["data"],
            "models": ["linear"],
            "training": SMALL["training"],
            "pruning": {"rounds": 1},
            "twin": {"rounds": "none"},
            "attacks": [{"name": "fgs", "eps": 0.2}],
            "blackbox": {"attack": {"name": "fgs", "eps": 0.2}, "model": "linear", "seed_samples": 60, "rounds": 3, "levels": [1]},
            "audit": {"levels": [0], "samples": 20},
            "seeds": 1,
        }
    )
    study = run_study(spec, tmp_path, workers=1)
    summary = read_json(tmp_path / "summary.json")
    assert summary["failures"] == []
    r_inf = study.frontier().query("metric == 'r_inf' and level == 1").set_index("attack")["value"]
    accuracy = study.frontier().query("metric == 'accuracy' and level == 1")["value"].item()
    assert r_inf["fgs@0.2"] <= r_inf["substitute-fgs@0.2"] <= accuracy
    assert claims_are_undecided(tmp_path)


def claims_are_undecided(folder: Path) -> bool:
    """One seed and no twin decide nothing."""
    return {claim["verdict"] for claim in read_json(folder / "claims.json")} <= {"no control", "undecided", "not applicable"}


def test_opening_what_is_no_study_says_so(tmp_path):
    with pytest.raises(InputError, match="isogrid run has written"):
        open_study(tmp_path)


def test_two_runs_in_one_folder_are_refused(tmp_path):
    import fcntl

    with (tmp_path / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="no other isogrid run"):
            run_study(Spec.parse(SMALL), tmp_path)


def test_the_forecast_counts_what_is_missing(finished, tmp_path):
    study = plan(Spec.parse(SMALL))
    fresh, done = forecast(study, tmp_path, 2), forecast(study, finished.folder, 2)
    assert fresh.tasks == len(study.cells)
    assert fresh.finished == 0
    assert 0 < fresh.seconds < 3600
    assert done.finished == done.tasks
    assert done.seconds == 0


def _killed_and_continued(tmp_path: Path, moments: list[float]) -> Path:
    spec = tmp_path / "small.yaml"
    spec.write_text(Spec.parse(SMALL).text())
    out = tmp_path / "out"
    command = [sys.executable, "-m", "isogrid", "run", str(spec), "--out", str(out), "--workers", "2"]
    for moment in moments:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        time.sleep(moment)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return out


def test_killed_once_and_continued_gives_the_same_bytes(finished, tmp_path):
    out = _killed_and_continued(tmp_path, [10.0])
    assert tables(out) == tables(finished.folder)


@pytest.mark.slow
def test_killed_at_five_random_moments_and_continued_gives_the_same_bytes(finished, tmp_path):
    moments = random.Random(0)
    out = _killed_and_continued(tmp_path, [moments.uniform(2, 14) for _ in range(5)])
    assert tables(out) == tables(finished.folder)
    assert not list((out / "cells").glob(".*"))


def test_the_summary_is_written_and_read_by_one_type(finished):
    stored = read_json(finished.folder / "summary.json")
    read = typed(Summary, stored, "summary")
    assert plain(read) == stored
    assert {(arm.model, arm.pruner, arm.control) for arm in read.arms} == {
        (model, pruner, pruner == "dense") for model in SMALL["models"] for pruner in ("progressive", "dense")
    }
    assert [one.test for one in read.data] == [200, 200]
