"""The page of one study: report.html and figures/, from the stored tables alone. What does not belong here: judging, wording of rows."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from isogrid.core.files import user_path, write_text
from isogrid.engines.local import without_script
from isogrid.report import brackets, figures, gallery, grids, matrices, mechanism
from isogrid.report.advice import Advice, advice, headline, marks
from isogrid.report.captions import counted_over
from isogrid.report.checks import check_rows
from isogrid.report.frontier import Frontier, frontier
from isogrid.report.recommendation import sentences
from isogrid.report.style import Drawing, drawing_style, slugify, variables
from isogrid.report.tables import Tables, read_tables
from isogrid.report.verdicts import ClaimRow, attack_rows, claim_rows, finding_rows
from isogrid.report.words import joined, norm_label, number
from isogrid.study.results import Group
from isogrid.verdicts.arm import Arm

HERE = Path(__file__).parent
_BRACKETS = (
    "An attack shows that a perturbation of some size is enough, a certificate proves that none below some size is: the truth lies between."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A drawing with its number on the page."""

    number: int
    drawing: Drawing

    @property
    def id(self) -> str:
        """The anchor of the figure."""
        return f"figure-{self.number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Figures that belong together, under a heading."""

    id: str
    title: str
    text: str
    figures: tuple[Figure, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Everything the page says of one arm."""

    name: str
    slug: str
    counted: str
    given: bool
    headline: str
    advice: tuple[Advice, ...]
    sentences: tuple[str, ...]
    claims: tuple[ClaimRow, ...]
    blocks: tuple[Block, ...]
    frontier: Frontier
    brackets: brackets.BracketTable | None
    mechanism: tuple[mechanism.MechanismRow, ...]
    mechanism_text: str
    galleries: tuple[Mapping[str, Any], ...]


class Numbering:
    """Gives drawings their numbers in the order of the page."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, drawing: Drawing) -> Figure:
        self.count += 1
        return Figure(number=self.count, drawing=drawing)


def build_report(folder: Path, *, workers: int = 1) -> Path:
    """Write report.html and figures/*.svg, *.png into a study folder, from its stored tables; returns the page's path.

    Equal tables give equal bytes, in one process or two (`workers` above 1: another draws the galleries, half of the work). Parts that
    the study lacks (control, gallery, claims, ...) are named as missing, not hidden. Raises InputError where the folder holds no study.
    """
    study = read_tables(user_path(folder, "folder", "the path of a study folder"))
    out = study.folder / "figures"
    before = {path for kind in ("*.svg", "*.png") for path in out.glob(kind)} if out.is_dir() else set()
    numbers = Numbering()
    pictures = gallery.galleries(study)
    with _galleries_drawn(pictures, out, workers), drawing_style():
        parts = [_part(study, arm, out, numbers, [one for one in pictures if one.arm == arm]) for arm in study.arms]
    written = {out / f"{slug}.{kind}" for part in parts for slug in _slugs(part) for kind in ("svg", "png")}
    for path in before - written:  # figures of an earlier report that no longer exist must not be cited as this study's
        path.unlink()
    page = study.folder / "report.html"
    write_text(page, render("page.html.j2", **_context(study, parts)))
    return page


@contextlib.contextmanager
def _galleries_drawn(pictures: Sequence[gallery.Gallery], out: Path, workers: int) -> Iterator[None]:
    """The galleries' files are there on exit."""
    if workers == 1 or not pictures:
        gallery.draw_all(pictures, out)
        yield
        return
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("forkserver")) as pool:
        with without_script():
            drawn = pool.submit(gallery.draw_all, pictures, out)
        yield
        drawn.result()


def render(template: str, **context: Any) -> str:
    """Render a template of this package with its style sheet; every value is escaped."""
    loader = jinja2.FileSystemLoader(HERE)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    css = (HERE / "page.css").read_text(encoding="utf-8")
    css = css.replace("LIGHT_VARIABLES", variables(dark=False)).replace("DARK_VARIABLES", variables(dark=True))
    return environment.get_template(template).render(css=css, **context) + "\n"


def _slugs(part: Part) -> Iterator[str]:
    yield from (item.drawing.slug for block in part.blocks for item in block.figures)
    yield from (str(one["slug"]) for one in part.galleries)


def _context(study: Tables, parts: list[Part]) -> dict[str, Any]:
    judged = claim_rows(study)
    by_arm = [(study.title(arm), [claim for claim in judged if claim.arm == arm]) for arm in dict.fromkeys(claim.arm for claim in judged)]
    audit = finding_rows(study)
    contents = [("result", "Result"), ("claims", "Claims"), *((part.slug, part.name) for part in parts)]
    contents += [("audit", "Audit"), ("failures", "Failures"), ("settings", "Settings"), ("reading", "How to read")]
    tolerance = study.summary.tolerance
    words = [
        f"{name.replace('r_inf', 'r∞')} {100 * value:g} {'%' if name == 'distance' else 'points'}" for name, value in tolerance.items()
    ]
    return {
        "title": study.name,
        "kicker": "robustness against sparsity",
        "version": study.summary.isogrid,
        "facts": facts(study),
        "contents": contents,
        "models": parts,
        "claims": by_arm,
        "contradictions": [claim for claim in judged if claim.verdict == "contradicted"],
        "audit": audit,
        "checks": check_rows(study.summary.audit_checks),
        "errors": sum(one.severity == "error" for one in audit),
        "failures": study.summary.failures,
        "attacks": attack_rows(study),
        "settings": study.settings,
        "tolerance": joined(words),
    }


