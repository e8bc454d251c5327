"""What a study is going to have: its networks, levels and cells. Not here: where a plan comes from (`planning`), or the work itself.

plan.json is the plan written down before the first cell is computed, so that a study opens without the files that it was made from: keys
hold digests of factories, attacks and checkpoints, and planning anew after one of them has changed leads to other cells.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from isogrid.core.errors import InputError
from isogrid.core.files import digest, read_json, write_json
from isogrid.study.cells import Architecture, Attack, Cell, Data, Substitute, Train, Transfer, read, written
from isogrid.study.spec import ModelSpec, Spec
from isogrid.study.spec.reading import read_yaml
from isogrid.study.store import Store
from isogrid.verdicts.arm import Arm

NAME = "plan.json"
FORMAT = 3
FREE = ("name", "tolerance")
"""Settings on which no cell depends: they may be edited in study.yaml after a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """What all levels of one model have in common. `source`: where the samples came from, in words. `linear`: it is an affine map.

    `weights`: how many can be pruned. `unproved`: why nothing can be certified of it; empty where that can be, or is not asked for.
    `substitute`: the black-box attacker's model, for planning. `pace`: measured seconds of one gradient of one sample, for forecasts; 0
    where not measured.
    """

    spec: ModelSpec
    data: Data
    model: Architecture
    source: str
    linear: bool
    weights: int
    unproved: str = ""
    substitute: Architecture | None = field(default=None, compare=False)
    pace: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelPlan:
    """The cells of one level of one arm: its training, the attacks on it, and whatever else is measured there.

    `round`: how many rounds of training its network has had after the dense reference; the dense control of that round is its control.
    """

    arm: Arm
    seed: int
    level: int
    round: int
    train: Train
    attacks: tuple[Attack | Substitute, ...] = ()
    others: tuple[Cell, ...] = ()

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All of them, what is needed first."""
        return (self.train, *self.attacks, *self.others)


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferPlan:
    """The transfer matrix between the levels of one arm, in their order."""

    arm: Arm
    levels: tuple[int, ...]
    cell: Transfer


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All levels of a study."""

    spec: Spec
    networks: tuple[Network, ...]
    levels: tuple[LevelPlan, ...]
    transfers: tuple[TransferPlan, ...]

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """Every cell once, needs before what needs them; the samples' own cells are not among them, a run begins with these."""
        found: dict[str, Cell] = {}
        for cell in (*(cell for level in self.levels for cell in level.cells), *(one.cell for one in self.transfers)):
            found.setdefault(cell.key, cell)
        return tuple(found.values())

    def network(self, arm: Arm) -> Network:
        """The network of an arm."""
        return next(one for one in self.networks if one.spec.title == arm.model)

    @property
    def arms(self) -> tuple[Arm, ...]:
        """Every arm, controls last among those of a model."""
        return tuple(dict.fromkeys(level.arm for level in self.levels))

    def write(self, root: Path) -> None:
        """Write plan.json: equal studies give equal bytes, and no path of this machine is in it but those that the user wrote."""
        cells = list(self._every_cell())
        place = {id(cell): index for index, cell in enumerate(cells)}
        value = {
            "plan": FORMAT,
            "study": _settings(yaml.safe_load(self.spec.text())),
            "networks": [
                {"data": place[id(one.data)], "model": asdict(one.model)}
                | {name: getattr(one, name) for name in ("source", "linear", "weights", "unproved")}
                for one in self.networks
            ],
            "cells": [written(cell) for cell in cells],
            "levels": [
                {"arm": asdict(level.arm), "seed": level.seed, "level": level.level, "round": level.round, "train": place[id(level.train)]}
                | {name: [place[id(cell)] for cell in getattr(level, name)] for name in ("attacks", "others")}
                for level in self.levels
            ],
            "transfers": [{"arm": asdict(one.arm), "levels": one.levels, "cell": place[id(one.cell)]} for one in self.transfers],
        }
        write_json(root / NAME, value)

    def _every_cell(self) -> Iterator[Cell]:
        """Every cell object once, needs before what needs them. Cells that differ in their names alone have one key and are two objects."""
        seen: set[int] = set()

        def walk(cell: Cell) -> Iterator[Cell]:
            if id(cell) not in seen:
                seen.add(id(cell))
                for need in cell.needs:
                    yield from walk(need)
                yield cell

        for one in self.networks:
            yield from walk(one.data)
        for level in self.levels:
            for cell in level.cells:
                yield from walk(cell)
        for transfer in self.transfers:
            yield from walk(transfer.cell)


def read_plan(root: Path) -> Plan:
    """The plan of a study folder, its cells the ones that were written.

    Raises InputError where the folder holds no study, no plan, or settings that are not those of its plan.
    """
    again = f"`isogrid run {root / 'study.yaml'} --out {root}`"
    if not (root / "study.yaml").is_file():
        raise InputError("study", str(root), "a folder that isogrid run has written (it holds study.yaml)")
    if not (root / NAME).is_file():
        raise InputError("study", str(root), f"a folder with a {NAME}; {again} writes it and keeps every cell that is still valid")
    settings = read_yaml(root / "study.yaml")
    spec = Spec.parse(settings, sources=False)
    try:
        value = read_json(root / NAME)
        if value["plan"] != FORMAT:
            raise ValueError(f"format {value['plan']}, not {FORMAT}")
        if value["study"] != _settings(settings):
            raise InputError("study", str(root / "study.yaml"), f"the settings that were run; for others {again}")
        plan = _plan(spec, value)
    except (UnicodeDecodeError, KeyError, IndexError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError("study", str(root / NAME), f"the file as the run wrote it ({error!r}); {again} writes it anew") from None
    store = Store(root)
    for network in plan.networks:
        if not store.finished(network.data.key):
            raise InputError("study", str(root), f"a folder with the cell {network.data.key}; the same `isogrid run` writes it")
    return plan


def _plan(spec: Spec, value: dict[str, Any]) -> Plan:
    by_key: dict[str, Cell] = {}
    cells: list[Any] = []
    for stored in value["cells"]:
        cell = read(stored, by_key)
        cells.append(cell)
        by_key.setdefault(cell.key, cell)
    networks = [
        Network(
            spec=model,
            data=cells[one["data"]],
            model=Architecture(**one["model"]),
            **{name: one[name] for name in ("source", "linear", "weights", "unproved")},
        )
        for model, one in zip(spec.models, value["networks"], strict=True)
    ]
    levels = [
        LevelPlan(
            arm=Arm(**one["arm"]),
            **{name: one[name] for name in ("seed", "level", "round")},
            train=cells[one["train"]],
            attacks=tuple(cells[index] for index in one["attacks"]),
            others=tuple(cells[index] for index in one["others"]),
        )
        for one in value["levels"]
    ]
    transfers = [TransferPlan(arm=Arm(**one["arm"]), levels=tuple(one["levels"]), cell=cells[one["cell"]]) for one in value["transfers"]]
    return Plan(spec=spec, networks=tuple(networks), levels=tuple(levels), transfers=tuple(transfers))


def _settings(values: dict[str, Any]) -> str:
    """The digest of all settings that cells may depend on."""
    return digest({name: value for name, value in values.items() if name not in FREE})
