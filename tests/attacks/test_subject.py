"""The weights' order while an attack searches: faster where the model can do it, invisible from outside, and never in the verdict."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from isogrid.attacks import APGDT, PGD
from isogrid.attacks.driver.subject import Layout, prepared
from isogrid.core.random import generator
from tests.attacks.test_driver import Scripted


class Views(nn.Module):
    """A network whose forward pass needs its feature maps in the default order."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4 * 36, 3)

    def forward(self, x):
        return self.head(self.conv(x).view(len(x), -1))


def convolutional():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(20, 3))


@pytest.fixture
def samples():
    x = torch.rand(6, 1, 8, 8, generator=generator(0, "test", "layout"))
    return x, torch.tensor([0, 1, 2, 0, 1, 2])


def fill(model):
    draw = generator(1, "test", "layout")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw) / parameter[0].numel() ** 0.5)
    return model.eval()


def memory(model):
    return [(p.data_ptr(), p.stride()) for p in model.parameters()]


def convolution_strides(model):
    return [m.weight.stride() for m in model.modules() if isinstance(m, nn.Conv2d)]


def test_inside_the_weights_are_in_channels_last_and_outside_in_their_own_memory(samples):
    model = fill(convolutional())
    before, own = memory(model), [p.clone() for p in model.parameters()]
    with Layout(model, model, samples[0]):
        assert convolution_strides(model) == [(9, 1, 3, 1), (36, 1, 12, 4)]
        assert all(torch.equal(p, q) for p, q in zip(model.parameters(), own, strict=True))
    assert memory(model) == before


def test_the_search_sees_the_fast_order_and_the_verifying_pass_does_not(samples):
    model, seen = fill(convolutional()), []
    model.register_forward_pre_hook(lambda module, _: seen.append(convolution_strides(module)[0]))

    def search(problem):
        seen.clear()
        problem.logits(problem.x)
        assert seen == [(9, 1, 3, 1)]
        return problem.x

    Scripted(script=search)(model, samples[0], model(samples[0]).argmax(1))
    assert seen[-1] == (9, 9, 3, 1)


def test_an_attack_that_raises_leaves_the_memory_as_it_was(samples):
    model = fill(convolutional())
    before = memory(model)

    def search(problem):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        Scripted(script=search)(model, samples[0], model(samples[0]).argmax(1))
    assert memory(model) == before


def test_a_model_that_needs_its_own_order_is_attacked_in_it(samples):
    model = fill(Views())
    before = memory(model)
    with Layout(model, model, samples[0]):
        assert memory(model) == before
    out = PGD(eps=0.3, steps=5)(model, samples[0], model(samples[0]).argmax(1))
    assert bool(out.success.any())
    assert memory(model) == before


def test_a_model_whose_answer_depends_on_the_order_is_left_in_its_own(samples):
    class Peeks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = fill(convolutional())

        def forward(self, x):
            return self.inner(x) * (1.0 if self.inner[2].weight.is_contiguous() else 1.5)

    model = Peeks()
    before = memory(model)
    with Layout(model, model, samples[0]):
        assert memory(model) == before


@pytest.mark.parametrize("steps", [3, 10])
def test_the_order_changes_no_verdict(samples, steps):
    x = samples[0]
    own, fast = fill(convolutional()), fill(convolutional()).to(memory_format=torch.channels_last)
    y = own(x).argmax(1)
    one, other = (PGD(eps=0.1, steps=steps, random_start=False)(m, x, y) for m in (own, fast))
    assert torch.equal(one.success, other.success)
    assert torch.allclose(one.margin, other.margin, atol=1e-4)


class Rounds(torch.autograd.Function):
    """A straight-through quantiser whose backward pass calls `view`."""

    @staticmethod
    def forward(ctx, h):
        return (h * 16).round() / 16

    @staticmethod
    def backward(ctx, g):
        return g.view(len(g), -1).clamp(-1, 1).view(g.shape)


class Quantised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3), nn.Linear(144, 3)

    def forward(self, x):
        return self.head(torch.relu(self.b(Rounds.apply(self.a(x)))).flatten(1))


class Instance(nn.Module):
    """Views that a single sample in channels_last allows and two do not."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 3)

    def forward(self, x):
        h = self.conv(x)
        b, c, height, width = h.shape
        return self.head(torch.relu(h.view(b * c, height, width) - 0.1).reshape(b, c, height, width).mean((2, 3)))


@pytest.mark.parametrize("make", [Quantised, Instance])
@pytest.mark.parametrize("n", [1, 6])
def test_what_only_a_backward_pass_or_a_larger_batch_cannot_do_is_seen_too(samples, make, n):
    model, x = fill(make()), samples[0][:n]
    for attack in (PGD(eps=0.1, steps=3), APGDT(eps=0.1, steps=3)):
        assert len(attack(model, x, model(x).argmax(1)).success) == n


def test_small_logits_do_not_hide_a_difference(samples):
    class Tiny(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = fill(convolutional())

        def forward(self, x):
            return 1e-6 * self.inner(x) * (1.0 if self.inner[2].weight.is_contiguous() else 1.5)

    model = Tiny()
    before = memory(model)
    with Layout(model, model, samples[0]):
        assert memory(model) == before


def test_a_subject_is_of_no_use_after_its_block(samples):
    model, x = fill(convolutional()), samples[0]
    with prepared(model, x, model(x).argmax(1), (0.0, 1.0)) as subject:
        PGD(eps=0.1).on(subject)
    with pytest.raises(RuntimeError, match="prepared"):
        PGD(eps=0.1).on(subject)


def test_a_compiled_model_keeps_its_order_and_gives_the_same(samples):
    model, (x, _) = fill(convolutional()), samples
    y, before = model(x).argmax(1), convolution_strides(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(model, backend="eager")
        with prepared(compiled, x, y, (0.0, 1.0)) as subject, subject.layout:
            assert convolution_strides(model) == before
        found = PGD(eps=0.05, steps=3)(compiled, x, y)
    assert torch.allclose(found.x_adv, PGD(eps=0.05, steps=3)(model, x, y).x_adv, atol=1e-6)
