"""What `isogrid run` prints at its end: frontier, claims, recommendation. What does not belong here: HTML, judging."""

from __future__ import annotations

import math
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from isogrid.report import grids
from isogrid.report.advice import advice, headline, marks
from isogrid.report.brackets import bracket_table
from isogrid.report.captions import counted_over
from isogrid.report.checks import audit_line
from isogrid.report.figures import headline as strongest
from isogrid.report.frontier import Cell, Column, Frontier, frontier
from isogrid.report.mechanism import mechanism_rows
from isogrid.report.recommendation import sentences
from isogrid.report.tables import Tables, read_tables
from isogrid.report.verdicts import claim_rows
from isogrid.report.words import eps_text, metric_symbol
from isogrid.study.results import EXACT
from isogrid.verdicts.arm import Arm

TONES = {"good": "green", "bad": "red", "open": "yellow", "none": "dim"}
MAX_MEASURES = 3
_BLOCKS = " ▏▎▍▌▋▊▉█"
_SYMBOLS = {"saturated": "~", "collapsed": "x", "void": "!", "undecided": "?"}


def bar(share: float, width: int = 8, *, ascii_only: bool = False) -> str:
    """A horizontal bar of `width` characters for a share in [0, 1].

    >>> bar(0.5, 4), bar(1.0, 2), bar(0.5, 4, ascii_only=True)
    ('██  ', '██', '##  ')
    """
    share = min(max(share, 0.0), 1.0) if math.isfinite(share) else 0.0
    if ascii_only:
        return ("#" * round(share * width)).ljust(width)
    eighths = round(share * width * 8)
    return (_BLOCKS[8] * (eighths // 8) + (_BLOCKS[eighths % 8] if eighths % 8 else "")).ljust(width)


def print_summary(folder: Path, console: Console) -> None:
    """Print the frontier, the claims and the recommendation of each arm of a study, from its stored tables.

    Raises InputError where the folder holds no study.
    """
    study = read_tables(Path(folder))
    ascii_only = console.options.ascii_only
    for arm in study.arms:
        found = advice(study, arm)
        table = frontier(study, arm, marks(found))
        console.print()
        if table.columns:
            console.print(_table(study, table, ascii_only))
            if table.states:
                console.print(Text("  " + ", ".join(f"{_SYMBOLS[state]} {state}: {why}" for state, why in table.states), style="dim"))
        else:
            console.print(Text(f"{study.title(arm)}: no level was measured", style="red"))
        _print_brackets(study, arm, console)
        _print_claims(study, arm, console)
        console.print(Text.assemble(("  Recommendation  ", "bold"), headline(found)))
        told = [said for one in study.summary.recommendation if one.arm == arm for said in sentences(one)]
        for sentence in (*told, *grids.sentences(study, arm)):
            console.print(Padding(Text(sentence, style="dim"), (0, 0, 0, 11)))
    if study.summary.audit_checks:
        console.print(Text.assemble(("\n  Audit  ", "bold"), audit_line(study.summary.audit_checks)))
    failures = study.summary.failures
    if failures:
        console.print(
            Text(f"\n{len(failures)} task{'s' if len(failures) != 1 else ''} failed; what depends on them is missing.", style="red")
        )


def _print_brackets(study: Tables, arm: Arm, console: Console) -> None:
    found = bracket_table(study, arm)
    if found is None:
        return
    why: dict[int, list[str]] = {}
    for row in mechanism_rows(study, arm):
        why.setdefault(row.level, []).append(f"{row.norm} {row.why}")
    shown = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), expand=False)
    shown.add_column("sparsity", justify="right", no_wrap=True, min_width=len("sparsity"))
    for column in found.columns:
        quantity, _, detail = column.partition(", ")
        shown.add_column(Text.assemble(quantity, *(("\n", (detail, "dim")) if detail else ())), no_wrap=True)
    for line in found.rows:
        shown.add_row(line.sparsity, *line.cells)
    console.print(Text(f"  {found.note}", style="dim"))
    console.print(shown)
    for level in (max(why),) if why else ():
        for said in why[level]:
            console.print(Padding(Text(f"at the sparsest level: {said}", style="dim"), (0, 0, 0, 2)))


def _print_claims(study: Tables, arm: Arm, console: Console) -> None:
    judged = [claim for claim in claim_rows(study, arm) if claim.verdict != "not applicable"]
    for claim in judged:
        effects = "; ".join(f"{part.measure} {part.effect} ({part.interval})" for part in claim.parts)
        text = Text.assemble(
            ("  Claim ", "bold"),
            (str(claim.number), "bold"),
            "  ",
            (f"{claim.sign} {claim.verdict}", TONES[claim.tone]),
            f"  {claim.title}",
        )
        console.print(text)
        told = effects or claim.reason
        if told:
            console.print(Text(f"           {told}", style="dim"))


def _chosen(study: Tables, table: Frontier) -> list[int]:
    """The columns that a terminal has room for: accuracy, then the headline of each threat model, with the truth where that is known."""
    picked = [k for k, column in enumerate(table.columns) if column.group.metric == "accuracy"][:1]
    for group in study.groups(table.arm):
        main = strongest(study.attacks(table.arm, group)).attack
        picked += [k for k, column in enumerate(table.columns) if column.group == group and column.attack == main]
    truths = [k for k, column in enumerate(table.columns) if column.attack == EXACT]
    return sorted([*picked, *truths][: 1 + MAX_MEASURES])


def _table(study: Tables, table: Frontier, ascii_only: bool) -> Table:
    picked = _chosen(study, table)
    tops = {k: max((c.value for line in table.pruned if (c := line.cells[k]) and math.isfinite(c.value)), default=0.0) for k in picked}
    title = Text.assemble((study.title(table.arm), "bold"), (f"  {counted_over(study, table.arm)}".rstrip(), "dim"))
    shown = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0), expand=False)
    shown.add_column("sparsity", justify="right", no_wrap=True, min_width=len("sparsity"))
    for k in picked:
        shown.add_column(_title(table.columns[k]), no_wrap=True)
    shown.add_column("")
    for line in table.pruned:
        cells = [
            _cell(line.cells[k], tops[k], ascii_only, bars=k != picked[0] or table.columns[k].group.metric != "accuracy") for k in picked
        ]
        shown.add_row(line.label, *cells, Text(", ".join(line.marks), style="cyan"), style="bold" if line.marks else "")
    return shown


def _title(column: Column) -> Text:
    if column.group.metric == "accuracy":
        return Text("accuracy")
    detail = " ".join(part for part in (column.title, eps_text(column.group.eps), column.group.domain) if part)
    return Text.assemble(metric_symbol(column.group), "\n", (detail, "dim"))


def _cell(cell: Cell | None, top: float, ascii_only: bool, *, bars: bool) -> Text:
    if cell is not None and cell.state == "undecided":
        return Text(f"{cell.mean}{_SYMBOLS['undecided']}", style="dim")
    if cell is not None and cell.state == "void":
        narrow = cell.note.replace(" of ", "/").replace(" failed", "").replace(", ", "\n")  # a column of bars is no wider
        return Text(f"{cell.mean}{_SYMBOLS['void']} {narrow}".rstrip(), style="dim")
    if cell is None or not math.isfinite(cell.value):
        return Text("–", style="dim")
    sign = _SYMBOLS.get(cell.state, " ")
    text = f"{cell.mean}{sign}" + (bar(cell.value / top if top else 0.0, ascii_only=ascii_only) if bars else "")
    return Text(text, style="dim" if cell.state else "")
