"""A trained network: level 0 from scratch, a sparser level from its parent, or weights that the user gave."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self, final

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from isogrid import models
from isogrid.attacks.driver.base import margin
from isogrid.attacks.records import to_numpy
from isogrid.audit.model import clean_passes, ends_in_sigmoid
from isogrid.audit.records import CleanRecord
from isogrid.core.errors import InputError
from isogrid.core.files import digest
from isogrid.core.random import derive, generator
from isogrid.core.registry import sources_of
from isogrid.data import Samples
from isogrid.metrics.robustness import class_accuracy
from isogrid.sparsity import PRUNERS, ActivationSparsity, Masks, activation_sparsity, counted_share, live_outputs
from isogrid.study.cells.base import BESIDE, Cell, Result, Row
from isogrid.study.cells.data import Data
from isogrid.study.store import Entry, Store
from isogrid.training import FitConfig, fit
from isogrid.training.layout import channels_last


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A model by the name that the user wrote; `source`: the digest of the code behind the name ("" for a built-in one).

    `tensors`: the digest of the network's names, shapes and types, since a factory may read more than its code (a cfg.json, say).
    """

    name: str
    source: str
    tensors: str

    @classmethod
    def of(cls, name: str, network: nn.Module) -> Self:
        """The architecture of a `network` just built, as its source stands now."""
        return cls(name=name, source=models.source_digest(name), tensors=_tensors(network))

    def build(self, shape: tuple[int, ...], classes: int, seed: int, field: str = "model") -> nn.Module:
        """A fresh network, initialised from `seed`; raises InputError, naming `field`, where code or network are not these any more."""
        source = models.source_digest(self.name)
        if source != self.source:
            what = "has changed" if source else "is missing"
            raise InputError(field, f"{self.name}, whose file {what}", f"the file that the study was run with (SHA-256 {self.source}...)")
        network = models.build(self.name, shape, classes, seed)
        if _tensors(network) != self.tensors:
            why = "its parameters have other names or shapes, as they have after a change in a file that the factory reads, or by the seed"
            raise InputError(field, self.name, f"the network that the study was run with ({why})")
        return network


def _tensors(network: nn.Module) -> str:
    named = (*network.named_parameters(), *network.named_buffers())
    return digest([[name, list(tensor.shape), str(tensor.dtype)] for name, tensor in named])


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """A file of the user's with trained weights, known by its content."""

    path: str = field(metadata=BESIDE)
    content: str

    @classmethod
    def of(cls, path: str) -> Self:
        """The file as it is now; raises OSError where it cannot be read."""
        return cls(path=path, content=_content(path))

    def load(self, network: nn.Module) -> None:
        """Put the weights into `network`; raises InputError where the file is not the one that was planned with."""
        models.load_weights(network, Path(self.path).expanduser())
        if _content(self.path) != self.content:
            raise InputError("weights", f"{self.path}, which has changed", "the file that the study was planned with")


