"""The audit of one trained model that has no study: runs cheap probes and hands what they recorded to `audit`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from isogrid.attacks import make
from isogrid.attacks.driver.base import Attack, as_classifier, batch_rows, check_samples, frozen, margin
from isogrid.attacks.naming import attack_id
from isogrid.attacks.pgd import PGD
from isogrid.attacks.records import outcome_frame
from isogrid.audit import Audit, examine_level
from isogrid.audit.masking import cases, occurrences
from isogrid.audit.records import AttackRecord, CleanRecord, Growth, LevelInputs
from isogrid.core.errors import InputError
from isogrid.core.modules import check_module
from isogrid.core.norms import L2, Norm
from isogrid.core.parameters import require_number, require_whole

GROWTH = (2.0, 4.0)
QUERIES = 1500
TWO_MODES = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._NormBase)
"""Modules that compute something else in train mode."""


def examine_model(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    attacks: Sequence[Attack] = (),
    *,
    eps: float = 0.1,
    seed: int = 0,
    samples: int = 200,
    box: tuple[float, float] = (0.0, 1.0),
    name: str = "",
) -> Audit:
    """Audit a classifier on the first `samples` of `x` [N, *S], `y` [N]: findings, and what became of every check.

    `attacks` are those whose figures are to be believed; without any, PGD with the margin loss at l_inf `eps`. Beside them run, in each of
    their threat models, noise, Square and HopSkipJump where no gradient-free attack is among them, PGD, DDN or FMN where no strong
    white-box attack is, every iterative white-box attack at twice its steps, and the first fixed-budget one of each norm at budgets growing
    until they span the box. Where gradients then look masked at a budget, FAB has a second try. That no check fired does not mean that the
    model is robust, nor that every one had something to judge: `Audit.checks` tells.
    Raises InputError and ModelError as an attack does.
    Cost: about 60 forward and backward passes per step-40 attack and sample, and twice QUERIES forward passes per threat model.

    >>> net = nn.Sequential(nn.Linear(2, 2), nn.Softmax(1)).train()
    >>> _ = net[0].weight.data.copy_(torch.eye(2)), net[0].bias.data.zero_()
    >>> x, y = torch.tensor([[0.6, 0.4], [0.3, 0.9]]), torch.tensor([0, 1])
    >>> "IG003" in {finding.code for finding in examine_model(net, x, y).findings}
    True
    """
    require_number("eps", eps, 0, low_open=True)
    count = require_whole("samples", samples)
    check_samples(x, y, box)
    check_module(model)
    if not isinstance(attacks, Sequence) or not all(isinstance(attack, Attack) for attack in attacks):
        raise InputError("attacks", attacks, "attacks in a list, such as [PGD(eps=0.1)]")
    x, y = x[:count], y[:count].long()
    training = tuple(n or type(m).__name__ for n, m in model.named_modules() if m.training and isinstance(m, TWO_MODES))
    first, again, reach = clean_passes(model, x, y, box)
    clean = CleanRecord.of_logits(first, y, again, sigmoids=ends_in_sigmoid(model, x), reach=reach, training=training)
    chosen = tuple(attacks) or (PGD(eps=eps, loss="margin"),)

    def run(attack: Attack, budget: float | None = None, *, reported: bool = False) -> AttackRecord:
        override = None if budget is None else x.new_full((len(y),), budget)
        outcome = attack(model, x, y, seed=seed, box=box, budget=override)
        frame = outcome_frame(outcome)
        columns = {c: frame[c] for c in frame.columns}
        return AttackRecord.of_columns(attack, attack_id(attack), columns, len(y), eps=budget, reported=reported)

    ours = (*comparators(chosen), *_floor(chosen))
    records = {attack: run(attack, reported=True) for attack in chosen} | {attack: run(attack) for attack in ours if attack not in chosen}
    doubles = {attack: double for attack in chosen if (double := attack.doubled()) is not None}
    # single steps overshoot, so their success need not grow
    grown = {attack.threat: attack for attack in reversed(records) if attack.budget is not None and attack.role == "strong"}

    def growth(norm: Norm, attack: Attack) -> Growth:
        span = _span(norm, x, box)
        budgets = [b for factor in GROWTH if attack.budget is not None and (b := factor * attack.budget) < span]
        return Growth(records=(records[attack], *(run(attack, b) for b in [*budgets, span])), spans=True)

    inputs = LevelInputs(
        model=name,
        clean=clean,
        attacks=tuple(records.values()),
        doubled=tuple((records[attack], run(double)) for attack, double in doubles.items()),
        growth=tuple(growth(norm, attack) for norm, attack in grown.items()),
    )
    more = tuple(run(attack) for attack in _second_opinions(inputs))
    return examine_level(dataclasses.replace(inputs, attacks=inputs.attacks + more))


def clean_passes(model: nn.Module, x: Tensor, y: Tensor, box: tuple[float, float]) -> tuple[Tensor, Tensor, np.ndarray[Any, Any]]:
    """Two evaluations' logits [N, C] each, and `CleanRecord.reach` [N]: what the audit wants to know of clean samples, in three passes."""
    size = batch_rows(model, x, 4)
    with frozen(model):
        function = as_classifier(model, x, y)
        with torch.no_grad():
            first, again = (torch.cat([function(part) for part in torch.split(x, size)]) for _ in range(2))
        reach: list[np.ndarray[Any, Any]] = []
        for part, labels in zip(torch.split(x, size), torch.split(y, size), strict=True):
            leaf = part.detach().clone().requires_grad_()
            with torch.enable_grad():
                gap = margin(function(leaf), labels)
            if gap.requires_grad:
                (gradient,) = torch.autograd.grad(gap.sum(), leaf, allow_unused=True)
                steepness = torch.zeros_like(gap) if gradient is None else L2.size(gradient.nan_to_num(0.0, 0.0, 0.0))
            else:
                steepness = torch.zeros_like(gap)
            reach.append((gap.detach().abs().double() / steepness.double() / _span(L2, x, box)).cpu().numpy())
    return first, again, np.nan_to_num(np.concatenate(reach), nan=math.inf, posinf=math.inf)


