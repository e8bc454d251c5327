"""The laws that every attack must obey, as named checks that a user can run on an attack of their own.

What belongs here: properties that hold for any attack under the driver, whatever its algorithm. What does not: how strong an attack
is (compare it with `exact_distance` or with closed forms), and anything that asks which attack it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor, nn

from isogrid.attacks import Attack
from isogrid.core.errors import InputError, ModelError
from isogrid.core.random import generator
from isogrid.testing.bench import ROWS, SHAPE, fortress, network, randomness, same, samples, take, truthful
from isogrid.testing.law import Law, check, demand, laws


def _rows_alone(attack: Attack) -> None:
    model = network()
    x, y = samples(model)
    ids = torch.arange(100, 100 + ROWS)
    whole = attack(model, x, y, ids=ids)
    order = torch.randperm(ROWS, generator=generator(0, "law order"))
    back = order.argsort()
    same(whole, take(attack(model, x[order], y[order], ids=ids[order]), back), "samples in another order")
    for rows in (torch.arange(0, 7), torch.arange(7, ROWS), torch.tensor([3]), torch.tensor([8])):
        same(take(whole, rows), attack(model, x[rows], y[rows], ids=ids[rows]), f"rows {rows.tolist()} alone")
    _beside_the_unbreakable(attack)


def _beside_the_unbreakable(attack: Attack) -> None:
    """One row among many that nothing breaks: it must not go on for as long as they do."""
    model, x, y = fortress()
    ids = torch.arange(len(y))
    alone, among = attack(model, x[:1], y[:1], ids=ids[:1]), attack(model, x, y, ids=ids)
    same(alone, take(among, torch.tensor([0])), "a row beside unbreakable ones")


def _repeatable(attack: Attack) -> None:
    model = network()
    x, y = samples(model)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        first = attack(model, x, y, seed=3)
        torch.manual_seed(2)
        second = attack(model, x, y, seed=3)
    demand(torch.equal(first.x_adv, second.x_adv), "two runs with one seed differ: randomness from outside `problem.streams`")


def _leaves_model_alone(attack: Attack) -> None:
    n = math.prod(SHAPE)
    model = nn.Sequential(nn.Flatten(), nn.Linear(n, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3))
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=generator(1, "law network", i)))
    model.train()
    model[2].eval()
    parameters = list(model.parameters())
    parameters[0].requires_grad_(False)
    kept = parameters[1].grad = torch.ones_like(parameters[1])
    x, y = samples(model.eval())
    model.train()
    model[2].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    clones = x.clone(), y.clone()
    state = randomness()
    out = attack(model, x, y)
    demand([m.training for m in model] == [True, True, False, True, True, True], "a module's train / eval mode changed")
    demand(model.training, "the model's train / eval mode changed")
    demand([p.requires_grad for p in parameters] == [False] + [True] * (len(parameters) - 1), "a parameter's requires_grad changed")
    demand(parameters[1].grad is kept and bool((kept == 1).all()), "a parameter's .grad changed")
    demand(all(p.grad is None for i, p in enumerate(parameters) if i != 1), "a parameter's .grad was filled")
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    demand(not changed, f"the model's {changed} changed")
    demand(torch.equal(x, clones[0]) and torch.equal(y, clones[1]), "the caller's x or y was changed in place")
    demand(x.grad is None and not x.requires_grad, "the caller's x was made to require a gradient")
    demand(out.x_adv.data_ptr() != x.data_ptr(), "x_adv shares memory with the caller's x")
    demand(state == randomness(), "the global random state (torch, numpy or python) moved")
    demand(torch.is_grad_enabled(), "gradients were left switched off")


def _restores_after_error(attack: Attack) -> None:
    class Raises(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.calls = network(), 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            if self.calls == 7:  # the batch rule, the probe's four passes and the clean pass go through
                raise ZeroDivisionError("law: the model fails in the middle of an attack")
            z: Tensor = self.inner(x)
            return z

    model = Raises().train()
    x, y = samples(model.inner)
    try:
        attack(model, x, y)
    except ModelError as error:
        demand("\n" not in str(error), "an exception of the model is no one line")
    else:
        raise AssertionError("an exception of the model was swallowed")
    demand(model.training and model.inner.training, "the mode was not restored after an exception")
    demand(all(p.requires_grad for p in model.parameters()), "requires_grad was not restored after an exception")


def _truth(attack: Attack) -> None:
    for outputs in (4, 2):
        model = network(outputs=outputs)
        x, y = samples(model)
        truthful(attack, model, x, y, attack(model, x, y))


def _float64(attack: Attack) -> None:
    model = network(torch.float64)
    x, y = samples(model, torch.float64)
    out = attack(model, x, y)
    demand(out.x_adv.dtype == torch.float64, f"x_adv is {out.x_adv.dtype} for float64 samples")
    truthful(attack, model, x, y, out)
    moved = out.x_adv[(out.x_adv != x) & (out.x_adv > 0) & (out.x_adv < 1)]
    demand(
        not len(moved) or bool((moved.float() != moved).any()), "float64 samples were searched in float32: every element that moved fits it"
    )


def _tables(attack: Attack) -> None:
    model = network()[1:]
    x, y = samples(network())
    x = x.flatten(1)
    truthful(attack, model, x, y, attack(model, x, y))


def _row_budgets(attack: Attack) -> None:
    if attack.budget is None:
        return
    model = network()
    x, y = samples(model)
    budget = attack.budget * torch.linspace(0, 1.5, ROWS)
    out = attack(model, x, y, budget=budget)
    truthful(attack, model, x, y, out, budget)
    if "eps" not in attack.__dataclass_fields__:
        return
    for share in (0.3, 1.5):
        rows = attack.budget * share
        mixed = attack(model, x, y, budget=torch.where(torch.arange(ROWS) % 2 == 0, rows, 0.1 * rows))
        alike = replace(attack, eps=rows)(model, x, y)  # type: ignore[call-arg]
        even = torch.arange(0, ROWS, 2)
        same(take(mixed, even), take(alike, even), f"a budget per row of {rows:g} against eps = {rows:g}")


class _Affine(nn.Module):
    """Logits x.flatten(1) @ W + b, so that a zero W still has a graph."""

    def __init__(self, W: Tensor, b: Tensor) -> None:
        super().__init__()
        self.W, self.b = nn.Parameter(W), nn.Parameter(b)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.W + self.b


def _honest_failure(attack: Attack) -> None:
    model = _Affine(torch.zeros(math.prod(SHAPE), 3), torch.tensor([1.0, 0.0, 0.0]))
    x, _ = samples(network())
    y = torch.arange(ROWS) % 3
    out = attack(model, x, y)
    demand(not bool(out.success.any()), "success against a model whose prediction never changes")
    right = y == 0
    demand(bool(torch.isinf(out.distance[right]).all()), f"a failure must have distance inf, got {out.distance[right].tolist()}")
    demand(bool((out.distance[~right] == 0).all()), "a sample misclassified from the start must have distance 0")
    demand(bool((out.failed == right).all()), "the failures are not counted")
    demand(bool(torch.isfinite(out.x_adv).all()), "x_adv holds NaN or infinite values where the gradient is zero")


def _zero_gradients(attack: Attack) -> None:
    class HalfDead(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            live = (x.flatten(1).mean(1) - 0.5).relu()
            return torch.stack([0.1 + 0 * live, live], 1)

    x, _ = samples(network())
    dead = torch.arange(ROWS) % 2 == 0
    x = torch.where(dead[:, None, None, None], 0.05 + 0.1 * x, 0.85 + 0.1 * x)
    out = attack(HalfDead(), x, (~dead).long())
    if attack.gradient_free:
        demand(not bool(out.zero_gradient.any()), "a gradient-free attack reports zero gradients")
        return
    demand(bool(out.zero_gradient[dead].all()), "samples whose loss gradient is exactly zero are not counted as zero_gradient")
    demand(not bool(out.zero_gradient[~dead].any()), "samples with a gradient are counted as zero_gradient")


def _broken_gradients(attack: Attack) -> None:
    class Edge(nn.Module):
        """A network that does not see its first pixel; `broken`: and has no derivative there."""

        def __init__(self, broken: bool) -> None:
            super().__init__()
            self.net, self.broken = network(), broken

        def forward(self, x: Tensor) -> Tensor:
            first, rest = x.flatten(1)[:, :1], x.flatten(1)[:, 1:]
            z: Tensor = self.net(torch.cat([0 * first, rest], 1).view_as(x))
            return z + (0 * first).sqrt() if self.broken else z

    whole, broken = Edge(broken=False), Edge(broken=True)
    x, y = samples(whole)
    left, right = attack(whole, x, y, seed=3), attack(broken, x, y, seed=3)
    demand(torch.equal(left.x_adv, right.x_adv), "a pixel without a derivative changes more than one whose derivative is 0")
    demand(not bool(left.broken_gradient.any()), "finite gradients are counted as broken_gradient")
    demand(bool((right.broken_gradient == (right.backwards > 0)).all()), "gradients that are not finite are not counted")


def _no_grad_callers(attack: Attack) -> None:
    model = network()
    x, y = samples(model)
    with torch.no_grad():
        inside = attack(model, x, y)
        demand(not torch.is_grad_enabled(), "gradients were switched on for the caller")
    demand(torch.equal(inside.x_adv, attack(model, x, y).x_adv), "the result depends on the caller's gradient mode")


def _single_logit(attack: Attack) -> None:
    class Padded(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.pad(self.inner(x), (1, 0))

    single = network(outputs=1)
    x, y = samples(single)
    out = attack(single, x, y)
    truthful(attack, single, x, y, out)
    same(out, attack(Padded(single), x, y), "a single logit z against the logits (0, z)")


def _no_graph(attack: Attack) -> None:
    if not attack.gradient_free:
        return

    class Stairs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                z: Tensor = self.inner((x * 256).round() / 256)
                return z

    model = Stairs()
    x, y = samples(model)
    truthful(attack, model, x, y, attack(model, x, y))


def _finds(attack: Attack) -> None:
    reach = 0.01 * (1.0 if attack.budget is None else min(attack.budget, 10.0))
    W = torch.randn(math.prod(SHAPE), generator=generator(0, "law linear"))
    unit = W / W.norm()
    along = 0.4 * torch.rand(ROWS, len(W), generator=generator(0, "law interior")) - 0.2
    along -= (along @ unit)[:, None] * unit
    side = torch.where(torch.arange(ROWS) % 2 == 0, 1.0, -1.0)
    x = 0.5 + along + reach * side[:, None] * unit  # at l2 distance `reach` from the plane W.(x - 0.5) = 0
    model = _Affine(W[:, None], -0.5 * W.sum().reshape(1))
    out = attack(model, x.view(-1, *SHAPE), (side > 0).long())
    share, least = float(out.success.double().mean()), 0.25 if attack.gradient_free else 0.9
    demand(share >= least, f"breaks {share:.0%} of samples that lie within 1 % of its budget of a linear boundary, not {least:.0%}")


def _rejects(attack: Attack) -> None:
    model = network()
    x, y = samples(model)

    class NaN(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :3] * math.nan

    hole = x.clone()
    hole[0, 0, 0, 0] = math.nan
    unusable: list[tuple[str, nn.Module, Tensor, Tensor]] = [
        ("NaN in x", model, hole, y),
        ("x outside [0, 1]", model, x * 255, y),
        ("integer x", model, (x * 255).long(), y),
        ("no samples", model, x[:0], y[:0]),
        ("one label too few", model, x, y[1:]),
        ("floating-point labels", model, x, y.float()),
        ("a label without a logit", model, x, torch.full_like(y, 4)),
        ("a negative label", model, x, torch.full_like(y, -1)),
        ("a model that returns NaN", NaN(), x, y % 3),
        ("a model of another input shape", nn.Sequential(nn.Flatten(), nn.Linear(7, 4)), x, y),
    ]
    for what, given, inputs, labels in unusable:
        try:
            attack(given, inputs, labels)
        except (InputError, ModelError):
            continue
        raise AssertionError(f"{what} was accepted")


ATTACK_LAWS: Final[dict[str, Law[Attack]]] = laws(
    ("truth", "every field of the outcome is what an independent evaluation and measurement give; inside box and ball", _truth),
    ("finds", "samples next to a linear boundary are broken", _finds),
    ("rows_alone", "a sample's result does not depend on its neighbours in the batch or on the order", _rows_alone),
    ("repeatable", "one seed gives one result, bit for bit, whatever the global random state", _repeatable),
    ("leaves_alone", "the model, the caller's x and y and the global randomness are untouched", _leaves_model_alone),
    ("restores_after_error", "the model is restored when its forward raises in the middle", _restores_after_error),
    ("honest_failure", "a model that cannot be broken gives failures at distance inf, never 0, never a success", _honest_failure),
    ("broken_gradients", "a component of a gradient that is not finite counts as 0, and is said", _broken_gradients),
    ("zero_gradients", "samples with an exactly zero loss gradient are counted, and no others", _zero_gradients),
    ("row_budgets", "a budget per row is obeyed, zero included", _row_budgets),
    ("no_grad_callers", "the caller's gradient mode changes nothing", _no_grad_callers),
    ("float64", "float64 samples and models are attacked in float64", _float64),
    ("tables", "samples may be plain vectors", _tables),
    ("single_logit", "a single output z is treated as the logits (0, z)", _single_logit),
    ("no_graph", "an attack that says it needs no gradient runs where there is none", _no_graph),
    ("rejects", "unusable samples, labels and models raise InputError or ModelError", _rejects),
)


def check_attack(attack: Attack, laws: Iterable[str] | None = None) -> None:
    """Run the laws (all, or those named) on an attack; raise one AssertionError that lists every law that it breaks, and how.

    >>> from isogrid.attacks import FGS
    >>> check_attack(FGS(eps=0.1), ["truth", "honest_failure"])
    """
    check(attack, ATTACK_LAWS, laws)
