"""The law suite over every registered attack, and over attacks built to break each law that an attack can break (`rejects` and
`no_grad_callers` hold the driver): a law that cannot fail is none."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from isogrid.attacks import ATTACKS, FGS, PGD, Ensemble, Minimise, config_of, make
from isogrid.attacks.driver.base import log_odds, margin
from isogrid.attacks.driver.kinds import FixedBudget
from isogrid.attacks.driver.parameters import departures
from isogrid.core.errors import InputError, ModelError
from isogrid.core.norms import NORMS
from isogrid.testing import ATTACK_LAWS, check_attack

LIMITS = {"steps": 10, "queries": 60, "searches": 4, "restarts": 2, "targets": 2}
"""Integer parameters that are effort only: cut down so that the suite stays fast. No law is about strength."""


def quick(attack):
    """The attack with its effort parameters cut down."""
    efforts = {f.name: getattr(attack, "value", lambda name: getattr(attack, name))(f.name) for f in dataclasses.fields(attack)}
    cut = {name: min(value, LIMITS[name]) for name, value in efforts.items() if name in LIMITS and isinstance(value, int)}
    return dataclasses.replace(attack, **cut)


def variants():
    """Every registered attack in both domains (the one that is not its default: slow), in both norms where it has the choice, as published
    and, where it has one, in its converging form."""
    for name, cls in ATTACKS.items():
        accepted = {f.name for f in dataclasses.fields(cls)}
        choices = {"norm": ("l2", "linf"), "domain": ("box", "free"), "converge": (False, True)}
        for values in itertools.product(*(choices[one] if one in accepted else (None,) for one in choices)):
            settings = {one: value for one, value in zip(choices, values, strict=True) if value is not None}
            try:
                attack = quick(cls(**settings))
            except InputError:  # an attack may exist in one domain or norm only
                continue
            other = () if attack.domain == cls().domain else pytest.mark.slow
            yield pytest.param(attack, id="-".join((name, attack.threat.name, attack.domain, *departures(attack))), marks=other)
    yield pytest.param(Minimise(attack=PGD(steps=5), searches=6), id="minimise")
    yield pytest.param(Ensemble(attacks=(FGS(), PGD(steps=5))), id="ensemble")


@pytest.mark.parametrize("law", ATTACK_LAWS)
@pytest.mark.parametrize("attack", list(variants()))
def test_law(attack, law):
    check_attack(attack, [law])


@pytest.mark.parametrize("name", ATTACKS)
def test_the_registry_row_is_consistent(name):
    cls = ATTACKS[name]
    attack = cls()
    assert cls.name == name
    assert make(config_of(attack)) == attack, "config_of and make are no inverses"
    assert attack.threat.name == attack.norm
    assert set(attack.strength) <= set(NORMS)
    double, cost = attack.doubled(), attack.expected_gradients()
    assert 0 < cost < math.inf
    assert (double is None) == (cls.effort is None)
    assert double is None or double.expected_gradients() > cost
    assert cls.effort is None or not attack.gradient_free, "doubling what uses no gradient says nothing about convergence"
    assert inspect.getdoc(cls), "no docstring"
    with pytest.raises(InputError):
        make({"name": name, "no such parameter": 1})
    with pytest.raises(dataclasses.FrozenInstanceError):
        attack.domain = "free"


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken(FixedBudget):
    """An attack whose search is given: correct FGS with one fault each, below."""

    name: ClassVar[str] = "broken"
    norm: ClassVar[str] = "linf"
    role: ClassVar[str] = "strong"
    strength: ClassVar[dict[str, int]] = {}
    script: Callable = None

    def expected_gradients(self):
        return 1.0

    def search(self, problem):
        return self.script(problem)


def step(p, loss=log_odds, x=None):
    _, _, gradient = p.gradient(p.x if x is None else x, loss)
    return p.domain.clip(p.x + p.budget.view(-1, *[1] * (p.x.dim() - 1)) * gradient.sign())


def batch_dependent(p):
    gradient = p.gradient(p.x, log_odds)[2]
    return p.domain.clip(p.x + 0.1 * (gradient - gradient.mean(0)).sign())


def unseeded(p):
    return step(p, x=p.domain.clip(p.x + 0.02 * torch.randn(p.x.shape)))


def position_seeded(p):
    noise = torch.randn(p.x.shape, generator=torch.Generator().manual_seed(0), dtype=p.x.dtype)
    return p.domain.clip(p.x + 0.1 * noise.sign())


def fills_parameter_gradients(p):
    module = p.model
    for parameter in getattr(module, "parameters", list)():
        parameter.requires_grad_(True)
        parameter.grad = torch.ones_like(parameter)
    return step(p)


def trains_the_model(p):
    for parameter in getattr(p.model, "parameters", list)():
        parameter.data.add_(0.5)
    return step(p)


def blind_to_row_budgets(p):
    """Within every row's budget, but for its verdict it uses the smallest only."""
    least = p.budget.min()
    return p.domain.clip(p.x + least * p.gradient(p.x, log_odds)[2].sign())


