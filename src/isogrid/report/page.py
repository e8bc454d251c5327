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

from isogrid.core.files import write_text
from isogrid.report import figures, gallery, matrices
from isogrid.report.advice import Advice, advice, headline, marks, sentences
from isogrid.report.checks import check_rows
from isogrid.report.frontier import Frontier, frontier
from isogrid.report.style import Drawing, drawing_style, slugify, variables
from isogrid.report.tables import Group, Study, read_study
from isogrid.report.verdicts import Claim, attack_rows, claims, findings
from isogrid.report.words import joined, norm_label, number

HERE = Path(__file__).parent


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
class ModelPart:
    """Everything the page says of one model."""

    name: str
    slug: str
    given: bool
    headline: str
    advice: tuple[Advice, ...]
    sentences: tuple[str, ...]
    claims: tuple[Claim, ...]
    blocks: tuple[Block, ...]
    frontier: Frontier
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
    the study lacks (twin, gallery, claims, ...) are named as missing, not hidden. Raises InputError where the folder holds no study.
    """
    study = read_study(Path(folder))
    out = study.folder / "figures"
    before = {path for kind in ("*.svg", "*.png") for path in out.glob(kind)} if out.is_dir() else set()
    numbers = Numbering()
    pictures = gallery.galleries(study)
    with _galleries_drawn(pictures, out, workers), drawing_style():
        parts = [_model(study, model, out, numbers, [one for one in pictures if one.model == model]) for model in study.models]
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


def _slugs(part: ModelPart) -> Iterator[str]:
    yield from (item.drawing.slug for block in part.blocks for item in block.figures)
    yield from (str(one["slug"]) for one in part.galleries)


def _context(study: Study, parts: list[ModelPart]) -> dict[str, Any]:
    judged = claims(study)
    by_model = [(model, [claim for claim in judged if claim.model == model]) for model in dict.fromkeys(claim.model for claim in judged)]
    audit = findings(study)
    contents = [("result", "Result"), ("claims", "Claims"), *((part.slug, part.name) for part in parts)]
    contents += [("audit", "Audit"), ("failures", "Failures"), ("settings", "Settings"), ("reading", "How to read")]
    tolerance = study.tolerance
    words = [
        f"{name.replace('r_inf', 'r∞')} {100 * value:g} {'%' if name == 'distance' else 'points'}" for name, value in tolerance.items()
    ]
    return {
        "title": study.name,
        "kicker": "robustness against sparsity",
        "version": str(study.summary.get("isogrid") or ""),
        "facts": facts(study),
        "contents": contents,
        "models": parts,
        "claims": by_model,
        "contradictions": [claim for claim in judged if claim.verdict == "contradicted"],
        "audit": audit,
        "checks": check_rows(study.rows("audit_checks")),
        "errors": sum(one.severity == "error" for one in audit),
        "failures": [{"task": str(row.get("task")), "reason": str(row.get("reason"))} for row in study.rows("failures")],
        "attacks": attack_rows(study),
        "settings": study.settings,
        "tolerance": joined(words),
    }


def facts(study: Study) -> list[tuple[str, str]]:
    """What a reader needs to know of a study before its results: (name, value) pairs."""
    data = study.summary.get("data") or {}
    split = ", ".join(f"{data[key]} {word}" for key, word in (("train", "training"), ("test", "test samples")) if data.get(key) is not None)
    found = [
        ("Data", f"{data.get('name', 'unknown')}" + (f": {split}" if split else "")),
        ("Source", str(data.get("source") or "")),
        ("Models", ", ".join(study.models)),
        ("Method", joined(list(dict.fromkeys("levels are given files" if study.given(m) else study.method(m) for m in study.models)))),
        ("Seeds", "" if study.models and all(map(study.given, study.models)) else str(study.seeds or "unknown")),
        ("Levels", str(max((len(study.sparsities(model)) for model in study.models), default=0))),
    ]
    total = (study.summary.get("timings") or {}).get("total_s")
    if isinstance(total, int | float):
        found.append(("Computing time", f"{total / 60:.1f} min" if total >= 60 else f"{total:.0f} s"))
    return [(name, value) for name, value in found if value]


def _model(study: Study, model: str, out: Path, numbers: Numbering, pictures: list[gallery.Gallery]) -> ModelPart:
    slug, found = slugify("model", model), advice(study, model)
    return ModelPart(
        name=model,
        slug=slug,
        given=study.given(model),
        headline=headline(found),
        advice=tuple(found),
        sentences=tuple(sentences(study, model)),
        claims=tuple(claim for claim in claims(study, model) if claim.verdict != "not applicable"),
        blocks=tuple(_blocks(study, model, slug, out, numbers)),
        frontier=frontier(study, model, marks(found)),
        galleries=tuple(_gallery(one) for one in pictures),
    )


def _blocks(study: Study, model: str, slug: str, out: Path, numbers: Numbering) -> Iterator[Block]:
    def block(name: str, title: str, drawings: list[Drawing | None], text: str = "") -> Iterator[Block]:
        shown = tuple(numbers(drawing) for drawing in drawings if drawing is not None)
        if shown:
            yield Block(id=f"{slug}-{name}", title=title, text=text, figures=shown)

    groups = study.groups(model)
    draw: list[Callable[[Study, str, Group, Path], Drawing | None]] = [figures.overview, figures.stack]
    for norm in dict.fromkeys(group.norm for group in groups):
        drawings = [one(study, model, group, out) for group in groups if group.norm == norm for one in draw]
        yield from block(norm, f"Robustness under {norm_label(norm)} attacks", drawings)
    yield from block("accuracy", "Accuracy without attack", [figures.accuracy(study, model, out), figures.per_class(study, model, out)])
    yield from block("theory", "Theory and exact optimum", list(matrices.theory(study, model, out)), matrices.assumption(study, model))
    maps = [matrices.transfer(study, row, out) for row in study.rows("transfer", model)]
    yield from block("transfer", "Transfer between levels", maps)


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
