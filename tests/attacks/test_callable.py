"""Anybody's attack under our driver: recipes with the real libraries, and callables that lie, leak, raise or misbehave."""

from __future__ import annotations

import contextlib
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from isogrid.attacks import PGD, DeepFool, Wrapped, config_of, make
from isogrid.core.errors import InputError, ModelError
from isogrid.core.files import canonical
from isogrid.core.norms import norm

RECIPES = Path(__file__).parents[2] / "docs" / "recipes.md"


def network() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 5))
    x = torch.rand(32, 1, 8, 8) * 0.8 + 0.1
    with torch.no_grad():  # several classes, and logits of a trained network's size: C&W with one fixed constant needs them
        model[3].weight.mul_(20)
        model[3].bias.copy_(-(model[2](model[1](model[0](x))) @ model[3].weight.T).mean(0))
    return model, x, model(x).argmax(1)


def sign_step(model: nn.Module, x: Tensor, y: Tensor, eps: float = 0.1) -> Tensor:
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(x.requires_grad_()), y), x)
    return x + eps * gradient.sign()


@pytest.mark.parametrize(
    ("title", "package", "name", "norm", "eps"),
    [
        ("Foolbox", "foolbox", "foolbox_deepfool", "l2", None),
        ("Foolbox", "foolbox", "foolbox_pgd", "linf", 0.01),
        ("Adversarial Robustness Toolbox (ART)", "art", "art_pgd", "linf", 0.01),
        ("torchattacks", "torchattacks", "torchattacks_pgd", "linf", 0.01),
        ("torchattacks", "torchattacks", "torchattacks_cw", "l2", None),
    ],
)
def test_recipe(
    title: str,
    package: str,
    name: str,
    norm: str,
    eps: float | None,
    tmp_path: Path,
    recipe: Callable[..., str],
    peer: Callable[[str], None],
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other people's imports and deprecations
        peer(package)
        file = tmp_path / "my_attacks.py"
        file.write_text(recipe(title))
        config = {"name": "callable", "target": f"{file}:{name}", "norm": norm, "label": name} | ({} if eps is None else {"eps": eps})
        model, x, y = network()
        states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
        out = make(config)(model.train(), x, y)
        assert torch.equal(torch.get_rng_state(), states[0])
        assert np.random.get_state()[1].tolist() == states[1]
        assert random.getstate() == states[2]
    assert model.training
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    model.eval()
    assert torch.equal(out.success, model(out.x_adv).argmax(1) != y)
    assert int(out.forwards.min()) > 1
    assert int(out.backwards.min()) > 1
    if eps is None:
        ours = DeepFool()(model, x, y)
        both = out.success & ours.success
        assert both.sum() >= 24
        assert 0.7 < (out.distance[both].mean() / ours.distance[both].mean()).item() < 1.4
    else:
        ours = PGD(eps=eps)(model, x, y)
        assert (out.distance[out.success] <= eps * (1 + 1e-5) + 1e-6).all()
        assert abs(int(out.success.sum()) - int(ours.success.sum())) <= 2
        assert 4 < int(ours.success.sum()) < 32  # the comparison says something


def test_the_python_recipe(recipe: Callable[..., str]) -> None:
    scope: dict[str, Any] = {}
    exec(recipe("In Python"), scope)
    model, x, y = network()
    out = scope["attack"](model, x, y)
    assert (out.distance[out.success] <= 0.1 + 1e-5).all()
    assert (out.forwards == 0).all()  # it never asked the model


def test_config_round_trip_and_a_changed_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def attack(model, x, y):\n    return x\n")
    config = config_of(make({"name": "callable", "target": f"{file}:attack"}))
    canonical(config)  # a task's key can be made of it
    assert make(config) == make({"name": "callable", "target": f"{file}:attack"})
    file.write_text("def attack(model, x, y):\n    return 1 - x\n")
    fresh = config_of(make({"name": "callable", "target": f"{file}:attack"}))
    assert fresh["digest"] != config["digest"]
    with pytest.raises(InputError, match="digest"):
        make(config)
    model, x, y = network()
    assert not torch.equal(make(fresh)(model, x, y).x_adv, x)  # the new text runs, not a cached module


@pytest.mark.parametrize(
    "definition", ["attack = functools.partial(step, size=1)", "attack = Step()", "attack = step", "attack = Step().__call__"]
)
def test_whatever_kind_of_callable_a_target_is_its_file_is_digested(definition: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    text = "import functools\ndef step(model, x, y, size=0):\n    return x\nclass Step:\n    __call__ = lambda self, m, x, y: x\n"
    file.write_text(text + definition)
    before = make({"name": "callable", "target": f"{file}:attack"}).digest
    file.write_text(text + definition + "\n# changed\n")
    assert "" != before != make({"name": "callable", "target": f"{file}:attack"}).digest
    assert Wrapped(target="isogrid.core.norms:norm").digest == Wrapped(function=norm).digest != ""


def test_agrees_with_our_own_step() -> None:
    model, x, y = network()
    ours = make({"name": "fgs", "eps": 0.05})(model, x, y)
    theirs = Wrapped(function=sign_step, norm="linf", eps=0.05)(model, x, y)
    torch.testing.assert_close(ours.x_adv, theirs.x_adv)
    assert torch.equal(ours.success, theirs.success)
    assert (theirs.forwards == 1).all()
    assert (theirs.backwards == 1).all()


def test_eps_follows_the_budget_given() -> None:
    model, x, y = network()
    out = Wrapped(function=sign_step, norm="linf", eps=0.05)(model, x, y, budget=torch.full((32,), 0.2))
    assert (out.x_adv - x).abs().max().item() == pytest.approx(0.2, abs=1e-6)


def test_rows_of_different_budgets_get_their_own() -> None:
    model, x, y = network()
    told = []

    def step(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
        told.append((len(x), round(eps, 3)))
        return sign_step(model, x, y, eps)

    budget = torch.tensor([0.1, 0.2, 0.0, 0.1]).repeat(8)
    attack = Wrapped(function=step, norm="linf", eps=0.05)
    out = attack(model, x, y, budget=budget)
    assert told == [(16, 0.1), (8, 0.2)]  # at radius 0 there is nothing to ask for
    torch.testing.assert_close((out.x_adv - x).flatten(1).abs().amax(1), budget)
    assert out.forwards.tolist() == [1, 1, 0, 1] * 8
    for row in (0, 1, 2):
        alone = attack(model, x[row : row + 1], y[row : row + 1], budget=budget[row : row + 1], ids=torch.tensor([row]))
        torch.testing.assert_close(alone.x_adv[0], out.x_adv[row])


@pytest.mark.parametrize(
    ("function", "what"),
    [
        (lambda model, x, y: x, "returns the clean sample"),
        (lambda model, x, y: torch.full_like(x, torch.nan), "returns NaN"),
        (lambda model, x, y: 1 - x, "leaves the ball"),
    ],
)
def test_lies_are_failures(function: Callable[..., Any], what: str) -> None:
    model, x, y = network()
    out = Wrapped(function=function, norm="linf", eps=0.01)(model, x, y)
    assert not out.success.any(), what
    assert torch.isinf(out.distance).all()
    assert torch.isfinite(out.x_adv).all()


def test_candidates_outside_the_box_are_clipped() -> None:
    model, x, y = network()
    out = Wrapped(function=lambda model, x, y: 10 * torch.ones_like(x), norm="l2")(model, x, y)
    assert torch.equal(out.x_adv, torch.ones_like(x))


def test_a_peer_that_breaks_everything_breaks_nothing() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))
    x = torch.rand(16, 6)
    model.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    y = clean = model(x).argmax(1)
    called = []

    def vandal(seen: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        called.append(len(x))
        seen.train()
        for parameter in seen.parameters():
            parameter.requires_grad_(True)
        seen(x).sum().backward()  # moves the running statistics, fills gradients
        with torch.no_grad():
            for parameter in seen.parameters():
                parameter.mul_(-3)
        x.zero_()
        y.fill_(1)
        return x + torch.rand_like(x)

    kept = x.clone()
    out = Wrapped(function=vandal)(model, x, y)
    assert called == [16]
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(m.training for m in model.modules())
    assert torch.equal(x, kept)
    assert torch.equal(out.clean, clean)
    assert torch.equal(out.adversarial, model(out.x_adv).argmax(1))  # judged in eval mode, on the model's own weights


def flips_a_hook(seen: Any) -> None:
    seen.register_forward_hook(lambda module, inputs, output: -output)


def replaces_a_parameter(seen: Any) -> None:
    seen[0].weight = nn.Parameter(-seen[0].weight.detach())


def replaces_a_layer(seen: Any) -> None:
    seen[2] = nn.Linear(8, 2)


def adds_a_layer(seen: Any) -> None:
    seen.append(nn.Linear(2, 2))


def reshapes_its_data(seen: Any) -> None:
    seen[2].weight.data = torch.zeros(5, 5)


VANDALS = (flips_a_hook, replaces_a_parameter, replaces_a_layer, adds_a_layer, reshapes_its_data, lambda seen: seen.double())


@pytest.mark.parametrize("outputs", [2, 1])
@pytest.mark.parametrize("vandal", VANDALS)
def test_a_peer_that_rebuilds_its_model_does_not_reach_the_one_that_judges(vandal: Callable[[Any], None], outputs: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, outputs))
    x = torch.rand(16, 6)
    before, parts = {name: value.clone() for name, value in model.state_dict().items()}, list(model.modules())
    z = model(x).detach()
    called = []

    def attack(seen: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        called.append(len(x))
        parts = [*seen.modules(), *(cell.cell_contents for cell in getattr(seen.model, "__closure__", None) or ())]
        vandal(next(part for part in parts if isinstance(part, nn.Sequential)))
        return x

    y = z.argmax(1) if outputs == 2 else (z.squeeze(1) > 0).long()
    out = Wrapped(function=attack)(model, x, y)
    assert called == [16]
    assert not out.success.any()
    assert list(model.modules()) == parts
    assert {name: value.tolist() for name, value in model.state_dict().items()} == {name: v.tolist() for name, v in before.items()}
    assert torch.equal(model(x), z)


def test_a_model_that_cannot_be_copied_is_restored_as_far_as_possible() -> None:
    class Single(nn.Linear):
        def __deepcopy__(self, memo: object) -> object:
            raise TypeError("one of its kind")

    model, x = Single(6, 2), torch.rand(4, 6)
    before = model.weight.detach().clone()

    def attack(seen: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            for parameter in seen.parameters():
                parameter.mul_(-1)
        return x

    assert not Wrapped(function=attack)(model, x, model(x).argmax(1)).success.any()
    assert torch.equal(model.weight, before)


def test_random_callables_repeat() -> None:
    model, x, y = network()
    attack = Wrapped(function=lambda model, x, y: x + torch.randn_like(x) + np.random.rand() + random.random())
    a, b, c = (attack(model, x, y, seed=s) for s in (0, 0, 1))
    assert torch.equal(a.x_adv, b.x_adv)
    assert not torch.equal(a.x_adv, c.x_adv)


def test_a_generator_seeded_from_the_global_state_repeats() -> None:
    """What docs/recipes.md recommends for numpy's own generators, which no global seed reaches."""
    model, x, y = network()

    def draw(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return x + torch.from_numpy(np.random.default_rng(np.random.randint(2**31)).normal(size=x.shape)).float()

    a, b, c = (Wrapped(function=draw)(model, x, y, seed=s) for s in (0, 0, 1))
    assert torch.equal(a.x_adv, b.x_adv)
    assert not torch.equal(a.x_adv, c.x_adv)
    assert "np.random.default_rng(np.random.randint(2**31))" in RECIPES.read_text(encoding="utf-8")


def test_the_default_dtype_is_restored() -> None:
    model, x, y = network()

    def attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        torch.set_default_dtype(torch.float64)
        return x

    Wrapped(function=attack)(model, x, y)
    assert torch.get_default_dtype() == torch.float32


def test_single_logit_models_look_like_two_classes() -> None:
    seen = []

    def look(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        seen.append(model(x).shape)
        assert isinstance(model, nn.Module)
        return x

    model = nn.Linear(3, 1)
    x = torch.rand(4, 3)
    Wrapped(function=look)(model, x, (model(x).squeeze(1) > 0).long())
    assert seen == [(4, 2)]


def own_error_after(call: Callable[[], Any]) -> None:
    with contextlib.suppress(Exception):
        call()
    raise ValueError("my own")


@pytest.mark.parametrize(
    "strange",
    [lambda a: a[..., ::-1], lambda a: np.asfortranarray(a), lambda a: np.broadcast_to(a[:1], a.shape), lambda a: a.astype(np.float16)],
)
def test_arrays_of_any_layout_are_taken(strange: Callable[[np.ndarray], np.ndarray]) -> None:
    model, x, y = network()
    out = Wrapped(function=lambda model, x, y: strange(x.numpy()), norm="l2")(model, x, y)
    assert torch.equal(out.x_adv, torch.from_numpy(strange(x.numpy()).copy()).float())


def test_the_models_own_error_is_not_blamed_on_the_peer() -> None:
    class Moody(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            if len(x) == 3:
                raise ZeroDivisionError("mine")
            return super().forward(x)

    model, x = Moody(6, 2), torch.rand(8, 6)
    with pytest.raises(ModelError, match=r"raised ZeroDivisionError.*mine"):
        Wrapped(function=lambda model, x, y: model(x[:3]))(model, x, model(x).argmax(1))
    with pytest.raises(InputError, match="attack callable: got ValueError: my own"):
        Wrapped(function=lambda model, x, y: own_error_after(lambda: model(x[:3])))(model, x, model(x).argmax(1))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda model, x, y: None, "NoneType"),
        (lambda model, x, y: x[:1], r"shape \(1, 1, 8, 8\); accepted: one tensor x_adv of shape \(32, 1, 8, 8\)"),
        (lambda model, x, y: 1 / 0, "ZeroDivisionError"),
        (lambda model: model, "TypeError"),
        (lambda model, x, y: np.array([None] * x.numel()).reshape(x.shape), "object"),
        (lambda model, x, y: x.to(torch.complex64), "complex64"),
        (lambda model, x, y: x.tolist(), "list"),
        (lambda model, x, y: model(x[..., :3]), "RuntimeError"),
        (lambda model, x, y: model(x.numpy()), "TypeError"),
        (lambda model, x, y: model(x.double()), "RuntimeError"),
        (lambda model, x, y: own_error_after(lambda: model(x[..., :3])), "ValueError: my own"),
        (lambda model, x, y: own_error_after(lambda: model(None)), "ValueError: my own"),
    ],
)
def test_unusable_functions_end_in_one_line(function: Callable[..., Any], message: str) -> None:
    model, x, y = network()
    with pytest.raises(InputError, match=message) as caught:
        Wrapped(function=function, label="mine")(model, x, y)
    assert str(caught.value).startswith("attack mine:")
    assert "\n" not in str(caught.value)
    assert model.training


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"target": "no_colon"},
        {"target": "nowhere.py:attack"},
        {"target": "no.such.module:attack"},
        {"target": "math:pi"},
        {"target": "math:hypott"},
        {"target": "math:hypot", "norm": "l1"},
        {"target": "math:hypot", "eps": -1},
        {"target": "math:hypot", "eps": "wide"},
        {"target": "math:hypot", "function": sign_step},
        {"target": "math:hypot", "steps": 3},
    ],
)
def test_bad_specifications(config: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        make({"name": "callable"} | config)


def test_a_file_that_raises(tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text("raise RuntimeError('first line\\nsecond line')\n")
    with pytest.raises(InputError, match="RuntimeError") as caught:
        Wrapped(target=f"{file}:attack")
    assert "\n" not in str(caught.value)
