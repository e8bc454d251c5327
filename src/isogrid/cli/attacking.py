"""`isogrid attack`: the robustness table of one trained model, without pruning."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from isogrid import attacks as attack_library, data as data_library, models
from isogrid.attacks.driver.base import Attack, AttackOutcome
from isogrid.attacks.records import outcome_frame
from isogrid.audit import Audit
from isogrid.audit.model import examine_model
from isogrid.cli.attack_flags import chosen_attacks, split_list
from isogrid.cli.flags import choose_device, tidy
from isogrid.cli.output import print_json
from isogrid.core.errors import InputError
from isogrid.data import Samples
from isogrid.metrics.robustness import attack_metrics, mean_distance
from isogrid.report.checks import audit_line
from isogrid.study.spec import Spec


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One attack's figures."""

    id: str
    attack: Attack
    metrics: dict[str, float]
    failures: int
    queries: float


def attack_model(
    *,
    model: str,
    data: str,
    weights: str | None,
    classes: str | None,
    attacks_text: str,
    eps: str | None,
    samples: int | None,
    seed: int,
    audit: bool,
    device: str,
    out: str | None,
    as_json: bool,
    console: Console,
    progress_console: Console,
) -> None:
    """Load, attack, audit, print."""
    folder = None if out is None else tidy(out)
    chosen = _attacks(attacks_text, eps)
    labels = None if classes is None else tuple(split_list("classes", classes, int, "labels as 1,7"))
    test = data_library.load(data, classes=labels, test=samples, hold_out=False).test
    place = choose_device(device, "cpu")
    network = models.open_model(model, test.x, test.classes, weights=weights, on_note=lambda note: _say(progress_console, note)).to(place)
    test = test.to(place)
    if folder is not None:
        _store(folder)
    rows: list[Row] = []
    with Progress(console=progress_console, transient=True, disable=not progress_console.is_terminal) as progress:
        bar = progress.add_task("attacks", total=len(chosen) * test.n)
        for identity, attack in chosen:
            progress.update(bar, description=escape(identity))
            before = len(rows) * test.n
            outcome = attack(
                network,
                test.x,
                test.y,
                seed=seed,
                box=test.box,
                on_batch=lambda done, before=before: progress.update(bar, completed=before + done),  # type: ignore[misc]
            )
            rows.append(_row(identity, attack, outcome))
            if folder is not None:
                _store(folder, {identity: outcome_frame(outcome)})
        progress.update(bar, description="audit", visible=audit)
        own = [attack for _, attack in chosen]
        examined = (
            examine_model(network, test.x, test.y, own, seed=seed, samples=100, box=test.box) if audit else Audit(findings=[], checks=[])
        )
    accuracy = float(outcome.correct.double().mean())
    if as_json:
        told = {"audit": [asdict(finding) for finding in examined.findings], "audit_checks": [asdict(check) for check in examined.checks]}
        print_json(_plain(model, test, accuracy, rows) | told)
        return
    console.print(attack_table(model, test, accuracy, rows))
    for finding in examined.findings:
        console.print(
            f"{finding.code} {finding.severity}: {finding.title}: {finding.detail}. {finding.remedy}", markup=False, highlight=False
        )
    if audit:
        console.print(
            f"audit: {audit_line(examined.checks)} (what passed does not prove that the model is robust)", markup=False, highlight=False
        )


def _say(console: Console, note: str) -> None:
    console.print(note, markup=False, highlight=False)


def _attacks(text: str, eps: str | None) -> list[tuple[str, Attack]]:
    """The attacks with their names in the table, validated as those of a study are."""
    entries = Spec.parse({"attacks": chosen_attacks([], text, eps)}).attacks
    for entry in entries:
        for name in ("samples", "samples_of", "survivors"):
            if getattr(entry, name):
                raise InputError("attacks", f"{entry.name}({name}=...)", "parameters of attacks; that is a setting of a study")
    return [pair for entry in entries for pair in entry.named()]


