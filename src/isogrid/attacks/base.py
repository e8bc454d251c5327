"""What every attack shares: the problem it sees, the outcome it is judged by, and the one final driver in between.

An attack proposes candidates (`search`); it never reports success. The driver puts the model in eval mode with frozen
parameters, cuts the samples into batches by a documented rule, clips the candidates to the domain, evaluates them with an
independent forward pass, measures them, counts queries, and restores the model. What belongs in an attack's own file: its
algorithm and its parameters. What does not: clipping to be on the safe side, success flags, batching, model state.
"""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor, nn

from isogrid.attacks.checkpoint import BatchStore
from isogrid.core.errors import InputError, ModelError, one_of
from isogrid.core.norms import Norm, rows as per_row
from isogrid.core.random import Streams

Model = Callable[[Tensor], Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]

BATCH_BYTES = 192 * 2**20
"""The batch rule: a batch holds as many rows as keep `state_copies` tensors of the input's size and three copies of all
activations of one forward pass, in the model's precision, within BATCH_BYTES, but at most MAX_ROWS and at least 1. It depends on
the model and the shape of the input only, never on free memory or on the number of samples."""
MAX_ROWS = 1024
BUDGET_SLACK = 1e-5
"""A candidate may exceed its budget by this share (and 1e-6) through rounding."""
NUDGES = (1e-5, 1e-4, 1e-3)
"""A minimum-norm candidate that the verifying pass finds on the wrong side by rounding is lengthened by these shares in turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """Where perturbed inputs may lie: `box` (low <= x <= high, per element) or `free` (anywhere)."""

    name: Literal["box", "free"] = "box"
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if self.name not in ("box", "free"):
            raise one_of("domain", self.name, ("box", "free"))
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise InputError("domain", (self.low, self.high), "finite limits with low < high")

    def clip(self, x: Tensor) -> Tensor:
        """The closest point of the domain; the identity where it is free."""
        return x.clamp(self.low, self.high) if self.name == "box" else x


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """z_y - max_{k != y} z_k per row [B]; negative exactly where the row is misclassified beyond a tie."""
    own = logits.gather(1, y[:, None])
    others = logits.scatter(1, y[:, None], -math.inf)
    return (own.squeeze(1)) - others.amax(1)


def log_odds(logits: Tensor, y: Tensor) -> Tensor:
    r"""log((1 - p_y) / p_y) = logsumexp_{k != y} z_k - z_y per row [B]: the cross-entropy without its saturation.

    CE = softplus(log-odds) is a strictly increasing function of it, so signs, directions and comparisons within a sample are
    those of the cross-entropy, and its gradient never underflows, whatever the logit gap. Pitfall that it avoids: in float32 the
    gradient of the cross-entropy is 0 or garbage once the gap exceeds about 16.6, since 1 - p_y rounds to 0.
    """
    others = logits.scatter(1, y[:, None], -math.inf)
    return torch.logsumexp(others, 1) - logits.gather(1, y[:, None]).squeeze(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Queries of each row so far [B], and whether its first loss gradient was exactly zero."""

    forwards: Tensor
    backwards: Tensor
    zero_gradient: Tensor

    @classmethod
    def zeros(cls, n: int, device: torch.device) -> Counts:
        """Counters at zero for n rows."""

        def new(dtype: torch.dtype) -> Tensor:
            return torch.zeros(n, dtype=dtype, device=device)

        return cls(forwards=new(torch.int64), backwards=new(torch.int64), zero_gradient=new(torch.bool))


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What an attack sees of one batch. Evaluate the model only through its methods: they count queries per row.

    `x` [B, *S] and `y` [B]: the clean samples, correctly classified unless the attack says `moves_misclassified`.
    `budget` [B]: the radius allowed per row, or None for a minimum-norm attack. `start` [B, *S]: a starting point or None.
    `rows`: this problem's rows in the batch that `counts` covers. All tensors live on one device.
    """

    model: Model
    x: Tensor
    y: Tensor
    domain: Domain
    norm: Norm
    budget: Tensor | None
    start: Tensor | None
    streams: Streams
    counts: Counts
    rows: Tensor

    @property
    def n(self) -> int:
        """The number of rows."""
        return len(self.y)

    def take(self, rows: Tensor) -> Problem:
        """The problem restricted to some rows (int index or bool mask [B]); queries are counted on the same counters."""
        return Problem(
            model=self.model,
            x=self.x[rows],
            y=self.y[rows],
            domain=self.domain,
            norm=self.norm,
            budget=None if self.budget is None else self.budget[rows],
            start=None if self.start is None else self.start[rows],
            streams=self.streams.take(rows),
            counts=self.counts,
            rows=self.rows[rows],
        )

    def with_budget(self, budget: Tensor | None) -> Problem:
        """The same problem under another radius per row."""
        return Problem(**{f.name: getattr(self, f.name) for f in fields(self)} | {"budget": budget})

    def logits(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """Logits [b, C] at `x` [b, *S], without a graph; `rows` says which rows of this problem they are (default: all)."""
        self._count(rows, forwards=1, backwards=0)
        with torch.no_grad():
            return self.model(x)

    def gradient(self, x: Tensor, loss: Loss, rows: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """(logits [b, C], loss [b], d loss_b / d x_b [b, *S]) at `x`, for a `loss(logits, y) -> [b]`; one forward, one backward."""
        y = self.y if rows is None else self.y[rows]
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            z = self.model(leaf)
            value = loss(z, y)
            (gradient,) = torch.autograd.grad(value.sum(), leaf)
        self._note_zero(gradient, rows)
        self._count(rows, forwards=1, backwards=1)
        return z.detach(), value.detach(), gradient

    def pull_back(self, x: Tensor, slope: Loss, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(logits [b, C], slope(logits, y) [b, C] pulled back through the model [b, *S]): `gradient` of a loss whose slope is known.

        One forward, one backward; the graph of a loss costs as much as a small network.
        """
        y = self.y if rows is None else self.y[rows]
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            z = self.model(leaf)
        logits = z.detach()
        (gradient,) = torch.autograd.grad(z, leaf, slope(logits, y))
        self._note_zero(gradient, rows)
        self._count(rows, forwards=1, backwards=1)
        return logits, gradient

    def class_gradients(self, x: Tensor, classes: Tensor | Loss, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(logits [b, C], G [b, K, *S]) with G[b, j] = d (z_classes[b, j] - z_y) / d x; one forward, K backwards on one graph.

        `classes` [b, K], or a function (logits, y) -> [b, K] that chooses them from this very pass.
        """
        y = self.y if rows is None else self.y[rows]
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            z = self.model(leaf)
        chosen = classes if isinstance(classes, Tensor) else classes(z.detach(), y)
        k = chosen.shape[1]
        gradients = x.new_empty((len(x), k, *x.shape[1:]))
        for j in range(k):
            seed = torch.zeros_like(z).scatter_(1, chosen[:, j, None], 1.0).scatter_(1, y[:, None], -1.0)
            gradients[:, j] = torch.autograd.grad(z, leaf, seed, retain_graph=j < k - 1)[0]
        self._note_zero(gradients, rows)
        self._count(rows, forwards=1, backwards=k)
        return z.detach(), gradients

    def charge(self, *, forwards: int, backwards: int) -> None:
        """Add queries to every row of this problem: for searches that reach the model by other ways than these methods."""
        self._count(None, forwards=forwards, backwards=backwards)

    def _note_zero(self, gradient: Tensor, rows: Tensor | None) -> None:
        """Record, at a row's first backward pass, whether its gradient is exactly zero."""
        where = self._where(rows)
        first = self.counts.backwards[where] == 0
        if bool(first.any()):
            self.counts.zero_gradient[where[first]] = gradient[first].flatten(1).abs().amax(1) == 0

    def _where(self, rows: Tensor | None) -> Tensor:
        return self.rows if rows is None else self.rows[rows]

    def _count(self, rows: Tensor | None, *, forwards: int, backwards: int) -> None:
        where = self._where(rows)
        self.counts.forwards.index_add_(0, where, torch.full_like(where, forwards))  # `+=` would count a repeated row once
        self.counts.backwards.index_add_(0, where, torch.full_like(where, backwards))


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackOutcome:
    """What the driver verified, per sample (B rows; CPU or the model's device).

    x_adv [B, *S]: the candidate, inside the domain, as evaluated. label [B]: the true class. clean / adversarial [B]: predictions
    before and after. margin [B]: z_y - max other at x_adv. success [B]: classified correctly before, wrongly after, within the
    domain and the budget. distance [B]: 0 where the clean prediction is wrong already, ||x_adv - x|| where the attack succeeded,
    inf where it failed. zero_gradient [B]: the first loss gradient was exactly zero. forwards / backwards [B]: queries.
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
    forwards: Tensor
    backwards: Tensor

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
    """A norm-bounded (`eps` set) or minimum-norm (`eps` None) attack. Subclasses add parameters and write `search`.

    Calling an attack runs the final driver:

    >>> from isogrid.attacks import FGS
    >>> model = torch.nn.Linear(2, 2)
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]])), model.bias.data.zero_()
    >>> out = FGS(eps=0.2)(model, torch.tensor([[0.6, 0.4]]), torch.tensor([0]))
    >>> out.success.item(), round(out.distance.item(), 4)
    (True, 0.2)
    """

    name: ClassVar[str]
    norm_name: ClassVar[str | None] = None  # the one norm it works in; None: a field `norm`
    moves_misclassified: ClassVar[bool] = False  # single-step attacks act on every sample, as the paper's r_inf wants
    gradient_free: ClassVar[bool] = False
    state_copies: ClassVar[int] = 8  # tensors of the input's size that `search` keeps alive, for the batch rule

    domain: Literal["box", "free"] = "box"

    @property
    @abstractmethod
    def budget(self) -> float | None:
        """eps for a fixed-budget attack, None for a minimum-norm one."""

    @property
    @abstractmethod
    def threat(self) -> Norm:
        """The norm that the perturbation is measured in."""

    @abstractmethod
    def search(self, problem: Problem) -> Tensor:
        """Candidates x_adv [B, *S] for `problem`; where nothing was found, anything (the clean sample, say)."""

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
        checkpoint: Path | None = None,
    ) -> AttackOutcome:
        """Attack the samples `x` [N, *S] with true classes `y` [N] and return verified outcomes.

        `ids` [N] (default 0..N-1) name the samples for the random streams of `seed`; `start` [N, *S] is handed to the attack;
        `budget` [N] replaces `eps` per row; `box` = (low, high) of the inputs; `on_batch(rows_done)` reports progress.
        `checkpoint`: a folder for finished batches; a later call with the same attack, seed, weights and samples takes them from there,
        bit for bit. The model, its mode, its gradients and the global random state are left as they were.

        Raises InputError for unusable samples and ModelError where the model is no classifier on them.
        """
        domain = Domain(name=self.domain, low=box[0], high=box[1])
        check_samples(x, y, box)
        ids = torch.arange(len(y)) if ids is None else ids.cpu()
        size = batch_rows(model, x, self.state_copies)
        store = None if checkpoint is None else BatchStore.of(checkpoint, model, self.name, self, seed, box, size, x.device.type)
        parts = []
        with frozen(model):
            function = as_classifier(model, x, y)
            for first in range(0, len(y), size):
                part = slice(first, first + size)
                extra = None if start is None else start[part], None if budget is None else budget[part]
                streams = Streams(seed=seed, ids=ids[part].to(x.device))
                parts.append(self._stored_or_new(store, function, x[part], y[part], domain, streams, *extra))
                if on_batch is not None:
                    on_batch(min(first + size, len(y)))
        return _join(parts)

    def _stored_or_new(
        self,
        store: BatchStore | None,
        model: Model,
        x: Tensor,
        y: Tensor,
        domain: Domain,
        streams: Streams,
        start: Tensor | None,
        budget: Tensor | None,
    ) -> AttackOutcome:
        given = {"x": x, "y": y, "ids": streams.ids, "start": start, "budget": budget}
        stored = None if store is None else store.load(given, x.device)
        if stored is not None:
            return AttackOutcome(attack=self.name, norm=self.threat, domain=domain, eps=self.budget, **stored)
        outcome = self._attack_batch(model, x, y, domain, streams, start, budget)
        if store is not None:
            values = {f.name: getattr(outcome, f.name) for f in fields(outcome)}
            store.save(given, {name: value for name, value in values.items() if isinstance(value, Tensor)})
        return outcome

    def _attack_batch(
        self, model: Model, x: Tensor, y: Tensor, domain: Domain, streams: Streams, start: Tensor | None, budget: Tensor | None
    ) -> AttackOutcome:
        norm = self.threat
        with torch.no_grad():
            clean = model(x).argmax(1)
        correct = clean == y
        counts = Counts.zeros(len(y), x.device)
        if budget is None and self.budget is not None:
            budget = torch.full((len(y),), self.budget, dtype=x.dtype, device=x.device)
        everything = torch.arange(len(y), device=x.device)
        problem = Problem(
            model=model, x=x, y=y, domain=domain, norm=norm, budget=budget, start=start, streams=streams, counts=counts, rows=everything
        )
        attacked = everything if self.moves_misclassified else everything[correct]
        x_adv = x.clone()
        if len(attacked):
            mine = problem.take(attacked)  # a copy even where it is every row: a search may write into its own x, never the caller's
            x_adv[attacked] = self.search(mine).detach().to(x.dtype)
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
            forwards=counts.forwards,
            backwards=counts.backwards,
        )


def _verify(model: Model, problem: Problem, x_adv: Tensor, correct: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Clip, evaluate with a forward pass of its own, measure: (x_adv, prediction, margin, distance, usable), B rows each."""
    x, y, norm, domain = problem.x, problem.y, problem.norm, problem.domain
    finite = torch.isfinite(x_adv).flatten(1).all(1)
    x_adv = domain.clip(torch.where(per_row(finite, x), x_adv, x))
    with torch.no_grad():
        z = model(x_adv)
        if problem.budget is None:
            for share in NUDGES:
                short = correct & (z.argmax(1) == y) & ((x_adv != x).flatten(1).any(1))
                if not bool(short.any()):
                    break
                longer = domain.clip(x[short] + (x_adv[short] - x[short]) * (1 + share))
                z_longer = model(longer)
                better = z_longer.argmax(1) != y[short]
                moved = torch.nonzero(short).squeeze(1)[better]
                x_adv[moved], z[moved] = longer[better], z_longer[better]
    distance = norm.size(x_adv - x)
    usable = finite & torch.isfinite(z).all(1)
    if problem.budget is not None:
        usable &= distance <= problem.budget * (1 + BUDGET_SLACK) + 1e-6
    unusable = ~usable
    if bool(unusable.any()):  # what breaks the rules must not lower the accuracy either: the row stays where it was
        x_adv[unusable] = domain.clip(x[unusable])
        with torch.no_grad():
            z[unusable] = model(x_adv[unusable])
    return x_adv, z.argmax(1), margin(z, y), distance, usable


