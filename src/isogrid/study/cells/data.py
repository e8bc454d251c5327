"""Which samples a study is about: they are loaded by name, known by their content."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Self, final

from isogrid import data
from isogrid.core.errors import InputError
from isogrid.data import Split
from isogrid.study.cells.base import BESIDE, Cell, Result
from isogrid.study.store import Store

EXAMPLES = 12
"""How many of the first test samples are shown in the gallery."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Data(Cell):
    """Training and test samples: `name` as the user wrote it, `train` and `test` of them (None = all), of `classes` (None = all).

    `content`: the digest of the samples themselves. `counts`: how many there are, (training, test). It stores what tables and
    networks need to know of the samples, so that a study can be read where its data are not.
    """

    kind: ClassVar[str] = "data"

    name: str = field(metadata=BESIDE)
    train: int | None
    test: int | None
    classes: tuple[int, ...] | None
    content: str
    counts: tuple[int, int] = field(metadata=BESIDE)

    @classmethod
    def of(cls, name: str, train: int | None, test: int | None, classes: tuple[int, ...] | None) -> Self:
        """The cell of the samples that are there now; raises what `data.load` raises."""
        split, content = _read((name, train, test, classes))
        return cls(name=name, train=train, test=test, classes=classes, content=content, counts=(split.train.n, split.test.n))

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
        request = (self.name, self.train, self.test, self.classes)
        split, content = _kept.get(request) or _read(request)
        if content != self.content:  # the files behind the name may have been rewritten since
            split, content = _read(request)
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


_Request = tuple[str, int | None, int | None, tuple[int, ...] | None]
_kept: dict[_Request, tuple[Split, str]] = {}
"""The last few samples and their digests, for the cells of a worker that are about the same ones."""


def _read(request: _Request) -> tuple[Split, str]:
    name, train, test, classes = request
    split = data.load(name, train=train, test=test, classes=classes)
    while len(_kept) > 3:
        del _kept[next(iter(_kept))]
    _kept[request] = (split, split.digest())
    return _kept[request]
