"""Laws of the pages and of the terminal: self-contained, complete, escaped, repeatable, honest about what is missing."""

from __future__ import annotations

import io
import json
import math
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from rich.console import Console

from isogrid import attacks
from isogrid.core.errors import InputError
from isogrid.core.typed import plain, typed
from isogrid.report import build_report, compare, figures, print_summary
from isogrid.report.advice import advice, headline
from isogrid.report.tables import read_tables
from isogrid.report.verdicts import claim_row
from isogrid.report.words import ATTACKS
from isogrid.verdicts.results import Share, Verdict

SMALL = {"models": ["linear"], "rounds": 3, "gallery": False, "transfer": False, "classes": 0}
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


class Page(HTMLParser):
    """Checks that tags nest, and gathers attributes and ids."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> without a start"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def _self_contained(page: Page) -> None:
    tags = {tag for tag, _, _ in page.attributes}
    assert not tags & {"script", "link", "iframe", "object"}
    for tag, name, value in page.attributes:
        assert not name.startswith("on")
        if name in ("src", "href", "xlink:href", "srcset", "data"):
            assert value.startswith(("#", "data:")) or (tag == "a" and value.startswith("https://arxiv.org/")), (tag, value)
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {value[1:] for tag, name, value in page.attributes if tag == "a" and name == "href" and value.startswith("#")} <= set(ids)


@pytest.fixture(scope="module")
def page(study) -> Page:
    return Page(build_report(study).read_text(encoding="utf-8"))


def test_page_is_well_formed_and_self_contained(page):
    _self_contained(page)
    text = page.text
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)


def test_every_verdict_appears_as_a_word_with_its_interval_and_reason(page):
    for verdict in ("supported", "contradicted", "undecided", "no control", "not applicable"):
        assert verdict in page.text
    assert "Where this study contradicts the paper" in page.text
    assert "made-up statement: both rise" in page.text
    assert all(f"made-up reason {k}" in page.text for k in range(5))
    assert "[0.050, 0.110]" in page.text


def test_a_claim_that_is_judged_at_both_ends_names_the_end(make_study, tmp_path):
    folder = make_study(tmp_path / "ends", **SMALL)
    claims = json.loads((folder / "claims.json").read_text())
    (folder / "claims.json").write_text(json.dumps([*claims, claims[1] | {"end": "certified", "verdict": "undecided"}]))
    page = Page(build_report(folder).read_text(encoding="utf-8"))
    assert "Claim 2 ✕ contradicted" in page.text
    assert "Claim 2, certified ? undecided" in page.text
    _self_contained(page)


def test_undecided_recommendations_say_so(study, page):
    found = advice(stored := read_tables(study), next(arm for arm in stored.arms if arm.model == "lenet-300-100"))
    assert "ℓ₂ is undecided" in headline(found)
    assert headline(found) in page.text
    assert sum(one.value == "undecided" for one in found) == 3


def test_every_number_of_the_frontier_is_on_the_page_with_its_interval(study, page):
    points = [point for curve in read_tables(study).curves for point in curve.points if curve.group.metric in ("r_inf", "r_2", "accuracy")]
    assert all(math.isnan(point.mean) for point in points if point.void)
    points = [point for point in points if not point.void]
    missing = [p for p in points if f"{p.mean:.3f}" not in page.text or f"[{p.low:.3f}, {p.high:.3f}]" not in page.text]
    assert len(points) > 100
    assert missing == []


def test_a_void_level_shows_its_failures_and_its_median_and_no_mean(study, page):
    assert "void 30 of 540 failed, median 0.412" in page.text
    assert "median 0.413" in page.text
    console = Console(file=io.StringIO(), width=200)
    folder_text = print_summary(study, console) or console.file.getvalue()
    assert "nan" not in folder_text + page.text.replace("finance", "")


def test_the_number_of_samples_is_named_wherever_it_is_not_the_studys(study, page):
    """C&W saw 200 of the 1,000 samples: in the header of its column, in the legend, in the caption."""
    assert "r₂ · box · n = 200" in page.text
    assert "n = 1000" not in page.text
    assert "On fewer than all 1000 test samples: C&W (n = 200)." in page.text
    stored = read_tables(study)
    group = next(g for g in stored.groups(stored.arms[0]) if g.norm == "l2" and g.domain == "box")
    drawing = figures.overview(stored, stored.arms[0], group, None)
    assert "C&W (n = 200)" in drawing.caption
    assert "n = 200" in drawing.inline


def test_a_median_that_most_attacks_failed_to_reach_is_infinite(make_study, tmp_path):
    folder = make_study(tmp_path / "void", **SMALL)
    summary = json.loads((folder / "summary.json").read_text())
    for curve in summary["curves"]:
        if curve["attack"] == "cw":
            curve["points"][0] |= {"failed": 300, "median": None}
    (folder / "summary.json").write_text(json.dumps(summary))
    assert "300 of 540 failed, median ∞" in Page(build_report(folder).read_text(encoding="utf-8")).text


def test_a_figure_whose_every_level_is_void_says_so(make_study, tmp_path):
    folder = make_study(tmp_path / "all", **SMALL)
    summary = json.loads((folder / "summary.json").read_text())
    for point in (point for curve in summary["curves"] if curve["group"]["norm"] == "l2" for point in curve["points"]):
        point |= {"void": True, "mean": None, "sd": None, "low": None, "high": None, "failed": 30, "attacked": 540, "median": 0.4}
    (folder / "summary.json").write_text(json.dumps(summary))
    text = Page(build_report(folder).read_text(encoding="utf-8")).text
    assert "Every level is void" in text
    assert "One seed" not in text


def test_the_control_is_drawn_under_the_attacks_that_it_met(make_study, tmp_path):
    folder = make_study(tmp_path / "shared", **SMALL | {"rounds": 7})
    summary = json.loads((folder / "summary.json").read_text())
    linf = [c for c in summary["curves"] if c["attack"] == "envelope" and c["group"]["norm"] == "linf"]
    summary["curves"] += [{**c, "attack": "shared-envelope", "over": ["fgs@0.1", "pgd@0.1"]} for c in linf]
    summary["curves"] = [c for c in summary["curves"] if c not in linf or not c["control"]]
    (folder / "summary.json").write_text(json.dumps(summary))
    text = Page(build_report(folder).read_text(encoding="utf-8")).text
    assert "The dense control met FGS and PGD alone: compare it with the shared envelope" in text
    assert "Shared envelope r∞ · ε = 0.1 · box" in text


def test_every_figure_is_stored_named_and_has_an_alternative_text(study, page):
    captions = re.findall(r"figures/(\S+?)\.svg", page.text)
    stored = {path.stem for path in (study / "figures").glob("*.svg")}
    assert stored == {path.stem for path in (study / "figures").glob("*.png")} == set(captions)
    assert all(value for tag, name, value in page.attributes if (tag, name) in (("img", "alt"), ("svg", "aria-label")))
    assert sum(tag == "img" and name == "alt" for tag, name, _ in page.attributes) == sum(
        tag == "img" and name == "src" for tag, name, _ in page.attributes
    )


def test_audit_settings_and_definitions_are_there(page):
    for words in (
        "IG004",
        "Raise steps to 80.",
        "More steps still help",
        "study.yaml",
        "overshoot",
        "Dense control",
        "arXiv:1810.09619",
        "No task of",
    ):
        assert words in page.text


def test_equal_tables_give_equal_bytes_and_stale_figures_go(make_study, tmp_path):
    one, two = (make_study(tmp_path / name, **SMALL) for name in ("one", "two"))
    (two / "figures").mkdir()
    (two / "figures" / "old.svg").write_text("<svg/>")
    pages = [build_report(folder).read_bytes() for folder in (one, two)]
    assert pages[0] == pages[1]
    assert not (two / "figures" / "old.svg").exists()


def test_what_a_user_names_is_escaped_everywhere(make_study, tmp_path):
    evil = "<script>alert('x')</script>\"&"
    folder = make_study(tmp_path / "evil", models=[evil], rounds=2, classes=0, name=evil, failures=[{"task": evil, "reason": evil}])
    summary = json.loads((folder / "summary.json").read_text())
    summary["audit"][0] |= {"title": evil, "detail": evil, "remedy": evil}
    summary["data"][0]["source"] = evil
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "study.yaml").write_text(evil)
    text = build_report(folder).read_text(encoding="utf-8")
    page = Page(text)
    _self_contained(page)
    assert "<script" not in text
    assert evil in page.text
    assert all(re.fullmatch(r"[a-z0-9._-]+", path.name) for path in (folder / "figures").iterdir())
    _self_contained(Page(compare([folder, make_study(tmp_path / "other", rounds=2)], tmp_path / "c.html").read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"seeds": 1, "control": False, "envelope": False},
            ["One seed: no spread over seeds can be shown.", "No dense control was attacked", "This attack has no dense control"],
        ),
        (
            {
                "models": ["lenet-5"],
                "failures": [{"task": "train 3", "reason": "killed by signal 9"}],
                "verdicts": (),
                "recommendation": False,
            },
            ["killed by signal 9", "This study is incomplete", "This study left no claims", "No recommendation"],
        ),
        ({"rounds": 0}, ["Frontier", "No recommendation"]),
    ],
)
def test_missing_parts_are_said_not_hidden(make_study, tmp_path, changes, said):
    folder = make_study(tmp_path / "part", **{**SMALL, **changes})
    page = Page(build_report(folder).read_text(encoding="utf-8"))
    _self_contained(page)
    assert [words for words in said if words not in page.text] == []


def test_a_folder_with_a_bare_summary_still_gives_a_page(tmp_path):
    (tmp_path / "summary.json").write_text(
        json.dumps(
            {
                "name": "bare",
                "arms": [{"data": "made-up", "model": "linear", "pruner": "progressive"}],
                "failures": [{"task": "t", "reason": "r"}],
            }
        )
    )
    page = Page(build_report(tmp_path).read_text(encoding="utf-8"))
    assert "This study is incomplete" in page.text
    assert "No level of this model was measured" in page.text
    print_summary(tmp_path, Console(file=io.StringIO()))


@pytest.mark.parametrize("content", [None, "{", "[]", '{"curves": [{"model": "m", "points": [{}]}]}'])
def test_folders_that_are_no_study_are_refused_in_one_line(tmp_path, content):
    if content is not None:
        (tmp_path / "summary.json").write_text(content)
    with pytest.raises(InputError) as caught:
        build_report(tmp_path)
    assert "\n" not in str(caught.value)


def test_every_attack_has_the_name_that_the_field_gives_it():
    assert [name for name in {**attacks.ATTACKS, **attacks.COMPOSED} if name not in ATTACKS and name != "callable"] == []


def test_distances_are_told_in_per_cent_and_accuracies_in_shares():
    pgd = Share(measure="pgd@0.1", attack="pgd", norm="linf", domain="box", eps=0.1, effect=0.08, low=0.05, high=0.11, p=0.00001)
    ddn = Share(
        measure="ddn", attack="ddn", norm="l2", domain="box", unit="relative", effect=-0.021, low=-math.inf, high=-0.01, role="secondary"
    )
    verdict = Verdict(claim=2, verdict="supported", parts=(pgd, ddn), effect=-0.021, interval=(-math.inf, -0.01), effect_of="ddn")
    one = claim_row(typed(Verdict, plain(verdict), "test"))
    assert (one.parts[0].effect, one.parts[0].interval, one.parts[0].p) == ("+0.080", "90 % [0.050, 0.110]", "< 0.001")
    assert (one.others[0].effect, one.others[0].interval, one.effect) == ("−2.1 %", "90 % (−∞, −1.0] %", "−2.1 %")
    assert one.parts[0].measure == "ℓ∞ PGD ε = 0.1 box"
    assert one.apart == ""


def test_a_seed_that_lies_apart_is_named_and_the_promise_is_for_normal_seeds(make_study, tmp_path):
    folder = make_study(tmp_path / "apart", **SMALL)
    claims = json.loads((folder / "claims.json").read_text())
    claims[0]["parts"][0] |= {"apart": [2], "attack": "pgd", "norm": "linf", "domain": "box", "eps": 0.1}
    (folder / "claims.json").write_text(json.dumps(claims))
    text = Page(build_report(folder).read_text(encoding="utf-8")).text
    assert "seed 2 lies apart in ℓ∞ PGD ε = 0.1 box: look at each seed in the figures" in text
    assert "this promise is for seeds that scatter normally" in text


def test_comparison_sets_models_side_by_side_and_warns_of_unlike_studies(study, make_study, tmp_path):
    other = make_study(tmp_path / "other", models=["lenet-5"], rounds=4, name="other")
    summary = json.loads((other / "summary.json").read_text())
    (other / "summary.json").write_text(json.dumps({**summary, "data": [{"name": "elsewhere"}]}))
    page = Page(compare([study, other], tmp_path / "comparison.html").read_text(encoding="utf-8"))
    _self_contained(page)
    assert "These studies use different data (elsewhere and made-up)" in page.text
    assert "other: lenet-5" in page.text
    assert page.text.count("contradicted") >= 3
    for folders in ([study], [study, study]):
        with pytest.raises(InputError, match="two or more different"):
            compare(folders, tmp_path / "no.html")


@pytest.mark.parametrize("width", [80, 120])
def test_terminal_says_frontier_claims_and_recommendation_within_its_width(study, width):
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    print_summary(study, console)
    text = console.file.getvalue()
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    for words in ("linear", "91.2 %", "█", "✕ contradicted", "no control", "Recommendation", "x collapsed"):
        assert words in text
    assert "undecided" in text


def test_void_levels_leave_the_terminal_room_for_the_sparsity(make_study, tmp_path):
    folder = make_study(tmp_path / "all", **(SMALL | {"envelope": False}))
    summary = json.loads((folder / "summary.json").read_text())
    for point in (point for curve in summary["curves"] if curve["group"]["norm"] == "l2" for point in curve["points"]):
        point |= {"void": True, "mean": None, "sd": None, "low": None, "high": None, "failed": 300, "attacked": 5400, "median": 0.4}
    (folder / "summary.json").write_text(json.dumps(summary))
    console = Console(file=io.StringIO(), width=80, force_terminal=False)
    print_summary(folder, console)
    for words in ("33.3 %", "void! 300/5400", "median 0.400"):
        assert words in console.file.getvalue()


def test_a_script_without_a_guard_draws_in_two_processes(study):
    script = f"from pathlib import Path; from isogrid.report import build_report; print(build_report(Path({str(study)!r}), workers=2).name)"
    done = subprocess.run([sys.executable], input=script, capture_output=True, text=True, check=True)  # from standard input: no file either
    assert done.stdout.split() == ["report.html"]
    assert not done.stderr


def test_two_processes_draw_the_same_bytes_as_one(study):
    def contents():
        return {path.name: path.read_bytes() for path in [study / "report.html", *sorted((study / "figures").iterdir())]}

    build_report(study)
    alone = contents()
    shutil.rmtree(study / "figures")
    build_report(study, workers=2)
    assert contents() == alone
    assert any("gallery" in name for name in alone)
