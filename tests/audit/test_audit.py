"""Every finding fires on a model that was built to show it, and none on an honest small network."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_wine, make_blobs
from torch import Tensor, nn

from isogrid.attacks import (
    DDN,
    FGS,
    PGD,
    Attack,
    AutoAttack,
    DeepFool,
    Ensemble,
    HopSkipJump,
    Minimise,
    Noise,
    Square,
    Transfer,
    Wrapped,
    minimise,
)
from isogrid.attacks.records import outcome_frame
from isogrid.audit import CHECKS, Finding, examine_level
from isogrid.audit.model import examine_model
from isogrid.audit.records import AttackRecord, CleanRecord, LevelInputs
from isogrid.core.errors import InputError
from isogrid.core.files import canonical
from isogrid.core.random import generator
from isogrid.data import Samples
from isogrid.study.cells.train import evaluate

N, INPUTS, CLASSES, EPS = 60, 16, 3, 0.05


def audit_model(*given: Any, **settings: Any) -> list[Finding]:
    return examine_model(*given, **settings).findings


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Sequential, Tensor, Tensor]:
    """A small network with a dropout layer, trained on three overlapping clouds."""
    return fitted(CLASSES, CLASSES)


@pytest.fixture(scope="module")
def binary() -> tuple[nn.Sequential, Tensor, Tensor]:
    """The same for two clouds, with one logit."""
    return fitted(2, 1)


def fitted(classes: int, outputs: int) -> tuple[nn.Sequential, Tensor, Tensor]:
    g = generator(0, "audit test")
    y = torch.arange(N) % classes
    centres = 0.5 + 0.12 * torch.randn(classes, INPUTS, generator=g)
    x = (centres[y] + 0.06 * torch.randn(N, INPUTS, generator=g)).clamp(0, 1)
    net = nn.Sequential(nn.Linear(INPUTS, 24), nn.ReLU(), nn.Dropout(0.5), nn.Linear(24, outputs)).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=g))
    for _ in range(400):  # plain gradient descent
        z = net(x)
        loss = nn.functional.cross_entropy(nn.functional.pad(z, (1, 0)) if outputs == 1 else z, y)
        gradients = torch.autograd.grad(loss, list(net.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(net.parameters(), gradients, strict=True):
                parameter -= 0.5 * gradient
    return net, x, y


class Then(nn.Module):
    """A network between two functions."""

    def __init__(self, net: nn.Module, before: Callable[[Tensor], Tensor] | None = None, after: Callable[[Tensor], Tensor] | None = None):
        super().__init__()
        self.net, self.before, self.after = net, before, after

    def forward(self, x: Tensor) -> Tensor:
        z = self.net(x if self.before is None else self.before(x))
        return z if self.after is None else self.after(z)


def quantised(x: Tensor) -> Tensor:
    return (x * 12).round() / 12


def steep(x: Tensor) -> Tensor:
    """Close to quantised to 12 steps, and differentiable, with almost no gradient between the steps."""
    level = x * 12
    return (level.floor() + torch.sigmoid(60 * (level - level.floor() - 0.5))) / 12


class Noisy(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.g = net, torch.Generator().manual_seed(0)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x + 0.05 * torch.randn(x.shape, generator=self.g))


def dropping(net: nn.Sequential) -> nn.Module:
    """Functional dropout that nobody switched off."""
    return Then(net, lambda x: nn.functional.dropout(x, 0.2, training=True))


def collapse(net: nn.Sequential) -> nn.Module:
    dead = copy.deepcopy(net)
    with torch.no_grad():
        dead[3].weight.zero_()
    return dead


BUILT: dict[str, tuple[str, Callable[[nn.Sequential], nn.Module], tuple[Attack, ...]]] = {
    "quantised inputs: no gradient": ("IG001", lambda net: Then(net, quantised), ()),
    "steep steps: tiny gradients": ("IG001", lambda net: Then(net, steep), ()),
    "logits times 100": ("IG002", lambda net: Then(net, after=lambda z: 100 * z), ()),
    "softmax at the end": ("IG003", lambda net: Then(net, after=lambda z: z.softmax(1)), ()),
    "a sigmoid per class": ("IG003", lambda net: Then(net, after=lambda z: torch.sigmoid(z + 1)), ()),
    "a sigmoid, then a view": ("IG003", lambda net: Then(net, after=lambda z: z.sigmoid_().double()[:, :]), ()),
    "noise inside": ("IG004", Noisy, (PGD(eps=EPS), Noise(eps=EPS))),
    "functional dropout": ("IG004", dropping, (PGD(eps=EPS), Noise(eps=EPS))),
    "quantised inputs: hopskipjump wins": ("IG005", lambda net: Then(net, quantised), ()),
    "steep steps: hopskipjump wins": ("IG005", lambda net: Then(net, steep), ()),
    "steps too few": ("IG006", lambda net: net, (PGD(eps=EPS, steps=3, rel_step=0.08, random_start=False),)),
    "quantised inputs: budget does not help": ("IG007", lambda net: Then(net, quantised), (PGD(eps=EPS, random_start=False),)),
    "logits beside an offset of 1e7": ("IG008", lambda net: Then(net, after=lambda z: z + 1e7), ()),
    "deepfool without gradients": ("IG009", lambda net: Then(net, quantised), (DeepFool(),)),
    "hopskipjump with few queries": ("IG009", lambda net: net, (HopSkipJump(queries=3),)),
    "a dead last layer": ("IG010", collapse, ()),
    "a budget that breaks all": ("IG011", lambda net: net, (PGD(eps=0.3), Noise(eps=0.3))),
    "a budget that breaks none": ("IG011", lambda net: net, (PGD(eps=1e-4), Noise(eps=1e-4))),
    "a square root at 0": ("IG014", lambda net: Then(net, lambda x: x + 0 * (x * (x > 0.5)).sqrt()), ()),
    "dropout left on": ("IG012", lambda net: copy.deepcopy(net).train(), ()),
}


@pytest.mark.parametrize("what", BUILT)
def test_fires_on_a_model_built_to_show_it(what: str, trained: tuple[nn.Sequential, Tensor, Tensor]) -> None:
    code, build, attacks = BUILT[what]
    net, x, y = trained
    model = build(net)
    training = model.training
    findings = audit_model(model, x, y, attacks, eps=EPS, name="small")
    fired = [finding for finding in findings if finding.code == code]
    assert fired, [finding.code for finding in findings]
    for finding in fired:
        assert finding.remedy
        assert finding.model == "small"
        assert "\n" not in finding.detail
    assert model.training == training
    canonical([dataclasses.asdict(finding) for finding in findings])  # fit for the study's JSON


def test_every_check_has_a_model_that_shows_it() -> None:
    elsewhere = {"IG013", "IG015"}  # tests/attacks/test_backward.py: an exact and a leaky attack; test_truth.py: complete search
    assert {code for code, _, _ in BUILT.values()} | elsewhere == {check.code for check in CHECKS}
    assert len({check.code for check in CHECKS}) == len({check.title for check in CHECKS}) == len(CHECKS)


def test_logits_that_happen_to_lie_between_0_and_1_are_no_probabilities() -> None:
    class Cosine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.rand((3, 8), generator=torch.Generator().manual_seed(0)))
            self.gate = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            x = x * torch.sigmoid(self.gate(x))  # a sigmoid inside says nothing of the outputs
            return nn.functional.normalize(x, dim=1) @ nn.functional.normalize(self.w, dim=1).T

    x = torch.rand((40, 8), generator=torch.Generator().manual_seed(1))
    model = Cosine()
    z = model(x).detach()
    assert bool((z >= 0).all() and (z <= 1).all())
    assert "IG003" not in {finding.code for finding in audit_model(model, x, z.argmax(1), eps=0.01)}


AUTOATTACK = AutoAttack(eps=EPS, steps=20, queries=500)
HONEST: dict[str, tuple[Attack, ...]] = {
    "none": (),
    "many": (PGD(eps=EPS, norm="linf"), PGD(eps=0.15, norm="l2"), HopSkipJump(norm="linf", queries=600), DeepFool(candidates=None)),
    "single steps and an ensemble": (FGS(eps=EPS), AUTOATTACK),
}


@pytest.mark.parametrize("attacks", HONEST.values(), ids=HONEST)
def test_silent_on_an_honest_network(attacks: tuple[Attack, ...], trained: tuple[nn.Sequential, Tensor, Tensor]) -> None:
    net, x, y = trained
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert audit_model(net, x, y, attacks, eps=EPS) == []
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


def of_table(inputs: np.ndarray, labels: np.ndarray, *hidden: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A network fitted to half of a table, and the other half, scaled to the unit box."""
    x, y = torch.tensor(inputs), torch.tensor(labels)
    x = ((x - x.amin(0)) / (x.amax(0) - x.amin(0))).float()
    widths = (x.shape[1], *hidden, int(y.max()) + 1)
    net = nn.Sequential(*(layer for pair in pairwise(widths) for layer in (nn.Linear(*pair), nn.ReLU())))[:-1]
    g = generator(0, "table")
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=g) / parameter.shape[-1] ** 0.5)
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(300):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x[::2]), y[::2]).backward()
        optimizer.step()
    return net, x[1::2], y[1::2]


