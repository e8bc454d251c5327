"""Models as functions of any number of rows, each row's logits its own: batches of one, what depends on the batch, what raises."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from isogrid.attacks import ATTACKS, FGS, PGD, Square
from isogrid.attacks.driver.classifier import Classifier, as_classifier
from isogrid.core.errors import InputError, ModelError
from isogrid.core.random import generator
from isogrid.models import k_winners
from isogrid.sparsity import Dense
from isogrid.training import FitConfig, fit
from tests.attacks.test_laws import quick
from tests.attacks.test_rounding import converging, named

SHAPE = (1, 6, 6)


def x_y(n: int = 12, classes: int = 3) -> tuple[Tensor, Tensor]:
    x = torch.rand(n, *SHAPE, generator=generator(0, "test", "x"))
    return x, torch.arange(n) % classes


def filled(model: nn.Module, scale: float = 1.0) -> nn.Module:
    for i, p in enumerate(model.parameters()):
        p.data.copy_(scale * torch.randn(p.shape, generator=generator(i, "test", "w")) / max(1, p[0].numel()) ** 0.5)
    return model.eval()


class Pooled(nn.Module):
    """Global pooling, and a squeeze of every dimension of size 1, or of the last two only."""

    def __init__(self, dims: tuple[int, ...] | None, classes: int = 3) -> None:
        super().__init__()
        self.conv, self.head, self.dims = nn.Conv2d(1, 5, 3), nn.Linear(5, classes), dims

    def forward(self, x: Tensor) -> Tensor:
        h = nn.functional.adaptive_avg_pool2d(torch.relu(self.conv(x)), 1)
        return self.head(h.squeeze() if self.dims is None else h.squeeze(self.dims))


@pytest.mark.parametrize("attack", [quick(a) for a in map(converging, ATTACKS.values()) if a.name != "callable"], ids=named)
@pytest.mark.parametrize("n", [1, 6])
def test_a_squeeze_of_the_batch_changes_nothing(attack, n):
    careless, careful = filled(Pooled(None)), filled(Pooled((2, 3)))
    x, _ = x_y(n)
    y = careful(x).argmax(1)
    found, expected = attack(careless, x, y), attack(careful, x, y)
    assert torch.allclose(found.x_adv, expected.x_adv, atol=1e-4)
    assert torch.equal(found.success, expected.success)


def test_a_single_output_without_its_dimension_is_one_for_one_row_too():
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(36, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x.flatten(1)).squeeze()

    model = filled(Flat())
    x, y = x_y(classes=2)
    function = as_classifier(model, x, y)
    assert torch.equal(function(x[:1])[0, 1], model(x[:1]))
    assert function(x[:3]).shape == (3, 2)


def test_one_row_that_is_handed_over_twice_has_its_own_gradient():
    model = filled(Pooled(None))
    x, y = x_y()
    leaf = x[:1].clone().requires_grad_()
    as_classifier(model, x, y)(leaf)[0, 1].backward()
    both = x[:2].clone().requires_grad_()
    model(both)[0, 1].backward()
    assert torch.allclose(leaf.grad, both.grad[:1], atol=1e-7)


def test_a_model_of_fixed_batches_is_refused_in_one_line():
    class Eights(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.view(8, -1))

    x, y = x_y(8)
    with pytest.raises(ModelError, match="takes 8 samples, but not one: forward raised RuntimeError") as caught:
        PGD(eps=0.1)(Eights(36, 3), x, y)
    assert "\n" not in str(caught.value)


class Centred(nn.Module):
    """Logits of x minus its mean over `dims`; None: over everything, the batch included."""

    def __init__(self, dims: tuple[int, ...] | None) -> None:
        super().__init__()
        self.fc, self.dims = nn.Linear(36, 3), dims

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean() if self.dims is None else x.mean(self.dims, keepdim=True)
        return self.fc((x - mean).flatten(1))


def convolutional(norm: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


DEPENDENT = {
    "batch norm without statistics": lambda: convolutional(nn.BatchNorm2d(4, track_running_stats=False)),
    "batch norm of vectors": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(36, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.Linear(8, 3)
    ),
    "a mean over everything": lambda: Centred(None),
    "a softmax over the batch": lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 3), nn.Softmax(0)),
    "a sum over the batch": lambda: Scaled(),
    "beside a class that is masked": lambda: Masked(DEPENDENT["batch norm without statistics"]()),
}


class Masked(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pad(self.model(x), (0, 1), value=-1e9)


class Scaled(nn.Linear):
    def __init__(self) -> None:
        super().__init__(36, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(super().forward(x.flatten(1)))
        return h / h.sum()


@pytest.mark.parametrize("n", [1, 2, 8, 20])
@pytest.mark.parametrize("make", DEPENDENT.values(), ids=DEPENDENT)
@pytest.mark.parametrize("scale", [1e-3, 1.0])
def test_logits_that_depend_on_the_rest_of_the_batch_are_refused(make, n, scale):
    x, y = x_y(n)
    model = filled(make(), scale)
    for attack in (FGS(eps=0.1), Square(eps=0.1)):
        with pytest.raises(ModelError, match=r"depend on the other samples of its batch.*accepted: statistics"):
            attack(model, x, y)


def test_training_takes_them_all_the_same():
    x, y = x_y()
    assert fit(filled(DEPENDENT["batch norm without statistics"]()), x, y, FitConfig(epochs=1), seed=0, pruner=Dense()).losses


class Standardised(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return super().forward((x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True))


class Inside(nn.Module):
    """A model that computes in another type than its input's."""

    def __init__(self, model: nn.Module, kind: torch.dtype, out: bool) -> None:
        super().__init__()
        self.model, self.kind, self.out = model.to(kind), kind, out

    def forward(self, x: Tensor) -> Tensor:
        z = self.model(x.to(self.kind))
        return z.to(x.dtype) if self.out else z


