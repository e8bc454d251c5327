"""Why a level is as robust as it is: margins and slopes at samples, Lipschitz constants near them and everywhere, norms of its layers.

What belongs here: what one level's weights and samples say. What does not: certificates (certificate.py), linear models (theory.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, final

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from isogrid.attacks.records import to_numpy
from isogrid.certify import read_graph
from isogrid.certify.ball import Ball
from isogrid.certify.bounds import Bounder, margin_rows
from isogrid.certify.fast_lip import margin_gradients, stable_share
from isogrid.certify.graph import Graph, replaced
from isogrid.certify.lipschitz import Everywhere
from isogrid.core.norms import NORMS
from isogrid.core.random import derive
from isogrid.data import Samples
from isogrid.sparsity import prunable
from isogrid.sparsity.layers import effective_weights
from isogrid.study.cells.base import Cell, Result, Row
from isogrid.study.cells.train import Train, trained
from isogrid.study.store import Entry, Store
from isogrid.theory import clever, eclipse_fast, expected_frobenius, expected_row_sum, linearise
from isogrid.theory.masks import magnitude_mask, mask_draw

NAME = "lipschitz"
PRODUCTS = {"spectral": "l2", "frobenius": "l2", "absolute": "linf", "row_sum": "linf"}
"""Constants that hold everywhere, by the norm of perturbations that they are for."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Lipschitz(Cell):
    """Margins, slopes and Lipschitz constants of a level on its first `samples` test samples; `reference`: the dense network of its chain.

    `radii`: {norm: radius} of the balls in which Fast-Lip bounds gradients and units are counted as stable. `draws`: Bernoulli masks of the
    level's densities, put on the reference. `clever`: samples that CLEVER estimates.
    """

    kind: ClassVar[str] = NAME

    network: Train
    reference: Train | None
    samples: int
    radii: dict[str, float]
    draws: int
    clever: int
    seed: int

    @property
    def label(self) -> str:
        return f"Lipschitz constants of {self.network.of}"

    def cost(self, pace: float) -> float:
        return 2.0 + 60 * self.samples * pace

    def compute(self, store: Store) -> Result:
        test = self.network.data.load().test
        test = replace(test, x=test.x[: self.samples], y=test.y[: self.samples])
        network = trained(self.network, store)
        graph = read_graph(network, test.x)
        everywhere = Everywhere(graph=graph)
        rows = [*_layers(everywhere), *_products(everywhere)]
        frame = pd.DataFrame({"sample": np.arange(test.n)})
        right = graph(test.x.double()).argmax(1) == test.y
        for norm, radius in sorted(self.radii.items()):
            for name, values in _near(network, everywhere, test, norm, radius).items():
                frame[f"{name}_{norm}"] = to_numpy(values)
            rows += [
                _row(f"median_{name}", frame.loc[to_numpy(right), f"{name}_{norm}"].median(), norm, radius) for name in ("local", "stable")
            ]
            rows += [_row(f"median_{name}", frame.loc[to_numpy(right), f"{name}_{norm}"].median(), norm) for name in ("gap", "slope")]
            if self.clever:
                x, y = test.x[: self.clever], test.y[: self.clever]
                estimate = clever(network, x, y, norm=norm, radius=10 * radius, seed=derive(self.seed, "clever"))
                frame[f"clever_{norm}"] = np.pad(to_numpy(estimate.radius), (0, test.n - len(y)), constant_values=np.nan)
                rows.append(_row("median_clever_estimate", frame.loc[to_numpy(right), f"clever_{norm}"].median(), norm))
        frame["correct"] = to_numpy(right)
        if self.reference is not None:
            rows += self._masked(store, graph, test)
        finite = [row | {name: None for name in ("eps", "value") if not math.isfinite(row[name])} for row in rows]
        return Result(metrics={"rows": finite, "n": test.n}, records=frame)

    def _masked(self, store: Store, graph: Graph, test: Samples) -> Iterator[dict[str, Any]]:
        """What masks of this level's densities make of the dense reference: random ones, those by magnitude, and the level itself.

        As in the theorem, random masks leave the output layer dense.
        """
        assert self.reference is not None
        dense = trained(self.reference, store)
        masks, weights = store.read(self.network.key).tensors("masks"), effective_weights(dense)
        pruned = {name: (weights[name], int(masks[name].sum())) for name in prunable(dense) if name in masks}
        reference = read_graph(dense, test.x)
        hidden = {name: (w, kept / w.numel()) for name, (w, kept) in list(pruned.items())[:-1]}
        seed = derive(self.seed, "bernoulli")
        drawn = [
            _figures(
                replaced(reference, [(w, w * mask_draw(w, share, seed, draw, name).to(w)) for name, (w, share) in hidden.items()]), test
            )
            for draw in range(self.draws)
        ]
        found = {name: float(np.mean([one[name] for one in drawn])) for name in drawn[0]}
        by_size = replaced(reference, [(w, w * magnitude_mask(w, kept).to(w)) for w, kept in pruned.values()])
        for variant, figures in (("bernoulli", found), ("magnitude", _figures(by_size, test)), ("retrained", _figures(graph, test))):
            for name, value in figures.items():
                yield _row(f"mask_{name}_{variant}", value, "linf" if name == "row_sum" else "l2")
        whole = _figures(reference, test)
        shares = [expected_frobenius(1.0, share) for _, share in hidden.values()]
        sums = [
            expected_row_sum(w, share, draws=16, seed=seed).mean / float(w.flatten(1).abs().sum(1).max()) for w, share in hidden.values()
        ]
        yield _row("mask_frobenius_expected", whole["frobenius"] * math.prod(shares), "l2")
        yield _row("mask_row_sum_expected", whole["row_sum"] * math.prod(sums), "linf")

    def rows(self, entry: Entry) -> Iterator[Row]:
        for row in entry.metrics["rows"]:
            eps, value = (math.nan if row[name] is None else row[name] for name in ("eps", "value"))
            yield Row(row["metric"], NAME, row["norm"], "free" if row["norm"] else "", eps, value, entry.metrics["n"])


