"""Natural and adversarial training, each with its control, under one schedule in one study."""

from __future__ import annotations

from isogrid.core.files import read_json
from isogrid.study.run import run_study
from isogrid.study.spec import Spec

BOTH = {
    "name": "both",
    "data": {"name": "digits", "train": 500, "test": 150},
    "models": ["lenet-300-100"],
    "training": [
        {"epochs": 15, "retrain_epochs": 5, "batch_size": 64, "objective": objective}
        for objective in ("natural", {"name": "pgd-at", "eps": 0.15, "steps": 5})
    ],
    "pruning": {"rounds": 2, "rate": 0.6},
    "control": {"rounds": "all"},
    "attacks": [{"name": "pgd", "eps": 0.15, "loss": "margin"}],
    "seeds": 1,
}


def test_adversarial_training_stands_beside_natural_training_and_is_more_robust_at_every_level(tmp_path):
    study = run_study(Spec.parse(BOTH), tmp_path / "both", workers=1)
    assert read_json(study.folder / "summary.json")["failures"] == []
    robust = study.frontier().query("metric == 'r_inf'").pivot_table(values="value", index=["method", "level"], columns="objective")
    assert list(robust.columns) == ["natural", "pgd-at(eps=0.15,steps=5)"]
    assert len(robust) == 5
    assert (robust["pgd-at(eps=0.15,steps=5)"] > robust["natural"] + 0.1).all()
