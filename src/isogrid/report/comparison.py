"""Several studies on one page. What belongs here: what they share, side by side. What does not: the page of one study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from isogrid.core.errors import InputError
from isogrid.core.files import user_path, write_text
from isogrid.report import figures
from isogrid.report.advice import Advice, advice
from isogrid.report.page import Numbering, facts, render
from isogrid.report.style import MARKERS, SERIES, Drawing, drawing_style, finish, new_figure, slugify
from isogrid.report.tables import Tables, read_tables
from isogrid.report.verdicts import ClaimRow, attack_name, claim_rows
from isogrid.report.words import CLAIMS, MISSING, attack_label, group_title, joined
from isogrid.study.results import Curve, Group
from isogrid.verdicts.arm import Arm


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One arm of one study."""

    study: str
    arm: Arm
    source: Tables
    answers: tuple[Advice | None, ...] = ()

    @property
    def model(self) -> str:
        """The arm as a reader knows it."""
        return self.source.title(self.arm)


def compare(folders: Sequence[Path], target: Path = Path("comparison.html")) -> Path:
    """Write one self-contained page that sets several studies side by side; returns its path.

    Curves meet in a figure only where attack, norm, domain and budget are equal. Raises InputError for fewer than two folders, the
    same folder twice, or a folder without a study.
    """
    target = user_path(target, "target", "the path of a page")
    if len({Path(folder).resolve() for folder in folders}) < max(len(folders), 2):
        raise InputError("folders", " ".join(str(folder) for folder in folders), "two or more different study folders")
    studies = [read_tables(Path(folder)) for folder in folders]
    names = _names(studies)
    found = {
        (name, arm): {one.title: one for one in advice(study, arm)}
        for name, study in zip(names, studies, strict=True)
        for arm in study.arms
    }
    questions = list(dict.fromkeys(title for answers in found.values() for title in answers))
    lines = [
        Entry(study=name, arm=arm, source=study, answers=tuple(found[name, arm].get(title) for title in questions))
        for name, study in zip(names, studies, strict=True)
        for arm in study.arms
    ]
    numbers = Numbering()
    with drawing_style():
        drawn = [numbers(drawing) for drawing in _overlays(lines)]
    version = joined(sorted({(study.summary.isogrid or "?") for study in studies}))
    page = render(
        "comparison.html.j2",
        title=" · ".join(names),
        kicker=f"{len(studies)} studies compared",
        version=version,
        facts=[],
        failures=[],
        contents=[("result", "Recommendations"), ("claims", "Claims"), ("curves", "Robustness"), ("studies", "Studies")],
        warning=_warning(studies),
        questions=questions,
        lines=lines,
        claims=_claims(lines),
        figures=drawn,
        studies=[_row(name, study) for name, study in zip(names, studies, strict=True)],
    )
    write_text(Path(target), page)
    return Path(target)


def _names(studies: Sequence[Tables]) -> list[str]:
    """The studies' names, with the folder where two share one."""
    plain = [study.name for study in studies]
    return [
        name if plain.count(name) == 1 else f"{name} ({study.folder.name or study.folder})"
        for name, study in zip(plain, studies, strict=True)
    ]


def _warning(studies: Sequence[Tables]) -> str:
    told = []
    data = {one.name for study in studies for one in study.summary.data}
    if len(data) > 1:
        told.append(f"These studies use different data ({joined(sorted(data))}): their distances and accuracies are not on one scale.")
    if len({repr(sorted(study.summary.tolerance.items())) for study in studies}) > 1:
        told.append("Their tolerances differ, so “not worse than dense” does not mean the same in each.")
    return " ".join(told)


def _claims(lines: Sequence[Entry]) -> list[tuple[int, str, list[ClaimRow | None]]]:
    judged = [{claim.number: claim for claim in claim_rows(line.source, line.arm) if claim.end == "attacked"} for line in lines]
    return [(number, CLAIMS.get(number, ""), [one.get(number) for one in judged]) for number in sorted({k for one in judged for k in one})]


def _row(name: str, study: Tables) -> dict[str, str]:
    attacks = [f"{attack_name(one)}{'' if one.eps is None else f' {one.eps}'}" for one in study.summary.attacks]
    return {
        "name": name,
        "data": dict(facts(study)).get("Data", ""),
        "seeds": dict(facts(study)).get("Seeds", MISSING),
        "method": dict(facts(study)).get("Method", ""),
        "attacks": ", ".join(attacks),
        "failures": str(len(study.summary.failures)),
        "version": study.summary.isogrid,
    }


def _overlays(lines: Sequence[Entry]) -> list[Drawing]:
    """A figure per (metric, threat, attack) that two or more models have, envelopes first; and one of the accuracy."""
    shared: dict[tuple[Group, str], list[tuple[int, Entry, Curve]]] = {}
    for place, line in enumerate(lines):
        study = line.source
        for curve in study.select(line.arm, metric="accuracy"):
            shared.setdefault((curve.group, ""), []).append((place, line, curve))
        for group in study.groups(line.arm):
            for curve in study.attacks(line.arm, group):
                shared.setdefault((group, curve.attack), []).append((place, line, curve))
    order = sorted(shared, key=lambda key: (key[0].metric == "accuracy", not key[1].startswith("envelope"), *key[0].order, key[1]))
    return [_overlay(group, attack, shared[group, attack]) for group, attack in order if len(shared[group, attack]) > 1]


def _overlay(group: Group, attack: str, drawn: Sequence[tuple[int, Entry, Curve]]) -> Drawing:
    figure = new_figure(figures.WIDTH, 2.75)
    axes = figure.subplots()
    states: set[str] = set()
    keys, several, sparsities = [], False, list[float]()
    for place, line, curve in drawn:
        colour, marker, dashed = SERIES[place % len(SERIES)][0], MARKERS[place % len(MARKERS)], place >= len(SERIES)
        states |= figures.draw_curve(axes, curve, figures.positions(curve, line.source.sparsities(line.arm)), colour, marker, dashed=dashed)
        keys.append(figures.key(f"{line.study}: {line.model}", colour, marker, **({"ls": (0, (4, 2))} if dashed else {})))
        sparsities += [point.sparsity for point in curve.points]
        several |= any(point.sd == point.sd for point in curve.points)
    figures.finish_axes(axes, group, sparsities)
    colour = SERIES[drawn[0][0] % len(SERIES)][0]
    figures.add_legend(
        figure,
        keys + figures.legend_keys(states=states, control=False, dense=False, band=several, colour=colour, tolerance=False),
        columns=1,
    )
    title = "Accuracy without attack" if group.metric == "accuracy" else f"{attack_label(attack)}: {group_title(group)}"
    alt = f"{title} against sparsity, for {joined([f'{line.model} of {line.study}' for _, line, _ in drawn])}."
    return finish(
        figure,
        None,
        slug=slugify("comparison", group.metric, attack, group.norm, group.domain, group.eps),
        title=title,
        alt=alt,
        caption="",
    )