def _content(path: str) -> str:
    return hashlib.sha256(Path(path).expanduser().read_bytes()).hexdigest()[:16]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Train(Cell):
    """One level of a network: trained by `fit` from a fresh initialisation, or from `parent` with `pruner` (a configuration); or `given`.

    It stores weights, masks and what the pruner goes on from, per-sample predictions on the test samples, and whether the level has
    collapsed. `sources`: the digests of the user's own files that the configurations name. `of`: what the network is called.
    """

    kind: ClassVar[str] = "train"

    data: Data
    model: Architecture
    seed: int
    level: int
    fit: FitConfig | None
    pruner: dict[str, Any] | None
    parent: Train | None
    given: Given | None = None
    sources: dict[str, str] = field(default_factory=dict)
    of: str = field(metadata=BESIDE)

    @property
    def label(self) -> str:
        return f"{'train' if self.given is None else 'read'} {self.of}"

    def cost(self, pace: float) -> float:
        if self.fit is None:
            return 0.5
        return 0.05 + self.fit.epochs * self.data.counts[0] * (1.1 * self.fit.passes * pace + 4e-4 / self.fit.batch_size)

    def _named(self) -> list[Any]:
        """The configurations that may name files of the user's."""
        return [self.pruner, *(() if self.fit is None else (self.fit.objective, self.fit.penalty))]

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """The network before any training, in channels_last where it sees images and can."""
        network = self.model.build(shape, classes, derive(self.seed, "init")).to(self.device)
        channels_last(network, torch.rand((2, *shape), generator=generator(0, "layout")).to(self.device))
        return network

    def restore(self, store: Store) -> nn.Module:
        """The network as it was stored, in eval mode; its samples need not be there any more."""
        samples = store.read(self.data.key).metrics
        network = self.build(tuple(samples["shape"]), samples["classes"])
        network.load_state_dict(store.read(self.key).tensors("weights"))
        return network.eval()

    def _initial(self, network: nn.Module) -> dict[str, torch.Tensor] | None:
        """The weights that the dense reference's training started from: those of a `network` just built; None where it was given."""
        root = self
        while root.parent is not None:
            root = root.parent
        if root.given is not None or self.parent is None or any(is_lazy(p) for p in network.parameters()):
            return None
        return {name: value.clone() for name, value in network.state_dict().items()}

    def compute(self, store: Store) -> Result:
        split = self.data.load()
        network = self.build(split.train.shape, split.train.classes)
        masks, losses, initial = Masks.dense(network), tuple[float, ...](), self._initial(network)
        state: Mapping[str, torch.Tensor] = {}
        if self.parent is not None:
            before = store.read(self.parent.key)
            network.load_state_dict(before.tensors("weights"))
            masks = Masks(before.tensors("masks"))
            state = before.tensors("state") if before.has("state") else {}
        if self.given is not None:
            self.given.load(network)
            masks = Masks.of_zeros(network)
        elif self.fit is not None:
            if sources_of(self._named()) != self.sources:
                raise InputError("pruning", self._named(), "the files that the study was planned with: one of them has changed")
            x, y = split.train.x.to(self.device), split.train.y.to(self.device)
            pruner = None if self.pruner is None else PRUNERS.make(self.pruner)
            log = fit(
                network,
                x,
                y,
                self.fit,
                seed=self.seed,
                purpose=("level", self.level),
                pruner=pruner,
                masks=masks,
                state=state,
                initial=initial,
                box=split.train.box,
            )
            losses, masks, state = log.losses, log.masks, log.state
        records, metrics = evaluate(network, split.test.to(self.device))
        metrics |= {
            "sparsity": masks.sparsity,
            "kept": masks.kept,
            "total": masks.total,
            "counted": counted_share(network, masks),
            "layers": {name: int(mask.sum()) for name, mask in masks.items()},
            "masks": masks.digest(),
            "loss": losses[-1] if losses else None,
            "epochs": len(losses),
        }
        if "revisions" in state:
            metrics |= {"died": int(state["revisions"][:, 1].sum()), "came_back": int(state["revisions"][:, 2].sum())}
        tensors = {"weights": {k: v.contiguous() for k, v in network.state_dict().items()}, "masks": dict(masks), "state": dict(state)}
        return Result(metrics=metrics, records=records, tensors=tensors)

    def rows(self, entry: Entry) -> Iterator[Row]:
        clean, none = entry.records, math.nan
        label, prediction = clean["label"], clean["prediction"]
        yield Row("accuracy", "", "", "", none, float((label == prediction).mean()), len(clean))
        for k, value in enumerate(class_accuracy(label, prediction, int(label.max()) + 1)):
            yield Row(f"accuracy_class_{k}", "", "", "", none, float(value), int((label == k).sum()))
        yield Row("collapsed", "", "", "", none, float(entry.metrics["collapsed"]), len(clean))
        yield Row("weights_counted", "", "", "", none, entry.metrics["counted"], entry.metrics["total"])
        for metric, value in entry.metrics["activations"].items():
            yield Row(metric, "", "", "", none, value, len(clean))
        if "came_back" in entry.metrics:
            yield Row("came_back", "", "", "", none, float(entry.metrics["came_back"]), entry.metrics["total"])


_recent: dict[tuple[str, str], nn.Module] = {}


def trained(cell: Train, store: Store) -> nn.Module:
    """As `cell.restore`; the last two stay in memory, for the attacks on the same level."""
    place = (str(store.root), cell.key)
    if place not in _recent:
        while len(_recent) > 1:
            del _recent[next(iter(_recent))]
        _recent[place] = cell.restore(store)
    return _recent[place]


def evaluate(network: nn.Module, test: Samples) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Per-sample predictions on the clean test samples, and whether the level has collapsed."""
    z, again, reach = clean_passes(network, test.x, test.y, test.box)
    seen = CleanRecord.of_logits(z, test.y, again, sigmoids=ends_in_sigmoid(network, test.x))
    prediction = z.argmax(1)
    frame = pd.DataFrame(
        {
            "sample": np.arange(test.n),
            "label": to_numpy(test.y),
            "prediction": to_numpy(prediction),
            "margin": to_numpy(margin(z, test.y).double()),
            "reach": reach,
        }
    )
    live = live_outputs(network, test.x)
    relus = activation_sparsity(network, test.x)
    constant = bool((prediction == prediction[0]).all())
    return frame, {
        "accuracy": float((prediction == test.y).double().mean()),
        "dead_outputs": int((~live).sum()),
        "constant": constant,
        "collapsed": constant or not bool(live.all()),
        "activations": {} if relus is None else _shares(relus),
        "rounding": seen.rounding,
        "probabilities": seen.probabilities,
        "repeat_difference": seen.repeat_difference if math.isfinite(seen.repeat_difference or 0.0) else None,
    }


def _shares(relus: ActivationSparsity) -> dict[str, float]:
    """The shares of zeros by the metric's name: of all ReLUs together, of the one that feeds the last layer, of each in its turn."""
    each = {f"activation_sparsity_relu_{k}": share for k, share in enumerate(relus.shares, 1)}
    return {"activation_sparsity": relus.total, "activation_sparsity_last": relus.last} | each