def _row(metric: str, value: float, norm: str = "", eps: float = math.nan) -> dict[str, Any]:
    return {"metric": metric, "norm": norm, "eps": eps, "value": float(value)}


def _layers(everywhere: Everywhere) -> Iterator[dict[str, Any]]:
    """The norms of every layer, in the order of the network."""
    for place, layer in enumerate(everywhere.layers, 1):
        for name in ("spectral", "frobenius", "row_sum", "condition"):
            yield _row(f"{name}_{place}", getattr(layer.norms, name))


def _products(everywhere: Everywhere) -> Iterator[dict[str, Any]]:
    """The constants of g_y - g_k that hold everywhere: the largest over pairs of classes."""
    pairs = _pairs(everywhere.graph)
    for kind, norm in PRODUCTS.items():
        yield _row(f"constant_{kind}", float(everywhere.constants(pairs, kind).max()), norm)
    chain = everywhere.chain()
    if chain is not None:
        yield _row("constant_eclipse", float(eclipse_fast(chain[:-1], pairs @ chain[-1]).max()), "l2")


def _pairs(graph: Graph) -> Tensor:
    """Coefficients on the logits of the differences of two classes, each pair once."""
    if graph.single:
        return torch.ones(1, 1, dtype=torch.float64)
    units = torch.eye(graph.classes, dtype=torch.float64)
    first, second = torch.triu_indices(graph.classes, graph.classes, 1)
    return units[first] - units[second]


def _near(network: nn.Module, everywhere: Everywhere, test: Samples, norm: str, radius: float) -> dict[str, Tensor]:
    """Per sample: gap and slope of the closest class, the largest local constant and the share of stable units in the ball.

    A local constant is bounded by Fast-Lip and by what holds everywhere: the smaller one.
    """
    graph = everywhere.graph
    rows = margin_rows(graph, test.y)
    anywhere = everywhere.constants(rows.flatten(0, 1), "spectral" if norm == "l2" else "absolute").view(rows.shape[:2])
    first = linearise(network, test.x, test.y, norm)
    around = Ball(x=test.x.double(), radius=torch.full((test.n,), radius, dtype=torch.float64), norm=NORMS[norm])
    local, stable = [], []
    bounder = Bounder(graph=graph, norm=NORMS[norm])
    for start in range(0, test.n, 64):
        part = slice(start, start + 64)
        sweep = bounder.sweep(around.take(part), "lines")
        local.append(torch.minimum(margin_gradients(sweep, test.y[part]).sizes(NORMS[norm]), anywhere[part]).amax(1))
        stable.append(stable_share(sweep))
    return {"gap": first.gap, "slope": first.slope, "local": torch.cat(local), "stable": torch.cat(stable)}


def _figures(graph: Graph, test: Samples) -> dict[str, float]:
    """Of one network: its constants, its accuracy, the median margin of what is right, and the median radius that the norms certify."""
    everywhere, pairs = Everywhere(graph=graph), _pairs(graph)
    constants = {kind: everywhere.constants(pairs, kind) for kind in ("frobenius", "spectral", "row_sum")}
    z, own = graph(test.x.double()), test.y[:, None]
    gap = (z.gather(1, own) - z).scatter(1, own, math.inf)
    right = gap.amin(1) > 0
    table = torch.ones(graph.classes, graph.classes, dtype=torch.float64)
    first, second = torch.triu_indices(graph.classes, graph.classes, 1)
    table[first, second] = table[second, first] = constants["spectral"].clamp_min(1e-300)
    radius = (gap / table[test.y]).amin(1)[right]
    return {kind: float(value.max()) for kind, value in constants.items()} | {
        "accuracy": float(right.double().mean()),
        "margin": float(gap.amin(1)[right].median()) if len(radius) else 0.0,
        "radius": float(radius.median()) if len(radius) else 0.0,
    }