def test_deepfool_alone_is_no_evidence_of_masking() -> None:
    """On tables it stops far beyond the nearest boundary, without a box above all."""
    net, x, y = of_table(*load_wine(return_X_y=True), 64, 64)
    findings = audit_model(net, x, y, (DeepFool(), DDN(converge=True), FGS(eps=0.1)))
    assert {finding.code for finding in findings} <= {"IG002", "IG011"}


def test_gradients_that_lead_into_a_corner_are_not_masked() -> None:
    """Of two inputs and four classes, one run from one start breaks fewer than noise does, even on a linear model."""
    net, x, y = of_table(*make_blobs(300, centers=4, random_state=0))
    assert {finding.code for finding in audit_model(net, x, y, eps=0.15)} <= {"IG002"}


@pytest.mark.parametrize("attack", [AUTOATTACK, Minimise(attack=Square(eps=EPS, queries=500)), FGS(eps=EPS)], ids=lambda a: a.name)
def test_no_attack_hides_masked_gradients(attack: Attack, trained: tuple[nn.Sequential, Tensor, Tensor]) -> None:
    """What is or contains a gradient-free attack is no proof that gradients do as well."""
    net, x, y = trained
    with_pgd = () if attack.budget is not None else (PGD(eps=EPS),)
    assert "IG005" in {finding.code for finding in audit_model(Then(net, quantised), x, y, (*with_pgd, attack))}