def _row(identity: str, attack: Attack, outcome: AttackOutcome) -> Row:
    frame = outcome_frame(outcome)
    metrics = attack_metrics(
        label=frame["label"],
        clean=frame["clean"],
        adversarial=frame["adversarial"],
        success=frame["success"],
        distance=frame["distance"],
        zero_gradient=frame["zero_gradient"],
        fixed_budget=attack.budget is not None,
    )
    failures = mean_distance(frame["distance"]).failures
    return Row(
        id=identity,
        attack=attack,
        metrics=metrics,
        failures=failures,
        queries=float((frame["forwards"] + frame["backwards"]).mean()),
    )


def _store(out: Path, frames: Mapping[str, pd.DataFrame] = MappingProxyType({})) -> None:
    """Per-sample records by attack; none only makes the folder, so that one that cannot be written is known before anything is computed."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        for identity, frame in frames.items():
            frame.to_parquet(out / f"{identity}.parquet", index=False)
    except OSError as error:
        raise InputError("out", str(out), f"a folder that can be written ({error.strerror})") from None


def _plain(model: str, test: Samples, accuracy: float, rows: list[Row]) -> dict[str, Any]:
    def number(value: float) -> float | None:
        return value if math.isfinite(value) else None

    return {
        "model": model,
        "data": test.name,
        "samples": test.n,
        "accuracy": accuracy,
        "attacks": [
            {
                "id": row.id,
                "norm": row.attack.threat.name,
                "domain": row.attack.domain,
                "eps": row.attack.budget,
                "config": attack_library.config_of(row.attack),
                "failures": row.failures,
                "queries": row.queries,
            }
            | {name: number(value) for name, value in row.metrics.items()}
            for row in rows
        ],
    }


def attack_table(model: str, test: Samples, accuracy: float, rows: list[Row]) -> Table:
    """The rows for a terminal: names and words of headers stay whole, and a column in which no attack has a figure is left out."""
    half = 1.96 * math.sqrt(accuracy * (1 - accuracy) / test.n)
    title = f"{model} on {test.n} samples of {test.name}: accuracy {accuracy:.3f} ± {half:.3f} (95 %, over samples)"
    shown = [_cells(row) for row in rows]
    caption = Text("void: more than 1 % of the attacks failed, so their mean would be biased") if any("void" in c for c in shown) else None
    table = Table(
        title=Text(title), title_justify="left", caption=caption, caption_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0)
    )
    kept = [k for k in range(len(HEADERS)) if any(cells[k] for cells in shown)]
    for k in kept:
        widest = max(len(word) for text in (HEADERS[k], *(cells[k] for cells in shown)) for word in text.split() or [""])
        norm = HEADERS[k] == "norm"  # the one whose cells may break, between words
        table.add_column(Text(HEADERS[k]), justify="left" if k < 2 else "right", no_wrap=not norm, min_width=widest)
    for cells in shown:
        table.add_row(*(Text(cells[k]) for k in kept))
    return table


HEADERS = ("attack", "norm", "eps", "accuracy\nleft", "mean\nsize", "median\nsize", "failed", "zero\ngradient", "queries")


def _cells(row: Row) -> tuple[str, ...]:
    """A row's texts, in the order of HEADERS; the budget has a column of its own and leaves the name."""
    shown, eps = row.metrics, row.attack.budget
    mean = shown.get("r_2")
    return (
        row.id if eps is None else row.id.rpartition("@")[0],
        row.attack.threat.name + ("" if row.attack.domain == "box" else f" {row.attack.domain}"),
        "" if eps is None else f"{eps:g}",
        f"{shown['r_inf']:.3f}" if "r_inf" in shown else "",
        "" if mean is None else f"{mean:.3f}" if math.isfinite(mean) else "void",
        f"{shown['median_distance']:.3f}" if "median_distance" in shown else "",
        str(row.failures),
        f"{shown['zero_gradient']:.1%}",
        f"{row.queries:.0f}",
    )