class Shifted(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.bfloat16()) + 100


class Autocast(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.model(x)


def deep() -> nn.Module:
    layers = [part for _ in range(8) for part in (nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())]
    net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), *layers, nn.Flatten(), nn.Linear(288, 3)).train()
    with torch.no_grad():
        for _ in range(50):
            net(x_y(32)[0])
    return net.eval()


class Noisy(nn.Module):
    """Draws anew at each pass."""

    def __init__(self, draw) -> None:
        super().__init__()
        self.fc, self.draw = nn.Linear(36, 3), draw

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(1)) + 0.3 * self.draw(len(x))


OWN = torch.Generator().manual_seed(3)
APART = {
    "float32": deep,
    "bfloat16": lambda: Inside(deep(), torch.bfloat16, out=False),
    "bfloat16 inside": lambda: Inside(deep(), torch.bfloat16, out=True),
    "float16 inside": lambda: Inside(filled(Centred((1, 2, 3))), torch.float16, out=True),
    "float64 inside": lambda: Inside(deep(), torch.float64, out=True),
    "bfloat16 beside a class that is masked": lambda: Masked(Inside(deep(), torch.bfloat16, out=True)),
    "bfloat16 far from 0": lambda: Shifted(deep()).to(torch.bfloat16),
    "autocast": lambda: Autocast(deep()),
    "dynamic int8": lambda: torch.ao.quantization.quantize_dynamic(
        nn.Sequential(nn.Flatten(), nn.Linear(36, 32), nn.ReLU(), nn.Linear(32, 3))
    ),
    "k-winners": lambda: k_winners(filled(convolutional(nn.Identity())), 0.1),
    "per-sample mean": lambda: filled(Centred((1, 2, 3))),
    "divided by its own deviation": lambda: filled(Standardised(36, 3)),
    "layer norm": lambda: filled(nn.Sequential(nn.Flatten(), nn.LayerNorm(36), nn.Linear(36, 3))),
    "instance norm": lambda: filled(convolutional(nn.InstanceNorm2d(4))),
    "group norm": lambda: filled(convolutional(nn.GroupNorm(2, 4))),
    "constant": lambda: filled(Centred(None), 0.0),
    "noise of torch": lambda: filled(Noisy(lambda n: torch.randn(n, 3))),
    "noise of numpy": lambda: filled(Noisy(lambda n: torch.from_numpy(np.random.randn(n, 3)).float())),
    "noise of its own": lambda: filled(Noisy(lambda n: torch.randn(n, 3, generator=OWN))),
    "dropout that stays": lambda: filled(nn.Sequential(nn.Flatten(), nn.Linear(36, 3), Always())),
}


