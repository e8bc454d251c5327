"""The recommendation in words: it reaches the reader whole, qualifies what it rests on, and says nothing that means nothing."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from isogrid.report import build_report, print_summary
from isogrid.report.advice import advice, headline, sentences
from isogrid.report.tables import read_study

SMALL = {"models": ["linear"], "rounds": 3, "gallery": False, "transfer": False, "classes": 0}


def _changed(folder, change):
    summary = json.loads((folder / "summary.json").read_text())
    change(summary["recommendation"][0])
    (folder / "summary.json").write_text(json.dumps(summary))
    return read_study(folder)


def _said(folder):
    console = Console(file=io.StringIO(), width=400)
    print_summary(folder, console)
    return " ".join(console.file.getvalue().split()), build_report(folder).read_text(encoding="utf-8")


def test_every_sentence_of_the_study_reaches_page_and_terminal(make_study, tmp_path):
    folder = make_study(tmp_path / "one", **SMALL)
    study = _changed(folder, lambda row: row.update(seeds=1, sentences=["Made up: first.", "One seed: made-up warning."]))
    assert sentences(study, "linear") == ["Made up: first.", "One seed: made-up warning."]
    for text in _said(folder):
        for sentence in sentences(study, "linear"):
            assert sentence in text
        assert "one seed" in text
    assert "one seed" in headline(advice(study, "linear"))


def test_several_seeds_need_no_qualification(make_study, tmp_path):
    study = read_study(make_study(tmp_path / "three", **SMALL))
    assert "one seed" not in headline(advice(study, "linear"))


def test_that_no_sparse_level_is_as_good_as_dense_is_an_answer(make_study, tmp_path):
    def worse(row):
        row["highest_sparsity"] = {"level": 0, "sparsity": 0.0, "stopped_at": 1, "decided": True, "sentence": ""}

    found = advice(_changed(make_study(tmp_path / "none", **SMALL), worse), "linear")
    highest = next(one for one in found if one.key == "not worse")
    assert (highest.value, highest.decided, highest.level) == ("none", True, None)
    assert "No sparse level is as good as dense" in headline(found)
    assert "undecided" not in headline(found)


@pytest.mark.parametrize("decided", [True, False])
def test_dense_has_no_gain_over_itself(make_study, tmp_path, decided):
    def dense(row):
        gain = {"gain": 0.0, "low": 0.0, "high": 0.0}
        for part in row["most_robust"]:
            part.update(level=0, sparsity=0.0, decided=False, **gain)
        row["compromise"].update(level=0, sparsity=0.0, decided=decided, reason="no sparse level is shown to keep it", **gain)

    found = advice(_changed(make_study(tmp_path / "dense", **SMALL), dense), "linear")
    assert not any("over dense" in one.detail for one in found)
    assert next(one for one in found if one.key == "compromise").detail == "no sparse level is shown to keep it"


def test_a_relative_gain_is_told_in_per_cent_though_the_norm_has_budgets_too(make_study, tmp_path):
    folder = make_study(tmp_path / "both", **(SMALL | {"rounds": 7}))
    summary = json.loads((folder / "summary.json").read_text())
    extra = next(curve for curve in summary["curves"] if curve["metric"] == "r_inf")
    summary["curves"].append({**extra, "metric": "robust_accuracy", "norm": "l2", "eps": 1.0, "attack": "pgd-l2@1"})
    (folder / "summary.json").write_text(json.dumps(summary))
    assert "%" in next(one for one in advice(read_study(folder), "linear") if one.key == "most robust ℓ₂").detail.split(" over dense")[0]
