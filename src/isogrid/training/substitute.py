"""Black-box attacks by a substitute: train one on an oracle's labels, attack it, submit the result. Not here: the attacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from isogrid.attacks import Attack, AttackOutcome, Transfer
from isogrid.attacks.driver.backward import exact_gradient
from isogrid.attacks.driver.base import as_classifier, batch_rows, frozen, log_odds
from isogrid.core.errors import InputError
from isogrid.core.parameters import require_whole
from isogrid.core.random import generator
from isogrid.training import FitConfig, OptimizerConfig, fit

Oracle = Callable[[Tensor], Tensor]
"""All that an attacker sees of the target: x [B, *S] -> predicted labels int64 [B]."""

DEFAULT_FIT = FitConfig(epochs=10, batch_size=64, optimizer=OptimizerConfig(name="adam", lr=1e-3))


@dataclass(frozen=True, slots=True, kw_only=True)
class SubstituteConfig:
    """Algorithm 1 of Papernot et al. 2017, with the reservoir sampling of its section 5.2.

    `rounds`: trainings, with an augmentation between any two. `step` lambda > 0 in the units of x; its sign is that of
    (-1)^(k // `period`) in round k = 0, 1, ... From round `reservoir_after` on, only `reservoir` new points, a random choice, are made
    and labelled per round; before, one for every point there is, so that the set doubles. `fit`: one round's training.
    """

    rounds: int = 6
    step: float = 0.1
    period: int = 3
    reservoir: int = 400
    reservoir_after: int = 3
    fit: FitConfig = DEFAULT_FIT

    def __post_init__(self) -> None:
        for name, least in (("rounds", 1), ("period", 1), ("reservoir", 1), ("reservoir_after", 0)):
            object.__setattr__(self, name, require_whole(f"substitute.{name}", getattr(self, name), least))
        if not 0 < self.step < float("inf"):
            raise InputError("substitute.step", self.step, "a number > 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Substitute:
    """A trained substitute, what it was trained on, and what that cost.

    `x` [M, *S], `y` [M]: every point and the oracle's label of it; one query each, so M queries in all. `agreement`: per round but the
    first, the share of the points new in it on which the substitute agreed with the oracle BEFORE it was trained on them.
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    agreement: tuple[float, ...]

    @property
    def queries(self) -> int:
        """How many labels the oracle was asked for."""
        return len(self.y)


def labels_of(model: nn.Module) -> Oracle:
    """The oracle that a model is to somebody who sees only its predictions: argmax, in eval mode, under the driver's batch rule.

    >>> model = nn.Linear(2, 2)
    >>> _ = model.weight.data.copy_(torch.eye(2)), model.bias.data.zero_()
    >>> labels_of(model)(torch.tensor([[0.2, 0.9], [0.7, 0.1]])).tolist()
    [1, 0]
    """

    def oracle(x: Tensor) -> Tensor:
        zeros = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        with frozen(model), torch.no_grad():
            function = as_classifier(model, x, zeros)
            return torch.cat([function(part).argmax(1) for part in torch.split(x, batch_rows(model, x, 1))])

    return oracle


def train_substitute(
    oracle: Oracle,
    x: Tensor,
    factory: Callable[[], nn.Module],
    config: SubstituteConfig | None = None,
    *,
    seed: int = 0,
    box: tuple[float, float] = (0.0, 1.0),
) -> Substitute:
    r"""Train a substitute for `oracle` from the seed samples `x` [N, *S], by Jacobian-based data set augmentation.

    Per round: train on all points labelled so far; then S := S and { clip(x + lambda sgn(dp_{O(x)} / dx)) : x in S }, p the substitute's
    probability of the oracle's label. `factory()` makes the untrained substitute, on the device of `x`, with logits for every label that
    the oracle may give; training goes on from round to round. Equal arguments give equal bits; the global random state stays.

    Raises InputError where the samples or the oracle's labels are unusable, and what training raises. Source: Papernot et al. 2017.
    Pitfalls: the true labels are never used, so an oracle that is wrong is imitated in its errors. The sign of dp is taken from the
    log-odds, of which p is a monotone function: in float32 dp itself is 0 where the substitute is sure. Take seed samples that
    are not among those attacked afterwards.
    """
    config = config or SubstituteConfig()
    if x.dim() < 2 or not x.is_floating_point() or len(x) == 0 or not bool(torch.isfinite(x).all()):
        raise InputError("substitute x", f"{x.dtype} of shape {tuple(x.shape)}", "at least one finite floating-point sample [N, ...]")
    model = factory()
    if not isinstance(model, nn.Module):
        raise InputError("substitute", type(model).__name__, "a factory that returns a torch.nn.Module")
    y = _ask(oracle, x)
    agreement: list[float] = []
    for k in range(config.rounds):
        if k:
            new = _augment(model, x, y, config, k - 1, seed, box)
            label = _ask(oracle, new)
            agreement.append(float((labels_of(model)(new) == label).double().mean()))
            x, y = torch.cat([x, new]), torch.cat([y, label])
        with frozen(model):
            as_classifier(model, x, y)
        fit(model, x, y, config.fit, seed=seed, purpose=("substitute", k))
    return Substitute(model=model, x=x, y=y, agreement=tuple(agreement))


def _ask(oracle: Oracle, x: Tensor) -> Tensor:
    label = oracle(x)
    if not isinstance(label, Tensor) or label.dtype != torch.int64 or label.shape != (len(x),) or int(label.min()) < 0:
        got = f"{label.dtype} of shape {tuple(label.shape)}" if isinstance(label, Tensor) else type(label).__name__
        raise InputError("oracle", got, f"one label >= 0 per sample: int64 of shape ({len(x)},)")
    return label.to(x.device)


def _augment(model: nn.Module, x: Tensor, y: Tensor, config: SubstituteConfig, k: int, seed: int, box: tuple[float, float]) -> Tensor:
    """The new points of round k: one step along the sign of the substitute's Jacobian row at the oracle's label."""
    if k >= config.reservoir_after and len(x) > config.reservoir:
        chosen = torch.randperm(len(x), generator=generator(seed, "reservoir", k))[: config.reservoir].to(x.device)
        x, y = x[chosen], y[chosen]
    step = config.step * (-1) ** (k // config.period)
    size = batch_rows(model, x, 4)
    with frozen(model), torch.enable_grad():
        function = as_classifier(model, x, y)
        moved = []
        for part, label in zip(torch.split(x, size), torch.split(y, size), strict=True):
            leaf = part.detach().clone().requires_grad_()
            gradient = exact_gradient(log_odds(function(leaf), label).sum(), leaf)
            moved.append((part - step * gradient.sign()).clamp(*box))  # minus: the log-odds of (1 - p) / p fall as p rises
    return torch.cat(moved)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlackBox:
    """What a black-box attacker reached on one target.

    `agreement`: the share of the attacked samples on which substitute and target predict the same class. `transferred`: per attack, its
    candidates made on the substitute and judged on the target.
    """

    agreement: float
    transferred: tuple[AttackOutcome, ...]


def blackbox(
    target: nn.Module,
    substitute: nn.Module,
    attacks: Sequence[Attack],
    x: Tensor,
    y: Tensor,
    *,
    seed: int = 0,
    box: tuple[float, float] = (0.0, 1.0),
) -> BlackBox:
    """Attack `substitute` on the samples x [N, *S] with true classes y [N], and judge what comes out on `target`.

    Raises what the driver raises.
    """
    agreement = float((labels_of(substitute)(x) == labels_of(target)(x)).double().mean())
    outcomes = tuple(
        Transfer(source=substitute, attack=attack, domain=attack.domain)(target, x, y, seed=seed, box=box) for attack in attacks
    )
    return BlackBox(agreement=agreement, transferred=outcomes)