def in_float32(p):
    return step(p).float()


def works_for_class_0_only(p):
    return torch.where((p.y == 0).view(-1, *[1] * (p.x.dim() - 1)), step(p), p.x)


def fails_without_a_gradient(p):
    if not bool(p.gradient(p.x, log_odds)[2].any()):
        raise RuntimeError("nowhere to go")
    return step(p)


def needs_three_classes(p):
    p.logits(p.x).topk(3, 1)
    return step(p)


def never_looks_at_the_gradient(p):
    return p.domain.clip(p.x + p.budget.view(-1, *[1] * (p.x.dim() - 1)))


def images_only(p):
    return step(p) + 0 * p.x.mean((2, 3), keepdim=True)


def swallows_errors(p):
    try:
        return step(p)
    except ModelError:
        return p.x


@pytest.mark.parametrize(
    ("script", "laws"),
    [
        (batch_dependent, {"rows_alone"}),
        (unseeded, {"repeatable", "leaves_alone", "no_grad_callers"}),
        (position_seeded, {"rows_alone"}),
        (blind_to_row_budgets, {"row_budgets"}),
        (in_float32, {"float64"}),
        (works_for_class_0_only, {"finds"}),
        (fails_without_a_gradient, {"honest_failure"}),
        (needs_three_classes, {"truth", "single_logit"}),
        (never_looks_at_the_gradient, {"zero_gradients", "finds"}),
        (fills_parameter_gradients, {"leaves_alone"}),
        (trains_the_model, {"leaves_alone", "truth"}),
        (images_only, {"tables"}),
        (swallows_errors, {"restores_after_error"}),
        (lambda p: p.x, {"finds"}),
        (lambda p: step(p, lambda z, y: -margin(z, y) * 0), {"finds"}),
    ],
)
def test_a_broken_attack_breaks_its_law(script, laws):
    broken = set()
    for law in ATTACK_LAWS:
        try:
            check_attack(Broken(script=script), [law])
        except AssertionError:
            broken.add(law)
        except (RuntimeError, IndexError):  # an attack that crashes on what a law shows it
            broken.add(law)
    assert laws <= broken


def test_a_gradient_free_claim_is_checked():
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Claims(Broken):
        role: ClassVar[str] = "gradient-free"

    for law in ("truth", "zero_gradients"):
        with pytest.raises(AssertionError, match=law):
            check_attack(Claims(script=step), [law])
    with pytest.raises(ModelError, match="no gradient"):
        check_attack(Claims(script=step), ["no_graph"])


def test_every_violation_is_listed_and_unknown_laws_are_refused():
    with pytest.raises(AssertionError, match=r"(?s)breaks 2 law.*repeatable.*leaves_alone"):
        check_attack(Broken(script=unseeded), ["rows_alone", "repeatable", "leaves_alone", "honest_failure"])
    with pytest.raises(InputError, match="did you mean truth"):
        check_attack(FGS(), ["truthh"])
