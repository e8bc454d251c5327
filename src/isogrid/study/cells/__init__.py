"""The kinds of cell, one file each; a new kind is a file and a row of `KINDS`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from isogrid.core.errors import InputError
from isogrid.core.targets import load_target
from isogrid.study.cells import base
from isogrid.study.cells.attack import Attack, about
from isogrid.study.cells.audit import Audit
from isogrid.study.cells.base import Cell, Result, Row
from isogrid.study.cells.certificate import Certificate
from isogrid.study.cells.data import Data
from isogrid.study.cells.exact import Exact
from isogrid.study.cells.lipschitz import Lipschitz
from isogrid.study.cells.substitute import Substitute
from isogrid.study.cells.theory import Theory
from isogrid.study.cells.train import Architecture, Given, Train
from isogrid.study.cells.transfer import Transfer

KINDS: dict[str, type[Cell]] = {
    cls.kind: cls for cls in (Data, Train, Attack, Substitute, Theory, Certificate, Exact, Lipschitz, Transfer, Audit)
}


def kind_of(name: object) -> type[Cell]:
    """The kind of a cell by its registered name, or the user's own as `package.module:Class` (which workers can import, too).

    Raises InputError where there is no such kind.
    """
    if isinstance(name, str) and name in KINDS:
        return KINDS[name]
    accepted = f"one of {', '.join(KINDS)}, or package.module:Class of your own"
    if not isinstance(name, str) or ":" not in name or name.rpartition(":")[0].endswith(".py"):
        raise InputError("cells.kind", name, accepted)
    found = load_target("cells.kind", name)
    if not (isinstance(found, type) and issubclass(found, Cell)):
        raise InputError("cells.kind", name, f"a subclass of isogrid.study.cells.Cell; {accepted}")
    return found


def written(cell: Cell) -> dict[str, Any]:
    """A cell as plain data, the cells that it needs by their keys."""
    kind = type(cell)
    return base.written(cell, cell.kind if KINDS.get(cell.kind) is kind else f"{kind.__module__}:{kind.__qualname__}")


def read(value: Mapping[str, Any], others: Mapping[str, Cell]) -> Cell:
    """What `written` gave, as the cell again; `others`: cells by key, its needs among them.

    Raises ValueError (InputError where the kind is not there any more), KeyError or TypeError where the data are no cell.
    """
    return base.read(value, kind_of(str(value["kind"])), others)


__all__ = [
    "KINDS",
    "Architecture",
    "Attack",
    "Audit",
    "Cell",
    "Certificate",
    "Data",
    "Exact",
    "Given",
    "Lipschitz",
    "Result",
    "Row",
    "Substitute",
    "Theory",
    "Train",
    "Transfer",
    "about",
    "kind_of",
    "read",
    "written",
]
