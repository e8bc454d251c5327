"""What every attack shares: the problem it sees, the outcome it is judged by, and the one final driver in between.

An attack proposes candidates (`search`); it never reports success. The driver puts the model in eval mode with frozen
parameters, cuts the samples into batches by a documented rule, clips the candidates to the domain, evaluates them with an
independent forward pass, measures them, counts queries, and restores the model. What belongs in an attack's own file: its
algorithm and its parameters. What does not: clipping to be on the safe side, success flags, batching, model state.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal, Self, final

import torch
from torch import Tensor, nn

from isogrid.attacks.driver.backward import Backward
from isogrid.attacks.driver.parameters import check_parameters, choice
from isogrid.attacks.driver.problem import Counts, Domain, Loss, Model, Problem, log_odds, margin
from isogrid.attacks.driver.subject import Subject, as_classifier, batch_rows, check_samples, frozen, prepared
from isogrid.core.errors import InputError
from isogrid.core.norms import Norm, rows as per_row
from isogrid.core.numbers import whole
from isogrid.core.random import Streams

INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
NUDGES = (1e-5, 1e-4, 1e-3)
"""A minimum-norm candidate that the verifying pass finds on the wrong side by rounding is lengthened by these shares in turn."""

Role = Literal["gradient-free", "mixed", "weak", "strong"]
"""What an attack's outcomes say about masked gradients. gradient-free: nothing, it uses no gradient of this model. weak, strong: its
successes are gradients' work; its failure says little where it is weak, and that gradients lead nowhere where it is strong. mixed: nobody
can tell which of its parts succeeded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackOutcome:
    """What the driver verified, per sample (B rows; CPU or the model's device).

    x_adv [B, *S]: the candidate, inside the domain, as evaluated. label [B]: the true class. clean / adversarial [B]: predictions
    before and after. margin [B]: z_y - max other at x_adv. success [B]: classified correctly before, wrongly after, within the
    domain and the budget. distance [B]: 0 where the clean prediction is wrong already, ||x_adv - x|| where the attack succeeded,
    inf where it failed. zero_gradient [B]: the first loss gradient was exactly zero. broken_gradient [B]: a gradient was NaN or
    infinite somewhere, which counted as 0 there. forwards / backwards [B]: queries.
    opened: of a leaky backward pass, whether it found a dead unit's gate to open (False: the model has none that it can see, and the search
    was an exact one); None where the backward pass was exact.
    """

    attack: str
    norm: Norm
    domain: Domain
    eps: float | None
    x_adv: Tensor
    label: Tensor
    clean: Tensor
    adversarial: Tensor
    margin: Tensor
    success: Tensor
    distance: Tensor
    zero_gradient: Tensor
    broken_gradient: Tensor
    forwards: Tensor
    backwards: Tensor
    opened: bool | None = None

    @property
    def correct(self) -> Tensor:
        """bool [B]: the clean prediction is right."""
        return self.clean == self.label

    @property
    def robust(self) -> Tensor:
        """bool [B]: the prediction on x_adv is right; its mean over ALL samples is the paper's r_inf."""
        return self.adversarial == self.label

    @property
    def failed(self) -> Tensor:
        """bool [B]: classified correctly, and the attack found nothing."""
        return self.correct & ~self.success


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack(ABC):
    """What every attack says of itself, and the driver that judges it. New attacks derive from one of `driver.kinds`.

    Calling an attack runs the final driver:

    >>> from isogrid.attacks import FGS
    >>> model = torch.nn.Linear(2, 2)
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]])), model.bias.data.zero_()
    >>> out = FGS(eps=0.2)(model, torch.tensor([[0.6, 0.4]]), torch.tensor([0]))
    >>> out.success.item(), round(out.distance.item(), 4)
    (True, 0.2)
    """

    name: ClassVar[str]
    moves_misclassified: ClassVar[bool] = False  # single-step attacks act on every sample, as the paper's r_inf wants
    state_copies: ClassVar[int] = 8  # tensors of the input's size that `search` keeps alive, for the batch rule

    domain: Literal["box", "free"] = choice("box", ("box", "free"))

    @final
    def __post_init__(self) -> None:
        check_parameters(self)
        self.agree()

    def agree(self) -> None:  # noqa: B027 - most attacks have nothing to say
        """Raise InputError where parameters, each of them accepted, do not go together."""

    @property
    @abstractmethod
    def budget(self) -> float | None:
        """eps for a fixed-budget attack, None for a minimum-norm one."""

    @property
    @abstractmethod
    def threat(self) -> Norm:
        """The norm that the perturbation is measured in."""

    @property
    @abstractmethod
    def role(self) -> Role:
        """What its outcomes say about masked gradients."""

    @property
    @abstractmethod
    def strength(self) -> Mapping[str, int]:
        """Norm -> how strong others' benchmarks found it, for the choice of the measure that verdicts rest on: fixed before any figure is
        seen, comparable within a norm, higher is stronger; a norm that is not named counts as 0."""

    @abstractmethod
    def expected_gradients(self) -> float:
        """About how many gradients a sample costs: for forecasts only."""

    @abstractmethod
    def doubled(self) -> Self | None:
        """The same attack with twice its effort; None where it has none to double, or uses no gradient."""

    @final
    @property
    def gradient_free(self) -> bool:
        """It uses no gradient of the model that it attacks."""
        return self.role == "gradient-free"

    @abstractmethod
    def search(self, problem: Problem) -> Tensor:
        """Candidates x_adv [B, *S] for `problem`; where nothing was found, anything (the clean sample, say)."""

    @final
    def propose(self, problem: Problem) -> Tensor:
        """What `search` finds, inside the domain: how attacks call each other."""
        return problem.domain.clip(self._found(problem))

    def _found(self, problem: Problem) -> Tensor:
        """What `search` finds with this attack's own backward pass, as it is."""
        own = Backward(kind=getattr(self, "backward", "exact"))
        found = self.search(replace(problem, backward=own)).detach()
        problem.backward.opened |= own.opened
        return found

    @final
    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        seed: int = 0,
        ids: Tensor | None = None,
        start: Tensor | None = None,
        budget: Tensor | None = None,
        box: tuple[float, float] = (0.0, 1.0),
        on_batch: Callable[[int], None] | None = None,
    ) -> AttackOutcome:
        """Attack the samples `x` [N, *S] with true classes `y` [N] and return verified outcomes.

        `ids` [N] (default 0..N-1) name the samples for the random streams of `seed`; `start` [N, *S] is handed to the attack;
        `budget` [N] replaces `eps` per row; `box` = (low, high) of the inputs; `on_batch(rows_done)` reports progress.
        The model, its mode, its gradients and the global random state are left as they were.

        Raises InputError for unusable samples and ModelError where the model is no classifier on them.
        """
        # inside inference mode nothing could be differentiated
        with torch.inference_mode(False), prepared(model, x, y, box) as subject:
            return self.on(subject, seed=seed, ids=ids, start=start, budget=budget, on_batch=on_batch)

    @final
    def on(
        self,
        subject: Subject,
        rows: Tensor | None = None,
        *,
        seed: int = 0,
        ids: Tensor | None = None,
        start: Tensor | None = None,
        budget: Tensor | None = None,
        on_batch: Callable[[int], None] | None = None,
    ) -> AttackOutcome:
        """The same call on a subject that several attacks share, or on its `rows` [n] only; `ids`, `start` and `budget` are theirs."""
        if subject.closed:
            raise RuntimeError("the subject was prepared in a `with` block that has ended: its model is no longer frozen")
        everything = rows is None
        given = whole(seed)
        if given is None:
            raise InputError("seed", seed, "an integer")
        if self.budget is not None and self.budget > torch.finfo(subject.x.dtype).max:
            raise InputError("eps", self.budget, f"a number that {subject.x.dtype} can hold")
        _check_per_row(len(subject.y) if rows is None else len(rows), subject, ids, start, budget)
        rows = torch.arange(len(subject.y), device=subject.x.device) if rows is None else rows
        ids = (rows if ids is None else ids).cpu().long()
        size = subject.room(self.state_copies)
        parts = []
        for first in range(0, len(rows), size):
            part = slice(first, first + size)
            extra = tuple(None if one is None else one[part].to(subject.x.dtype) for one in (start, budget))
            streams = Streams(seed=given, ids=ids[part].to(subject.x.device))
            parts.append(self._attack_batch(subject, part if everything else rows[part], streams, *extra))
            if on_batch is not None:
                on_batch(min(first + size, len(rows)))
        return _join(parts)

    def _domain(self, subject: Subject) -> Domain:
        return Domain(name=self.domain, low=subject.box[0], high=subject.box[1])

    def _attack_batch(
        self,
        subject: Subject,
        rows: slice | Tensor,
        streams: Streams,
        start: Tensor | None,
        budget: Tensor | None,
    ) -> AttackOutcome:
        norm, domain, model = self.threat, self._domain(subject), subject.function
        x, y, clean = subject.x[rows], subject.y[rows], subject.clean[rows]
        correct = clean == y
        counts = Counts.zeros(len(y), x.device)
        if budget is None and self.budget is not None:
            budget = torch.full((len(y),), self.budget, dtype=x.dtype, device=x.device)
        everything = torch.arange(len(y), device=x.device)
        problem = Problem(
            model=model,
            x=x,
            y=y,
            domain=domain,
            norm=norm,
            budget=budget,
            start=start,
            streams=streams,
            counts=counts,
            rows=everything,
            room=subject.room(self.state_copies),
            unit=subject.unit,
            scale=None if subject.scale is None else subject.scale[rows],
        )
        attacked = everything if self.moves_misclassified else everything[correct]
        x_adv = x.clone()
        if len(attacked):
            # a copy even where it is every row: a search may write into its own x, never the caller's
            with subject.layout:
                x_adv[attacked] = self._found(problem.take(attacked)).to(x.dtype)
        x_adv, adversarial, gap, distance, counted = _verify(model, problem, x_adv, correct)
        success = correct & (adversarial != y) & counted
        return AttackOutcome(
            attack=self.name,
            norm=norm,
            domain=domain,
            eps=self.budget,
            x_adv=x_adv,
            label=y,
            clean=clean,
            adversarial=adversarial,
            margin=gap,
            success=success,
            distance=torch.where(correct, torch.where(success, distance, torch.full_like(distance, math.inf)), torch.zeros_like(distance)),
            zero_gradient=counts.zero_gradient,
            broken_gradient=counts.broken_gradient,
            forwards=counts.forwards,
            backwards=counts.backwards,
            opened=None if getattr(self, "backward", "exact") == "exact" else problem.backward.opened,
        )


