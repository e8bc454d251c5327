"""The audit on the page: where each finding holds, and what became of every check."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from isogrid.audit.findings import PlacedCheck, PlacedFinding
from isogrid.core.typed import plain
from isogrid.report.checks import audit_line, check_rows
from isogrid.report.page import build_report
from isogrid.report.tables import read_tables
from isogrid.report.terminal import print_summary
from isogrid.report.verdicts import finding_rows

FINDING = PlacedFinding(code="IG002", severity="info", title="wide", detail="", remedy="none", share=0.3, model="linear")


def check(
    code: str, state: str, *, levels: tuple[int, ...], seeds: tuple[int, ...], gap: str = "", method: str = "progressive"
) -> PlacedCheck:
    return PlacedCheck(
        code=code,
        severity="error",
        title=f"title of {code}",
        state=state,
        gap=gap,
        model="linear",
        method=method,
        control=method == "dense",
        levels=levels,
        seeds=seeds,
        networks=len(levels) * len(seeds),
    )


CHECKS = [
    check("IG003", "passed", levels=(0, 1, 2), seeds=(0, 1)),
    check("IG003", "passed", levels=(2,), seeds=(0, 1), method="dense"),
    check("IG005", "found", levels=(1,), seeds=(0,)),
    check("IG005", "not checked", levels=(0, 2), seeds=(0, 1), gap="no gradient-free attack"),
    check("IG006", "not checked", levels=(0, 1, 2), seeds=(0, 1), gap="nothing with twice its steps"),
]


@pytest.fixture(scope="module")
def folder(make_study, tmp_path_factory):
    folder = make_study(tmp_path_factory.mktemp("audit"), models=["linear"], rounds=2, gallery=False, transfer=False)
    summary = json.loads((folder / "summary.json").read_text())
    summary["audit"] = [
        replace(FINDING, detail="3 of 10", method="progressive", levels=(0, 1, 2), seeds=(0, 2), level=1, seed=2),
        replace(FINDING, detail="2 of 10", method="dense", control=True, levels=(2,), seeds=(0,), level=2, seed=0),
    ]
    (folder / "summary.json").write_text(json.dumps(plain(summary | {"audit_checks": CHECKS})))
    return folder


def test_a_finding_names_levels_seeds_and_the_worst_of_them(folder):
    pruned, control = finding_rows(read_tables(folder))
    assert pruned.where == "linear, progressive, levels 0–2, seeds 0, 2"
    assert pruned.worst == "level 1 (33.3 % sparse), seed 2"
    assert control.where == "linear, dense control, level 2, seed 0"
    assert control.worst == ""  # and no sparsity: it is dense


def test_every_check_says_what_became_of_it():
    rows = {row.code: [(line.state, line.where, line.gap) for line in row.lines] for row in check_rows(CHECKS)}
    assert rows["IG003"] == [("passed", "every network", "")]
    assert rows["IG005"] == [
        ("found", "linear, progressive, level 1, seed 0 (1 network)", ""),
        ("not checked", "linear, progressive, levels 0, 2, seeds 0–1 (4 networks)", "no gradient-free attack"),
    ]
    assert rows["IG006"] == [("not checked", "every network", "nothing with twice its steps")]
    assert audit_line(CHECKS) == "found IG005 (error); passed 1 of 3 checks; not checked IG006"


def test_page_and_terminal_tell_not_checked_from_passed(folder):
    page = build_report(folder).read_text(encoding="utf-8")
    for words in ("levels 0–2, seeds 0, 2", "nothing with twice its steps", "title of IG006", "dense control", "Worst: level 1"):
        assert words in page
    printed = io.StringIO()
    print_summary(folder, Console(file=printed, width=200))
    assert "Audit  found IG005 (error); passed 1 of 3 checks; not checked IG006" in printed.getvalue()


def test_a_page_without_stored_checks_claims_none(make_study, tmp_path):
    folder = make_study(tmp_path, models=["linear"], rounds=1, gallery=False, transfer=False)
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(summary | {"audit": []}))
    assert "may never have looked" in build_report(folder).read_text(encoding="utf-8")