def test_the_role_of_an_attack_follows_from_its_parts() -> None:
    fgs, pgd, square = FGS(eps=EPS), PGD(eps=EPS), Square(eps=EPS)
    assert [a.role for a in (fgs, pgd, square)] == ["weak", "strong", "gradient-free"]
    assert [minimise(a).gradient_free for a in (pgd, square)] == [False, True]
    for parts, role in (((fgs,), "weak"), ((fgs, pgd), "strong"), ((square, Noise(eps=EPS)), "gradient-free"), ((pgd, square), "mixed")):
        ensemble = Ensemble(attacks=parts)
        assert ensemble.role == minimise(ensemble).role == role
        assert ensemble.gradient_free == (role == "gradient-free")


def test_a_function_that_asks_for_no_gradient_is_gradient_free(trained: tuple[nn.Sequential, Tensor, Tensor]) -> None:
    net, x, y = trained

    def noise(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return x + 0.01 * torch.randn_like(x)

    def step(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        leaf = x.clone().requires_grad_()
        return x + 0.01 * torch.autograd.grad(nn.functional.cross_entropy(model(leaf), y), leaf)[0].sign()

    for function, role in ((noise, "gradient-free"), (step, "weak")):
        attack = Wrapped(function=function, norm="linf", eps=EPS)
        frame = outcome_frame(attack(net, x, y))
        assert AttackRecord.of_columns(attack, "mine", {c: frame[c] for c in frame.columns}, N).role == role


def both(z: Tensor) -> Tensor:
    """One logit as two."""
    return torch.cat([-z, z], 1)


def test_a_binary_model_is_judged_by_its_one_logit(binary: tuple[nn.Sequential, Tensor, Tensor]) -> None:
    net, x, y = binary
    for honest in (net, Then(net, after=both)):
        assert {finding.code for finding in audit_model(honest, x, y, (PGD(eps=0.1),))} <= {"IG002"}
    for dead in (collapse(net), Then(collapse(net), after=both)):
        assert "IG010" in {finding.code for finding in audit_model(dead, x, y, (PGD(eps=0.1),))}


def test_a_sigmoid_at_the_end_of_a_binary_model_is_no_logit(binary: tuple[nn.Sequential, Tensor, Tensor]) -> None:
    net, x, y = binary
    for outputs in (torch.sigmoid, lambda z: torch.sigmoid(both(z) + 1)):
        assert "IG003" in {finding.code for finding in audit_model(Then(net, after=outputs), x, y, (PGD(eps=0.1),))}
    constant = CleanRecord.of_logits(torch.tensor([[0.2, 0.7]]).expand(5, 2), y[:5])
    assert not constant.probabilities  # a collapsed level is another finding


@pytest.mark.parametrize("power", [-24, 0, 20])
def test_a_tie_is_one_in_any_unit_of_the_logits(power: int, trained: tuple[nn.Sequential, Tensor, Tensor]) -> None:
    """A power of two changes no bit of a prediction; a masked class, however far below, decides none."""
    net, x, y = trained
    masked = Then(net, after=lambda z: nn.functional.pad(z, (0, 1), value=-1e9))
    for model, ties in ((net, False), (masked, False), (BUILT["logits beside an offset of 1e7"][1](net), True)):
        scaled = Then(model, after=lambda z: z * 2.0**power)
        clean = CleanRecord.of_logits(scaled(x), y)
        assert ("IG008" in {finding.code for finding in examine_level(LevelInputs(clean=clean)).findings}) == ties


def test_audit_is_repeatable_and_checks_its_input(trained: tuple[nn.Sequential, Tensor, Tensor]) -> None:
    net, x, y = trained
    model = Then(net, quantised)
    assert audit_model(model, x[:30], y[:30], seed=2) == audit_model(model, x[:30], y[:30], seed=2)
    for arguments in ({"eps": 0}, {"samples": 0}):
        with pytest.raises(InputError):
            audit_model(net, x, y, **arguments)
    with pytest.raises(InputError):
        audit_model(net, x * 255, y)


def test_a_transfer_attack_that_wins(trained: tuple[nn.Sequential, Tensor, Tensor]) -> None:
    net, x, y = trained
    target = Then(net, quantised)  # its own gradients are zero, its smooth copy's are not
    findings = audit_model(target, x, y, (PGD(eps=EPS), Transfer(source=net, attack=PGD(eps=EPS), label="smooth-copy")))
    assert any(finding.code == "IG005" and "smooth-copy@0.05" in finding.detail for finding in findings)


# --- the rules on records alone


@pytest.mark.parametrize("attack", [FGS(eps=EPS), AUTOATTACK], ids=lambda attack: attack.name)
def test_growing_budgets_are_checked_whatever_the_attack(attack: Attack, trained: tuple[nn.Sequential, Tensor, Tensor]) -> None:
    net, x, y = trained
    for model, state in ((net, "passed"), (Then(net, quantised), "found")):
        checks = {one.code: one.state for one in examine_model(model, x, y, (attack, Noise(eps=EPS))).checks}
        assert checks["IG007"] == state


def test_records_of_an_outcome_on_part_of_the_samples(trained: tuple[nn.Sequential, Tensor, Tensor]) -> None:
    net, x, y = trained
    wrong = y.clone()
    wrong[0] = (y[0] + 1) % CLASSES
    attack = PGD(eps=EPS)
    frame = outcome_frame(attack(net, x[:40], wrong[:40]))
    made = AttackRecord.of_columns(attack, "pgd@0.05", {c: frame[c] for c in frame.columns}, N)
    assert len(made.success) == N
    assert made.ran.sum() == 39  # not the misclassified one, not those beyond 40
    assert np.isnan(made.distance[40:]).all()
    assert np.array_equal(made.broken_at(EPS), made.success)
    assert not made.broken_at(EPS / 100).any()


def test_every_level_of_a_study_records_what_the_audit_wants_of_clean_samples(trained):
    """So a randomised model and vanishing gradients are found without `audit:` in the study."""
    net, x, y = trained
    samples = Samples(x=x, y=y, classes=CLASSES)
    for model, code in ((net, None), (Noisy(net), "IG004"), (Then(net, quantised), "IG001")):
        frame, metrics = evaluate(model, samples)
        clean = CleanRecord(
            label=frame["label"].to_numpy(),
            prediction=frame["prediction"].to_numpy(),
            margin=frame["margin"].to_numpy(),
            rounding=metrics["rounding"],
            repeat_difference=metrics["repeat_difference"],
            reach=frame["reach"].to_numpy(),
        )
        assert {finding.code for finding in examine_level(LevelInputs(clean=clean)).findings} - {"IG002"} == ({code} if code else set())


def test_logits_that_are_not_finite_somewhere_leave_a_level_that_can_be_stored(trained):
    net, x, y = trained
    broken = Then(net, after=lambda z: torch.where(torch.arange(len(z))[:, None] == 30, torch.nan, z))
    _, metrics = evaluate(broken, Samples(x=x, y=y, classes=CLASSES))
    assert metrics["repeat_difference"] is None
    canonical(metrics)