def ends_in_sigmoid(model: nn.Module, x: Tensor) -> bool:
    """Whether what `model` returns is the output of a sigmoid or softmax, in whatever form it is written; x [N, *S]: two are looked at."""
    with frozen(model), torch.no_grad(), _Squashed() as squashed:
        z = model(x[:2])
    return any(z.numel() == out.numel() and torch.equal(z.flatten(), out.flatten().to(z.dtype)) for out in squashed.found)


class _Squashed(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The outputs of all sigmoids and softmaxes of a forward pass."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports its compiler, for more than a second

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in _SQUASHES:
            self.found.append(out.clone())
        return out


_SQUASHES = {torch.ops.aten.sigmoid.default, torch.ops.aten.sigmoid_.default, torch.ops.aten._softmax.default}


def comparators(chosen: Sequence[Attack]) -> list[Attack]:
    """The strong white-box attacks that `chosen` lacks: beside single steps, DeepFool and mixed ensembles, whose failures say nothing."""
    found: dict[Attack, None] = {}
    for attack in chosen:
        strong = [a for a in (*chosen, *found) if a.role == "strong" and (a.threat, a.domain) == (attack.threat, attack.domain)]
        if attack.role in ("strong", "gradient-free") or any(a.budget in (None, attack.budget) for a in strong):
            continue
        if attack.budget is not None:
            config = {"name": "pgd", "eps": attack.budget, "norm": attack.threat.name, "domain": attack.domain, "loss": "margin"}
            found[make(config)] = None
        elif attack.threat == L2:
            found[make({"name": "ddn", "converge": True, "domain": attack.domain})] = None
        else:
            found[make({"name": "fmn", "converge": True, "norm": attack.threat.name, "domain": attack.domain})] = None
    return list(found)


def _second_opinions(inputs: LevelInputs) -> list[Attack]:
    """FAB at each budget at which gradients look masked: in few dimensions an ascent ends in a corner, where boundaries of several classes,
    aimed at one by one, would have been nearer. It starts at the sample itself, so that its success is not a random start's."""
    doubted = [case for case in cases(inputs) if case.eps is not None and any(True for _ in occurrences(case))]
    return [make({"name": "fab", "converge": True, "eps": case.eps, "norm": case.norm, "domain": case.domain}) for case in doubted]


def _floor(chosen: Sequence[Attack]) -> list[Attack]:
    """Noise, Square and HopSkipJump for each threat model that has white-box attacks and no gradient-free one.

    Square reads logits: where an ascent is led astray by jumps of the network (k-winners), it finds what HopSkipJump, with labels alone and
    as many queries, does not.
    """
    guarded = {(a.threat, a.domain) for a in chosen if a.gradient_free}
    white = [a for a in chosen if not a.gradient_free and (a.threat, a.domain) not in guarded]
    floor: dict[Attack, None] = {}
    for attack in white:
        if attack.budget is not None:
            floor[make({"name": "noise", "eps": attack.budget, "norm": attack.threat.name, "domain": attack.domain})] = None
            config = {"name": "square", "queries": QUERIES, "eps": attack.budget, "norm": attack.threat.name, "domain": attack.domain}
            floor[make(config)] = None
        floor[make({"name": "hopskipjump", "queries": QUERIES, "norm": attack.threat.name, "domain": attack.domain})] = None
    return list(floor)


def _span(norm: Norm, x: Tensor, box: tuple[float, float]) -> float:
    """The size of the largest difference between two points of the box."""
    return float(norm.size(torch.full_like(x[:1], box[1] - box[0]).double()))


__all__ = ["clean_passes", "ends_in_sigmoid", "examine_model"]
