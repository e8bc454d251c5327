"""Which samples a study is about: they are loaded by name, known by their content."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Self, final

from isogrid import data
from isogrid.core.errors import InputError
from isogrid.core.files import canonical
from isogrid.data import Split
from isogrid.study.cells.base import BESIDE, Cell, Result
from isogrid.study.store import Store

EXAMPLES = 12
"""How many of the first test samples are shown in the gallery."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Data(Cell):
    """Training and test samples: `name` as the user wrote it, `train` and `test` of them (None = all), of `classes` (None = all).

    `box`: the limits of the inputs, instead of the source's own. `hold_out`: samples without a test set of their own are split into two,
    because something is trained on them. `content`: the digest of the samples themselves. `counts`: how many there are, (training, test).
    It stores what tables and networks need to know of the samples, so that a study can be read where its data are not.
    """

    kind: ClassVar[str] = "data"

    name: str = field(metadata=BESIDE)
    train: int | None
    test: int | None
    classes: tuple[int, ...] | None
    box: tuple[float, float] | None = None
    hold_out: bool = True
    content: str
    counts: tuple[int, int] = field(metadata=BESIDE)

    @classmethod
    def of(cls, name: str, train: int | None, test: int | None, classes: tuple[int, ...] | None, **how: Any) -> Self:
        """The cell of the samples that are there now, `how` as in `data.load`; raises what that raises."""
        asked = {"train": train, "test": test, "classes": classes} | how
        split, content = _read(name, asked)
        return cls(name=name, **asked, content=content, counts=(split.train.n, split.test.n))

    @property
    def label(self) -> str:
        """What a progress bar calls it."""
        return f"read {self.title}"

    @property
    def title(self) -> str:
        """The data's name in tables, with its classes where they were chosen."""
        return self.name + ("" if self.classes is None else f"[{','.join(map(str, self.classes))}]")

    def load(self) -> Split:
        """The samples; raises InputError where those behind the name are not these."""
        asked = {field: getattr(self, field) for field in ("train", "test", "classes", "box", "hold_out")}
        split, content = _kept.get(_request(self.name, asked)) or _read(self.name, asked)
        if content != self.content:  # the files behind the name may have been rewritten since
            split, content = _read(self.name, asked)
        if content != self.content:
            raise InputError("data", f"{self.name}, which has changed", "the samples that the study was planned with")
        return split

    def cost(self, pace: float) -> float:
        return 0.1

    def compute(self, store: Store) -> Result:
        split = self.load()
        metrics = {
            "train": split.train.n,
            "test": split.test.n,
            "classes": split.train.classes,
            "source": split.source,
            "shape": list(split.test.shape),
        }
        return Result(metrics=metrics, tensors={"examples": {"x": split.test.x[:EXAMPLES], "label": split.test.y[:EXAMPLES]}})


_kept: dict[str, tuple[Split, str]] = {}
"""The last few samples and their digests, for the cells of a worker that are about the same ones."""


def _request(name: str, asked: dict[str, Any]) -> str:
    return canonical([name, asked])


def _read(name: str, asked: dict[str, Any]) -> tuple[Split, str]:
    split = data.load(name, **asked)
    while len(_kept) > 3:
        del _kept[next(iter(_kept))]
    found = _kept[_request(name, asked)] = (split, split.digest())
    return found
