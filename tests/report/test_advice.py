"""The recommendation in words: it reaches the reader whole, qualifies what it rests on, and says nothing that means nothing."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from isogrid.core.typed import plain, typed
from isogrid.report import build_report, print_summary
from isogrid.report.advice import advice, headline
from isogrid.report.recommendation import sentences
from isogrid.report.tables import read_tables
from isogrid.verdicts.results import Compromise, Highest, Recommendation

SMALL = {"models": ["linear"], "rounds": 3, "gallery": False, "transfer": False, "classes": 0}


def _changed(folder, change):
    """The study with its first recommendation changed, as it is read back."""
    summary = json.loads((folder / "summary.json").read_text())
    first = typed(Recommendation, summary["recommendation"][0], "test")
    summary["recommendation"][0] = plain(change(first))
    (folder / "summary.json").write_text(json.dumps(summary))
    return read_tables(folder)


def _said(folder):
    console = Console(file=io.StringIO(), width=400)
    print_summary(folder, console)
    return " ".join(console.file.getvalue().split()), build_report(folder).read_text(encoding="utf-8")


def test_every_sentence_of_the_study_reaches_page_and_terminal(make_study, tmp_path):
    folder = make_study(tmp_path / "one", **SMALL)
    study = _changed(folder, lambda found: replace(found, seeds=1))
    said = sentences(study.summary.recommendation[0])
    assert len(said) == 6
    assert "One seed: this holds for the one network" in said[-1]
    for text in _said(folder):
        for sentence in said:
            assert sentence in text
        assert "one seed" in text
    assert "one seed" in headline(advice(study, study.arms[0]))


def test_several_seeds_need_no_qualification(make_study, tmp_path):
    study = read_tables(make_study(tmp_path / "three", **SMALL))
    assert "one seed" not in headline(advice(study, study.arms[0]))


def test_that_no_sparse_level_is_as_good_as_dense_is_an_answer(make_study, tmp_path):
    none = Highest(stopped_at=1, decided=True, worse=1)
    study = _changed(make_study(tmp_path / "none", **SMALL), lambda found: replace(found, highest_sparsity=none))
    found = advice(study, study.arms[0])
    highest = next(one for one in found if one.key == "not worse")
    assert (highest.value, highest.decided, highest.level) == ("none", True, None)
    assert "No sparse level is as good as dense" in headline(found)
    assert "undecided" not in headline(found)


@pytest.mark.parametrize("decided", [True, False])
def test_dense_has_no_gain_over_itself(make_study, tmp_path, decided):
    def dense(found):
        best = tuple(replace(one, level=0, decided=False, effect=0.0, low=0.0, high=0.0) for one in found.most_robust)
        return replace(found, most_robust=best, compromise=Compromise(level=0, decided=decided, why="accuracy lost"))

    study = _changed(make_study(tmp_path / "dense", **SMALL), dense)
    found = advice(study, study.arms[0])
    assert not any("over dense" in one.detail for one in found)
    assert next(one for one in found if one.key == "compromise").detail == "no sparse level is shown to keep it"


def test_a_relative_gain_is_told_in_per_cent_and_an_absolute_one_is_not(make_study, tmp_path):
    study = read_tables(make_study(tmp_path / "both", **(SMALL | {"rounds": 7})))
    gains = {one.key: one.detail.split(" over dense")[0] for one in advice(study, study.arms[0]) if one.key.startswith("most robust")}
    assert gains == {"most robust ℓ∞": "+0.120", "most robust ℓ₂": "+12.0 %"}