class Always(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.5, training=True)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("n", [1, 2, 20])
@pytest.mark.parametrize("make", APART.values(), ids=APART)
def test_rounding_and_noise_are_no_dependence_on_the_batch(make, n):
    x, y = x_y(n)
    torch.manual_seed(0)
    model = make().eval()
    assert as_classifier(model, x, y)(x).shape[0] == n


def test_later_draws_of_a_random_forward_are_those_after_one_pass():
    x, y = x_y()
    model = APART["noise of torch"]()
    torch.manual_seed(0)
    as_classifier(model, x, y)
    after = torch.get_rng_state()
    torch.manual_seed(0)
    model(x[:8])
    assert torch.equal(after, torch.get_rng_state())


class Moody(nn.Linear):
    """Raises at the k-th pass and after."""

    def __init__(self, k: int, error: BaseException) -> None:
        super().__init__(36, 3)
        self.left, self.error = k, error

    def forward(self, x: Tensor) -> Tensor:
        self.left -= 1
        if self.left <= 0:
            raise self.error
        return super().forward(x.flatten(1))


@pytest.mark.parametrize("k", range(1, 30, 3))
def test_what_forward_raises_is_said_in_one_line_whenever_it_does(k):
    model = filled(Moody(10**6, ValueError("first\nsecond")))
    x, _ = x_y()
    y = model(x).argmax(1)
    model.left = k
    with pytest.raises(ModelError, match=r"^model: .*forward raised ValueError on input of shape .*: first") as caught:
        PGD(eps=1e-3, steps=40)(model, x, y)
    assert "second" not in str(caught.value)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), InputError("x", 1, "2")])
def test_interruptions_and_our_own_errors_stay_what_they_are(error):
    model = filled(Moody(10**6, error))
    x, _ = x_y()
    y = model(x).argmax(1)
    model.left = 12
    with pytest.raises(type(error)) as caught:
        PGD(eps=1e-3, steps=40)(model, x, y)
    assert caught.value is error


def test_what_backward_raises_is_said_in_one_line():
    class Breaks(torch.autograd.Function):
        @staticmethod
        def forward(_, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(_, gradient: Tensor) -> Tensor:
            raise NotImplementedError("no way\nback")

    class OneWay(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(Breaks.apply(x.flatten(1)))

    model = filled(OneWay(36, 3))
    x, _ = x_y()
    with pytest.raises(ModelError, match=r"^model: backward raised NotImplementedError: no way$"):
        PGD(eps=0.1)(model, x, model(x).argmax(1))


def test_another_shape_later_on_is_named():
    class Shrinks(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.flatten(1))[: 9 if len(x) > 8 else None]

    x, y = x_y()
    with pytest.raises(ModelError, match=r"gave shape \(9, 3\) for 12 samples"):
        FGS(eps=0.1)(filled(Shrinks(36, 3)), x, y)


def test_a_classifier_can_be_copied():
    x, y = x_y()
    function = as_classifier(filled(Pooled(None)), x, y)
    assert isinstance(function, Classifier)
    assert torch.equal(copy.deepcopy(function)(x), function(x))