def facts(study: Tables) -> list[tuple[str, str]]:
    """What a reader needs to know of a study before its results: (name, value) pairs."""
    found = [
        ("Data", _samples(study)),
        ("Source", joined(list(dict.fromkeys(one.source for one in study.summary.data if one.source)))),
        ("Models", ", ".join(dict.fromkeys(arm.model for arm in study.arms))),
        ("Method", joined(list(dict.fromkeys("levels are given files" if study.given(arm) else arm.pruner for arm in study.arms)))),
        ("Certificates", joined([f"none of {one.model}: {one.unproved}" for one in study.summary.data if one.unproved])),
        ("Seeds", "" if study.arms and all(map(study.given, study.arms)) else str(study.summary.seeds or "unknown")),
        ("Levels", str(max((len(study.sparsities(arm)) for arm in study.arms), default=0))),
    ]
    return [(name, value) for name, value in found if value]


def _samples(study: Tables) -> str:
    """The data with their numbers of samples; model by model where these differ."""
    told: dict[str, list[str]] = {}
    for one in study.summary.data:
        counts = ((one.train, "training"), (one.test, "test samples"))
        split = ", ".join(f"{count} {word}" for count, word in counts if count is not None)
        told.setdefault(one.name + (f": {split}" if split else ""), []).append(one.model)
    if len(told) == 1:
        return next(iter(told))
    return "; ".join(f"{text} ({', '.join(models)})" for text, models in told.items()) or "unknown"


def _part(study: Tables, arm: Arm, out: Path, numbers: Numbering, pictures: list[gallery.Gallery]) -> Part:
    name = study.title(arm)
    slug, found = slugify("model", name), advice(study, arm)
    return Part(
        name=name,
        slug=slug,
        counted=counted_over(study, arm),
        given=study.given(arm),
        headline=headline(found),
        advice=(*found, *grids.boxes(study, arm)),
        sentences=(
            *(sentence for found_ in study.summary.recommendation if found_.arm == arm for sentence in sentences(found_)),
            *grids.sentences(study, arm),
        ),
        claims=tuple(claim for claim in claim_rows(study, arm) if claim.verdict != "not applicable"),
        blocks=tuple(_blocks(study, arm, slug, out, numbers)),
        frontier=frontier(study, arm, marks(found)),
        brackets=brackets.bracket_table(study, arm),
        mechanism=mechanism.mechanism_rows(study, arm),
        mechanism_text=mechanism.summary(study, arm),
        galleries=tuple(_gallery(one) for one in pictures),
    )


def _blocks(study: Tables, arm: Arm, slug: str, out: Path, numbers: Numbering) -> Iterator[Block]:
    def block(name: str, title: str, drawings: list[Drawing | None], text: str = "") -> Iterator[Block]:
        shown = tuple(numbers(drawing) for drawing in drawings if drawing is not None)
        if shown:
            yield Block(id=f"{slug}-{name}", title=title, text=text, figures=shown)

    maps: list[Drawing | None] = [grids.heat_map(study, one, out) for one in grids.of_arm(study, arm)]
    yield from block("grid", "Weight × activation sparsity", maps)
    groups = study.groups(arm)
    draw: list[Callable[[Tables, Arm, Group, Path], Drawing | None]] = [figures.overview, figures.stack]
    for norm in dict.fromkeys(group.norm for group in groups):
        drawings = [one(study, arm, group, out) for group in groups if group.norm == norm for one in draw]
        yield from block(norm, f"Robustness under {norm_label(norm)} attacks", drawings)
    yield from block("accuracy", "Accuracy without attack", [figures.accuracy(study, arm, out), figures.per_class(study, arm, out)])
    yield from block("bracket", "Between certificate and attack", list(brackets.drawings(study, arm, out)), _BRACKETS)
    yield from block("theory", "Theory and exact optimum", list(matrices.theory(study, arm, out)), matrices.assumption(study, arm))
    moved = [matrices.transfer(study, arm, one, out) for one in study.summary.transfer if one.arm == arm]
    yield from block("transfer", "Transfer between levels", moved)


def _gallery(one: gallery.Gallery) -> dict[str, Any]:
    rows = [
        {
            "label": row.label,
            "cells": [
                {
                    "adversarial": gallery.data_uri(cell.adversarial),
                    "perturbation": gallery.data_uri(cell.perturbation),
                    "note": cell.note,
                    "verdict": cell.verdict,
                    "broken": cell.broken,
                }
                for cell in row.cells
            ],
        }
        for row in one.rows
    ]
    clean = [(label, gallery.data_uri(image)) for label, image in one.clean]
    return {"title": one.title, "clean": clean, "rows": rows, "full": number(one.full), "slug": one.slug}
