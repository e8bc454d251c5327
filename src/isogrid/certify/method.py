"""The one driver that every certifying method runs under. Not here: what a certificate is, how bounds are computed.

A method proposes radii and points (`search`); the driver reads the model into a graph, checks that the two agree, gives radius 0 to samples
that the model gets wrong, cuts the samples into batches, turns a ball that holds the whole box into an infinite radius, and lets the model
itself judge every point that is said to be a counterexample.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Final, Literal, final

import torch
from torch import Tensor, nn

from isogrid.attacks import Domain
from isogrid.attacks.driver.problem import margin
from isogrid.attacks.driver.subject import as_classifier, check_samples, frozen
from isogrid.certify.ball import Ball
from isogrid.certify.bounds import Bounder
from isogrid.certify.certificate import Certificate, Verdicts
from isogrid.certify.folding import folded
from isogrid.certify.graph import Graph
from isogrid.certify.reading import read_graph
from isogrid.core.errors import InputError
from isogrid.core.modules import check_module
from isogrid.core.norms import NORMS, Norm, norm as norm_of
from isogrid.core.numbers import limits
from isogrid.core.parameters import check_parameters, choice, require_number

BATCH_BYTES: Final = 64 * 2**20
"""The batch rule: as many samples as keep one set of a batch's bounds, low and high of every node in float64, within this."""
MOST_ROWS: Final = 128
FARTHEST: Final = 1e4
"""In a free domain no radius above this many box widths is looked for; a sample that reaches it is certified to it."""
INSIDE: Final = 1 - 1e-6
"""Candidates of others are drawn in by this share: rounding may have put them outside what is asked, and outside they prove nothing."""
SHRINK: Final = 1 - 1e-9
"""What radii are shortened by, for the rounding of their last step."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Problem:
    """What a method sees of a batch: the graph with what is computed once for it, correct samples x [B, *S] (float64), y [B], the domain.

    `limit` [B]: no radius above it is asked for: the smallest of the radius that holds the whole box, the farthest that is looked for, the
    eps in question, and `known` [B], a distance at which the sample is known to be broken, inf where none is. `decide`: only whether
    `limit` itself can be certified is asked.
    """

    bounder: Bounder
    x: Tensor
    y: Tensor
    norm: Norm
    domain: Domain
    limit: Tensor
    known: Tensor
    decide: bool

    @property
    def graph(self) -> Graph:
        """The network."""
        return self.bounder.graph

    def take(self, rows: Tensor) -> Problem:
        """Those samples alone."""
        return replace(self, x=self.x[rows], y=self.y[rows], limit=self.limit[rows], known=self.known[rows])

    def cast(self, dtype: torch.dtype) -> Problem:
        """The same computed in `dtype`, for guesses."""
        return replace(self, bounder=self.bounder.cast(dtype), x=self.x.to(dtype), limit=self.limit.to(dtype), known=self.known.to(dtype))

    def ball(self, radius: Tensor, rows: Tensor | slice = slice(None)) -> Ball:
        """The inputs within `radius` [b] of the samples `rows`."""
        return _ball(self.x[rows], radius, self.norm, self.domain)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Found:
    """Certified radii [B], and for methods that look for them inputs that may be counterexamples [B, *S], NaN where there is none."""

    radius: Tensor
    point: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Certifier(ABC):
    """A method of certifying: frozen parameters, and `search`. Calling it gives radii, `verify` verdicts at an eps.

    >>> from isogrid.certify import CROWN
    >>> model = nn.Linear(2, 2)
    >>> _ = model.weight.data.copy_(torch.eye(2)), model.bias.data.zero_()
    >>> x, y = torch.tensor([[0.75, 0.25]]), torch.tensor([0])
    >>> round(CROWN(norm="l2")(model, x, y).radius.item(), 4)  # 0.5 / sqrt(2)
    0.3536
    >>> CROWN(norm="l2").verify(model, x, y, eps=0.3).certified.item()
    True
    """

    name: ClassVar[str]

    norm: Literal["l2", "linf"] = choice("linf", NORMS)
    domain: Literal["box", "free"] = choice("box", ("box", "free"))

    def __post_init__(self) -> None:
        check_parameters(self)

    @abstractmethod
    def search(self, problem: Problem) -> Found:
        """Radii [B] within which the graph, with any rounding of its deployed arithmetic, keeps the class y."""

    @final
    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        upper: Tensor | None = None,
        box: tuple[float, float] = (0.0, 1.0),
        on_batch: Callable[[int], None] | None = None,
    ) -> Certificate:
        """Certify the samples x [N, *S] with classes y [N].

        `upper` [N]: verified distances of an attack in this norm and domain (inf where it failed), which save work; `on_batch(rows done)`
        reports progress. The model and its mode are left as they were; bounds are computed on the CPU in float64, wherever the model is.
        Raises InputError for unusable samples, ModelError where the model cannot be read (`read_graph`).
        """
        run = _Run(self, model, x, y, box, on_batch)
        known = torch.full((len(y),), math.inf, dtype=torch.float64)
        if upper is not None:
            known = _like("upper", upper, y.shape).double().cpu()
            if not bool((known >= 0).all()):
                raise InputError(
                    "upper", f"distances down to {float(known.min()):g}", "one distance >= 0 per sample, inf where there is none"
                )
        radius, distance, _ = run(known, decide=False)
        return Certificate(method=self.name, norm=run.norm, domain=run.domain, radius=radius, upper=torch.minimum(known, distance))

    @final
    def verify(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        eps: float,
        *,
        x_adv: Tensor | None = None,
        box: tuple[float, float] = (0.0, 1.0),
        on_batch: Callable[[int], None] | None = None,
    ) -> Verdicts:
        """Decide for the samples x [N, *S] whether perturbations up to `eps` change their classes y [N], as far as the method can.

        `x_adv` [N, *S]: candidates of an attack, judged anew; samples that they break are not searched. Raises as calling does.
        """
        eps = require_number("eps", eps, 0) or 0.0
        run = _Run(self, model, x, y, box, on_batch)
        reach = torch.full((len(y),), eps, dtype=torch.float64)
        radius, distance, points = run(reach, decide=True, given=None if x_adv is None else _like("x_adv", x_adv, x.shape))
        broken = distance <= eps
        points[~broken.to(points.device)] = x.detach()[~broken.to(x.device)]
        certified = (radius >= eps) & ~broken
        if eps == 0:  # a radius of 0 is also that of a sample that the model gets wrong or ties
            certified &= run.margins().cpu() > 0
        return Verdicts(method=self.name, norm=run.norm, domain=run.domain, eps=eps, certified=certified, broken=broken, x_adv=points)


class _Run:
    """One call of a method on one model and its samples."""

    def __init__(
        self,
        method: Certifier,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        box: tuple[float, float],
        on_batch: Callable[[int], None] | None,
    ) -> None:
        check_module(model)
        check_samples(x, y, box)
        if max(map(abs, limits(box))) > torch.finfo(x.dtype).max:
            raise InputError("box", box, f"numbers that {x.dtype} holds")
        self.method, self.model, self.x, self.y, self.on_batch = method, model, x.detach(), y.long(), on_batch
        self.norm, self.domain = norm_of(method.norm), Domain(name=method.domain, low=box[0], high=box[1])
        self.safe: bool | None = None  # whether nothing in the whole box can overflow; None: not known
        with frozen(model), torch.no_grad():
            self.logits = as_classifier(model, self.x, y)

    def __call__(self, limit: Tensor, *, decide: bool, given: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """(radii [N], distances of confirmed counterexamples [N], these points [N, *S]) for radii up to `limit` [N]."""
        with frozen(self.model), torch.no_grad():
            whole = read_graph(self.model, self.x)
            graph = folded(whole)
            if int(self.y.min()) < 0 or int(self.y.max()) >= graph.classes:
                raise InputError("y", f"labels from {int(self.y.min())} to {int(self.y.max())}", f"0 to {graph.classes - 1}")
            bounder = Bounder(graph=graph, norm=self.norm)
            self.whole = bounder if graph is whole else Bounder(graph=whole, norm=self.norm)
            step, parts = batch_rows(graph), []
            for first in range(0, len(self.y), step):
                part = slice(first, first + step)
                parts.append(self._batch(bounder, part, limit[part], decide, None if given is None else given[part]))
                if self.on_batch is not None:
                    self.on_batch(min(first + step, len(self.y)))
        radius, distance, points = (torch.cat(found) for found in zip(*parts, strict=True))
        return radius, distance, points

    def _batch(self, bounder: Bounder, part: slice, limit: Tensor, decide: bool, given: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        x, labels = self.x[part].double().cpu(), self.y[part].cpu()
        found = torch.zeros(len(labels), dtype=torch.float64)
        candidates = self.x[part] if given is None else self.x[part] + self.norm.project(given - self.x[part], limit.to(given) * INSIDE)
        distance, points = self.confirmed(part, candidates)
        right = bounder.graph(x).argmax(1) == labels  # a tie or a wrong one proves nothing at any radius
        rows = torch.nonzero(right & ~(distance <= limit if decide else distance == 0)).squeeze(1)
        if len(rows) == 0:
            return found, distance, points
        x = x[rows]
        most = _ball(x, found[rows], self.norm, self.domain).reach()
        if self.domain.name == "free":
            most = torch.full_like(most, FARTHEST * (self.domain.high - self.domain.low))
            most *= math.sqrt(x[0].numel()) if self.norm.name == "l2" else 1.0
        asked = torch.minimum(most, limit[rows] / SHRINK**2 if decide else limit[rows])
        proposed = self.method.search(
            Problem(
                bounder=bounder,
                x=x,
                y=labels[rows],
                norm=self.norm,
                domain=self.domain,
                limit=asked,
                known=torch.full_like(asked, math.inf) if decide else limit[rows],
                decide=decide,
            )
        )
        radius = (proposed.radius * SHRINK).clamp_min(0)
        radius = torch.where(self._in_range(self.whole, x, torch.minimum(radius / SHRINK**2, most)), radius, 0.0)
        whole = (radius >= most * SHRINK) & (self.domain.name == "box")
        found[rows] = torch.where(whole, math.inf, torch.minimum(radius, most))
        if proposed.point is not None:
            whole_batch = x.new_full((len(labels), *x.shape[1:]), math.nan)
            whole_batch[rows] = proposed.point
            closer, others = self.confirmed(part, whole_batch)
            points[closer < distance] = others[closer < distance]
            distance = torch.minimum(distance, closer)
        return found, distance, points

    def _in_range(self, bounder: Bounder, x: Tensor, radius: Tensor) -> Tensor:
        """Whether the deployed network, of which `bounder` has every unit, cannot overflow within `radius` [b] of x: [b].

        Units that nothing reads count: an infinite value times a weight of 0 is no number.
        """
        if self.safe is None and self.domain.name == "box":
            centre = torch.full_like(x[:1], (self.domain.low + self.domain.high) / 2)
            reach = _ball(centre, radius.new_zeros(1), self.norm, self.domain).reach()
            self.safe = bool(bounder.sweep(_ball(centre, reach, self.norm, self.domain), "intervals").in_range())
        found = torch.full((len(x),), bool(self.safe))
        for refine in ("intervals", "lines"):
            rows = torch.nonzero(~found).squeeze(1)
            if len(rows):
                found[rows] = bounder.sweep(_ball(x[rows], radius[rows], self.norm, self.domain), refine).in_range()
        return found

    def margins(self) -> Tensor:
        """z_y - max other [N] of the samples, in the model's type."""
        with frozen(self.model), torch.no_grad():
            return margin(self.logits(self.x), self.y)

    def confirmed(self, part: slice, points: Tensor) -> tuple[Tensor, Tensor]:
        """(distance [B], inf where the model keeps the class; the point or the sample) of points [B, *S], in the model's type."""
        x, y = self.x[part], self.y[part]
        kept = torch.where(points.to(x).isnan(), x, self.domain.clip(points.to(x)))
        broken = margin(self.logits(kept), y) < 0
        distance = self.norm.size(kept.double() - x.double()).cpu()
        kept = torch.where(broken.reshape(-1, *[1] * (x.dim() - 1)), kept, x)
        return torch.where(broken.cpu(), distance, math.inf), kept


def _like(field: str, value: object, shape: torch.Size) -> Tensor:
    """`value` if it is a tensor of floats of this shape; InputError that names `field`."""
    if not isinstance(value, Tensor) or value.shape != shape or not value.dtype.is_floating_point:
        got = f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise InputError(field, got, f"a tensor of floats of shape {tuple(shape)}")
    return value.detach()


def _ball(x: Tensor, radius: Tensor, norm: Norm, domain: Domain) -> Ball:
    low, high = (domain.low, domain.high) if domain.name == "box" else (-math.inf, math.inf)
    return Ball(x=x, radius=radius, norm=norm, low=low, high=high)


def batch_rows(graph: Graph) -> int:
    """Samples per batch by the rule of BATCH_BYTES."""
    elements = sum(torch.Size(node.shape).numel() for node in graph.nodes)
    return max(1, min(MOST_ROWS, BATCH_BYTES // (16 * elements)))