def _join(parts: list[AttackOutcome]) -> AttackOutcome:
    def whole(name: str) -> Any:
        values = [getattr(part, name) for part in parts]
        return torch.cat(values) if isinstance(values[0], Tensor) else values[0]

    return AttackOutcome(**{f.name: whole(f.name) for f in fields(AttackOutcome)})


@contextlib.contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Eval mode and no parameter gradients inside; every module's mode and every parameter's flag restored after."""
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval()
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def check_samples(x: Tensor, y: Tensor, box: tuple[float, float]) -> None:
    """Raise InputError unless x [N, *S] is floating, finite and inside `box`, and y [N] holds integer classes, N >= 1."""
    if x.dim() < 2 or not x.is_floating_point():
        raise InputError("x", f"{x.dtype} of shape {tuple(x.shape)}", "floating-point samples of shape [N, ...]")
    if len(x) == 0:
        raise InputError("x", "0 samples", "at least one sample")
    if y.shape != (len(x),) or y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise InputError("y", f"{y.dtype} of shape {tuple(y.shape)}", f"one integer class per sample, shape ({len(x)},)")
    low, high = x.min().item(), x.max().item()
    if not (math.isfinite(low) and math.isfinite(high)):
        raise InputError("x", "NaN or infinite values", "finite values")
    if low < box[0] - 1e-6 or high > box[1] + 1e-6:
        raise InputError(
            "x", f"values in [{low:.6g}, {high:.6g}]", f"values in [{box[0]:g}, {box[1]:g}]: put the normalisation inside the model"
        )


def as_classifier(model: nn.Module, x: Tensor, y: Tensor) -> Model:
    """The model as a function to logits [B, C >= 2]; a single output z becomes (0, z).

    Raises ModelError where one forward pass on a few samples raises, or gives a wrong shape or non-finite values, and InputError
    where a label has no logit.
    """
    probe = x[: min(len(x), 8)]
    try:
        with torch.no_grad():
            z = model(probe)
    except Exception as error:  # whatever a user's forward raises ends in one line
        said = (str(error).splitlines() or [""])[0]
        raise ModelError(f"model: forward raised {type(error).__name__} on input of shape {tuple(probe.shape)}: {said}") from error
    if not isinstance(z, Tensor) or not z.is_floating_point() or z.dim() not in (1, 2) or len(z) != len(probe):
        got = f"{z.dtype} of shape {tuple(z.shape)}" if isinstance(z, Tensor) else type(z).__name__
        raise ModelError(f"model: forward gave {got}; accepted: floating-point logits of shape [{len(probe)}, classes]")
    if not bool(torch.isfinite(z).all()):
        raise ModelError("model: forward gave NaN or infinite logits; accepted: finite logits")
    single = z.dim() == 1 or z.shape[1] == 1
    classes = 2 if single else z.shape[1]
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= classes:
        raise InputError("y", f"labels from {low} to {high}", f"0 to {classes - 1}: the model has {classes} classes")
    if not single:
        return model
    return lambda inputs: nn.functional.pad(model(inputs).reshape(len(inputs), 1), (1, 0))


def batch_rows(model: nn.Module, x: Tensor, state_copies: int) -> int:
    """Rows per batch by the rule of BATCH_BYTES: measured on one sample, hence independent of N, memory and clock."""
    elements = int(getattr(model, "activation_elements", 0))  # a program says it, since hooks cannot look inside

    def add(_module: nn.Module, _inputs: object, output: object) -> None:
        nonlocal elements
        if isinstance(output, Tensor):
            elements += output.numel()

    hooks = [m.register_forward_hook(add) for m in model.modules() if not any(True for _ in m.children())]
    try:
        with frozen(model), torch.no_grad(), contextlib.suppress(Exception):  # a raising forward is reported by as_classifier
            model(x[:1])
    finally:
        for hook in hooks:
            hook.remove()
    row = x.element_size() * (state_copies * x[0].numel() + 3 * elements)
    return max(1, min(MAX_ROWS, BATCH_BYTES // row))


def require(name: str, value: float, ok: bool, accepted: str) -> None:
    """Verify a parameter when an attack is constructed: raise InputError unless `ok`."""
    if isinstance(value, bool) or not ok:
        raise InputError(name, value, accepted)


__all__ = [
    "Attack",
    "AttackOutcome",
    "Counts",
    "Domain",
    "Loss",
    "Model",
    "Problem",
    "as_classifier",
    "batch_rows",
    "check_samples",
    "field",
    "frozen",
    "log_odds",
    "margin",
    "require",
]