def _verify(model: Model, problem: Problem, x_adv: Tensor, correct: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Clip, evaluate with a forward pass of its own, measure: (x_adv, prediction, margin, distance, usable), B rows each."""
    x, y, norm, domain = problem.x, problem.y, problem.norm, problem.domain
    finite = torch.isfinite(x_adv.flatten(1).abs().amax(1))  # a mask of every element would cost eight times as much
    x_adv = domain.clip(x_adv if bool(finite.all()) else torch.where(per_row(finite, x), x_adv, x))
    with torch.no_grad():
        z = model(x_adv)
        if problem.budget is None:
            for share in NUDGES:
                short = torch.nonzero(correct & (z.argmax(1) == y)).squeeze(1)
                short = short[(x_adv[short] != x[short]).flatten(1).any(1)]
                if len(short) == 0:
                    break
                longer = domain.clip(x[short] + (x_adv[short] - x[short]) * (1 + share))
                z_longer = model(longer)
                better = z_longer.argmax(1) != y[short]
                moved = short[better]
                x_adv[moved], z[moved] = longer[better], z_longer[better]
    distance = norm.size(x_adv - x)
    usable = finite & torch.isfinite(distance) & torch.isfinite(z).all(1) & ((distance > 0) | (z.argmax(1) == y) | ~correct)
    if problem.budget is not None:
        usable &= distance <= domain.allowed(problem.budget)
    unusable = ~usable
    if bool(unusable.any()):  # what breaks the rules must not lower the accuracy either: the row stays where it was
        x_adv[unusable] = domain.clip(x[unusable])
        with torch.no_grad():
            z[unusable] = model(x_adv[unusable])
    return x_adv, z.argmax(1), margin(z, y), distance, usable


def _join(parts: list[AttackOutcome]) -> AttackOutcome:
    def whole(name: str) -> Any:
        values = [getattr(part, name) for part in parts]
        if isinstance(values[0], Tensor):
            return torch.cat(values)
        return any(values) if isinstance(values[0], bool) else values[0]

    return AttackOutcome(**{f.name: whole(f.name) for f in fields(AttackOutcome)})


def _check_per_row(n: int, subject: Subject, ids: Tensor | None, start: Tensor | None, budget: Tensor | None) -> None:
    """Raise InputError unless ids [n] are integers, start [n, *S] is finite, budget [n] finite and >= 0."""
    shape = subject.x.shape[1:]
    for name, value in (("ids", ids), ("start", start), ("budget", budget)):
        if value is not None and (not isinstance(value, Tensor) or value.layout != torch.strided or value.is_meta):
            raise InputError(name, f"a {type(value).__name__}", "a tensor of one row per sample, or None")
        if value is not None and name != "ids" and value.device != subject.x.device:
            raise InputError(name, f"a tensor on {value.device}", f"a tensor on {subject.x.device}, as x is")
    if ids is not None and (ids.shape != (n,) or ids.dtype not in INTEGERS):
        raise InputError("ids", f"{ids.dtype} of shape {tuple(ids.shape)}", f"one integer per sample, shape ({n},)")
    if start is not None and (start.shape != (n, *shape) or not start.is_floating_point() or not bool(torch.isfinite(start).all())):
        raise InputError("start", f"{start.dtype} of shape {tuple(start.shape)}", f"finite points of shape {(n, *shape)}")
    if budget is not None:
        if budget.shape != (n,) or not budget.is_floating_point():
            raise InputError(
                "budget", f"{budget.dtype} of shape {tuple(budget.shape)}", f"one floating-point radius per sample, shape ({n},)"
            )
        if not bool((torch.isfinite(budget) & (budget >= 0)).all()):
            raise InputError("budget", "negative, NaN or infinite radii", "finite radii >= 0")


__all__ = [
    "Attack",
    "AttackOutcome",
    "Counts",
    "Domain",
    "Loss",
    "Model",
    "Problem",
    "Role",
    "as_classifier",
    "batch_rows",
    "check_samples",
    "frozen",
    "log_odds",
    "margin",
]
