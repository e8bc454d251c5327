"""Users' factories, weights and exported programs: what is accepted behaves, the rest ends in one line."""

from __future__ import annotations

import contextlib
import pickle
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.export import Dim

from isogrid.attacks import FGS
from isogrid.attacks.callable import Wrapped
from isogrid.attacks.driver.base import batch_rows
from isogrid.core.errors import InputError, ModelError
from isogrid.core.files import save_tensors
from isogrid.core.random import generator
from isogrid.models import build, load_weights, open_model, source_digest

FACTORIES = """
import torch
from torch import nn
SHARED = nn.Linear(4, 3)
def plain(): return nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
def told(shape, *, classes, width=5): return nn.Sequential(nn.Flatten(), nn.Linear(shape[0], width), nn.Linear(width, classes))
def keywords(**settings): assert not settings; return nn.Linear(4, 3)
def shared(): return SHARED
def raises(): raise RuntimeError("two\\nlines")
def nothing(): return None
def wants(width): return nn.Linear(width, 3)
class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.fc = nn.Linear(4, classes)
    def forward(self, x): return self.fc(x)
"""


@pytest.fixture
def factory(tmp_path):
    (tmp_path / "nets.py").write_text(FACTORIES)
    return lambda name: f"{tmp_path / 'nets.py'}:{name}"


@pytest.mark.parametrize("name", ["plain", "told", "keywords", "shared", "Net"])
def test_factories_get_shape_and_classes_where_they_ask(factory, name):
    model = build(factory(name), (4,), 3)
    assert model(torch.zeros(2, 4)).shape == (2, 3)


def test_a_factory_is_seeded_and_leaves_the_global_state(factory):
    state = torch.get_rng_state()
    one, again, other = (build(factory("plain"), (4,), 3, seed)[1].weight for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(state, torch.get_rng_state())


def test_a_factory_that_hands_out_one_object_does_not_make_models_share_weights(factory):
    one, two = build(factory("shared"), (4,), 3), build(factory("shared"), (4,), 3)
    assert one.weight.data_ptr() != two.weight.data_ptr()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("raises", "raised RuntimeError: two lines"),
        ("nothing", "returned None"),
        ("wants", "whose parameter width"),
        ("SHARED", "a function or class"),
        ("plane", "did you mean"),
    ],
)
def test_unusable_factories_end_in_one_line(factory, name, said):
    with pytest.raises(InputError, match=said) as caught:
        build(factory(name), (4,), 3)
    assert caught.value.field == "model"
    assert "\n" not in str(caught.value)


LAZY = """
import random
import numpy as np
import torch
from torch import nn
from torch.nn.utils import prune
torch.set_default_dtype(torch.float64)
torch.set_default_dtype(torch.float32)
def lazy(): return nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.Dropout(), nn.LazyLinear(3)).train()
def wrong(): return nn.Sequential(nn.Linear(7, 7), nn.LazyLinear(3))
def unused():
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    model.forward, model.rest = model[1].forward, nn.LazyLinear(3)
    return model
def meta():
    with torch.device("meta"):
        return nn.Linear(36, 3)
def old_weight_norm(): return nn.Sequential(nn.Flatten(), nn.utils.weight_norm(nn.Linear(36, 3)))
def pruned():
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    prune.l1_unstructured(model[1], "weight", 0.5)
    prune.random_unstructured(model[1], "weight", 0.1)
    return model
def pruned_bias():
    return prune.random_unstructured(nn.Linear(36, 3), "bias", 1)
def old_spectral_norm():
    model = nn.Sequential(nn.Flatten(), nn.utils.spectral_norm(nn.Linear(36, 3)))
    model(torch.rand(1, 36))
    return model
def kept():
    model = nn.Linear(36, 3)
    model.square = model.weight**2
    return model
def leaves():
    torch.set_default_dtype(torch.float64)
    return nn.Linear(4, 3)
def drawn():
    model = nn.Linear(4, 3, dtype=torch.float32)
    model.weight.data[0, :2] = torch.tensor([random.random(), np.random.rand()])
    return model
def ends(): raise SystemExit(3)
"""


@pytest.fixture
def lazy(tmp_path):
    (tmp_path / "lazy.py").write_text(LAZY)
    return lambda name, shape=(1, 6, 6), seed=0: build(f"{tmp_path / 'lazy.py'}:{name}", shape, 3, seed)


def test_lazy_layers_are_given_their_weights_by_the_seed(lazy):
    one, again, other = lazy("lazy"), lazy("lazy"), lazy("lazy", seed=1)
    assert [tuple(p.shape) for p in one.parameters()] == [(4, 1, 3, 3), (4,), (4,), (4,), (3, 64), (3,)]
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), again.state_dict().values(), strict=True))
    assert not torch.equal(one[4].weight, other[4].weight)
    assert one.training
    assert all(module.training for module in one.modules())
    assert one[1].running_mean.abs().max() == 0
    assert one[1].num_batches_tracked == 0
    assert type(one[4]) is nn.Linear


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("wrong", r"lazy layers that take samples of shape \(1, 6, 6\)"),
        ("unused", r"whose rest\.weight has no values"),
        ("meta", r"whose weight has no values"),
        ("old_weight_norm", r"1\.weight is computed from others; .*parametrizations\.weight_norm"),
        ("old_spectral_norm", r"1\.weight is computed from others; .*parametrizations\.spectral_norm"),
        ("pruned", r"1\.weight is computed from others; torch\.nn\.utils\.prune\.remove\(layer, 'weight'\)"),
        ("pruned_bias", r"bias is computed from others; torch\.nn\.utils\.prune\.remove\(layer, 'bias'\)"),
        ("kept", r"square is computed from others; compute it in forward"),
        ("ends", "SystemExit"),
    ],
)
def test_networks_without_values_or_that_cannot_be_copied_are_refused(lazy, name, said):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # weight_norm's older form is deprecated
        with pytest.raises(InputError, match=said) as caught:
            lazy(name, (36,) if name in ("unused", "meta", "pruned_bias", "kept") else (1, 6, 6))
    assert caught.value.field == "model"
    assert "\n" not in str(caught.value)


def test_a_factory_leaves_no_global_setting_and_its_draws_are_the_seeds(lazy):
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    one, again, other = (lazy("drawn", (4,), seed).weight for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert (one != other)[0, :2].all()
    lazy("leaves", (4,))
    assert torch.get_default_dtype() is torch.float32
    assert torch.equal(states[0], torch.get_rng_state())
    assert (states[1] == np.random.get_state()[1]).all()
    assert states[2] == random.getstate()


def test_built_in_networks_are_of_single_precision_whatever_the_default():
    expected = build("lenet-300-100", (8,), 3)
    torch.set_default_dtype(torch.float64)
    try:
        found = build("lenet-300-100", (8,), 3)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(a, b) and b.dtype is torch.float32 for a, b in zip(expected.parameters(), found.parameters(), strict=True))


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ((None, (4,), 3), "model"), ((3, (4,), 3), "model"), (("linear", 4, 3), "shape"), (("linear", (), 3), "shape"),
        (("linear", (4.5,), 3), "shape"), (("linear", (0,), 3), "shape"), (("linear", "44", 3), "shape"),
        (("linear", (4,), 3.5), "classes"),
        (("linear", (4,), 1), "classes"), (("linear", (4,), None), "classes"), (("linear", (4,), 3, "x"), "seed"),
        (("linear", (4,), 3, 0.5), "seed"),
    ],
)  # fmt: skip
def test_arguments_of_wrong_types_are_refused(arguments, field):
    with pytest.raises(InputError) as caught:
        build(*arguments)
    assert caught.value.field == field


def test_sizes_of_numpy_and_torch_are_sizes():
    made = build("linear", torch.zeros(1, 2, 3).shape[1:], np.int64(4), torch.tensor(5))
    assert torch.equal(made[1].weight, build("linear", (2, 3), 4, 5)[1].weight)


def test_unknown_names_get_the_nearest():
    with pytest.raises(InputError, match=r"did you mean lenet-5\?"):
        build("lenet5", (1, 28, 28), 10)
    with pytest.raises(InputError, match=r"readable \.py file"):
        build("nowhere.py:net", (4,), 3)
    with pytest.raises(InputError, match="no layers to train"):
        build("program.pt2", (4,), 3)


def test_the_source_digest_follows_the_file(factory, tmp_path):
    before = source_digest(factory("plain"))
    (tmp_path / "nets.py").write_text(FACTORIES + "\n")
    assert len(before) == 16
    assert source_digest(factory("plain")) not in ("", before)
    assert source_digest("lenet-5") == ""
    assert len(source_digest("torch.nn:Linear")) == 16
    assert source_digest("no.such:thing") == ""


@pytest.fixture
def net():
    return build("lenet-300-100", (8,), 3, seed=1)


def test_weights_come_back_bit_by_bit(tmp_path, net):
    save_tensors(tmp_path / "w.safetensors", net.state_dict())
    torch.save(net.state_dict(), tmp_path / "w.pt")
    torch.save({"state_dict": net.state_dict(), "epoch": 3}, tmp_path / "checkpoint.pth")
    for name in ("w.safetensors", "w.pt", "checkpoint.pth"):
        other = build("lenet-300-100", (8,), 3, seed=2)
        load_weights(other, tmp_path / name)
        assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


def test_a_tied_weight_may_be_stored_once(tmp_path):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    safetensors.torch.save_model(model, str(tmp_path / "w.safetensors"))
    other = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    other[1].weight = other[0].weight
    load_weights(other, tmp_path / "w.safetensors")
    assert torch.equal(other[1].weight, model[0].weight)


class Harmful:
    ran = False

    def __reduce__(self):
        return setattr, (Harmful, "ran", True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: {k: v for k, v in w.items() if k != "1.weight"}, r"without 1\.weight"),
        (lambda w: w | {"9.weight": torch.zeros(1)}, r"unknown 9\.weight"),
        (lambda w: w | {"1.weight": torch.zeros(300, 9)}, r"1\.weight of shape \(300, 9\)"),
        (lambda w: w | {"1.bias": torch.zeros(300, dtype=torch.int64)}, r"1\.bias of torch\.int64"),
        (lambda w: w | {"5.bias": torch.full((3,), torch.nan)}, r"5\.bias with NaN"),
    ],
)
def test_weights_that_do_not_fit_change_nothing(tmp_path, net, change, said):
    save_tensors(tmp_path / "w.safetensors", change(dict(net.state_dict())))
    before = [p.clone() for p in net.parameters()]
    with pytest.raises(InputError, match=said) as caught:
        load_weights(net, tmp_path / "w.safetensors")
    assert caught.value.field == "weights"
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_nothing_is_unpickled(tmp_path, net):
    for name in ("harm.pt", "harm.safetensors", "harm.pt2", "harm.ts"):
        (tmp_path / name).write_bytes(pickle.dumps({"1.weight": Harmful()}))
    torch.save({"1.weight": Harmful()}, tmp_path / "saved.pt")
    torch.save(net, tmp_path / "module.pt")
    for name in ("harm.pt", "harm.safetensors", "saved.pt", "module.pt", "none.safetensors"):
        with pytest.raises(InputError) as caught:
            load_weights(net, tmp_path / name)
        assert caught.value.field == "weights"
        assert "\n" not in str(caught.value)
    for name in ("harm.pt2", "harm.ts", "saved.pt"):
        with pytest.raises(InputError):
            open_model(str(tmp_path / name), torch.zeros(2, 8), 3)
    assert not Harmful.ran


def small() -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-1, 1, generator=generator(0, "small"))
    return model.eval()


X = torch.rand(11, 1, 4, 4, generator=generator(0, "program"))
BATCHES = {"fixed": None, "any": Dim("rows"), "some": Dim("rows", min=2, max=5)}


def export(path, model, rows) -> str:
    sizes = None if rows is None else ({0: rows},)
    torch.export.save(torch.export.export(model, (X[:4],), dynamic_shapes=sizes), path)
    return str(path)


def script(path, model, how) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and says so
        made = torch.jit.trace(model, X[:4]) if how == "traced" else torch.jit.script(model)
        (torch.jit.freeze(made) if how == "frozen" else made).save(str(path))
    return str(path)


@pytest.mark.parametrize("how", [*BATCHES, "traced", "scripted", "frozen"])
def test_programs_give_the_logits_and_gradients_of_their_source(tmp_path, how):
    model = small()
    path = export(tmp_path / "p.pt2", model, BATCHES[how]) if how in BATCHES else script(tmp_path / "p.ts", model, how)
    program = open_model(path, X, 3)
    for rows in (1, 4, 11):
        results = []
        for function in (model, program):
            leaf = X[:rows].clone().requires_grad_()
            z = function(leaf)
            results.append((z.detach(), torch.autograd.grad(z.square().sum(), leaf)[0]))
        for mine, theirs in zip(*results, strict=True):
            assert mine.shape == theirs.shape
            assert torch.allclose(mine, theirs, atol=1e-5)
    y = model(X).argmax(1)
    one, two = (FGS(eps=0.1)(function, X, y) for function in (model, program))
    assert torch.equal(one.x_adv, two.x_adv)
    assert torch.equal(one.success, two.success)
    assert program.activation_elements >= 8
    assert batch_rows(program, X, 4) >= 1


def test_a_scripted_program_is_the_same_in_every_run(tmp_path):
    program = open_model(script(tmp_path / "p.ts", small(), "scripted"), X, 3)
    first = program(X)
    assert all(torch.equal(first, program(X)) for _ in range(4))


class NoGradient(nn.Module):
    def forward(self, x):
        with torch.no_grad():
            return x.flatten(1)[:, :3] * 2


class Constant(nn.Module):
    def forward(self, x):
        return torch.zeros(x.shape[0], 3)


@pytest.mark.parametrize(
    ("model", "said"), [(NoGradient(), "no gradient"), (Constant(), "no gradient"), (small().train(), "training mode")]
)
def test_programs_without_gradient_or_in_training_mode_are_refused(tmp_path, model, said):
    with pytest.raises(ModelError, match=said):
        open_model(export(tmp_path / "p.pt2", model, None), X, 3)


class Functional(nn.Module):
    def forward(self, x):
        return torch.dropout(x.flatten(1)[:, :3] * 2, 0.5, True)


class Noisy(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :3] + torch.rand_like(x.flatten(1)[:, :3])


class Branch(nn.Module):
    def forward(self, x):
        z = x.flatten(1)[:, :3] * 2
        if x.shape[0] > 0:
            z = torch.dropout(z, 0.5, True)
        return z


@pytest.mark.parametrize(
    ("model", "how", "said"),
    [
        (small().train(), "traced", "training mode"),
        (Functional(), "traced", "training mode"),
        (Functional(), "scripted", "training mode"),
        (Branch(), "scripted", "training mode"),
        (Noisy(), "scripted", "logits each time"),
        (Noisy(), "exported", "logits each time"),
    ],
)
def test_programs_that_draw_random_numbers_are_refused(tmp_path, model, how, said):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing notes that two passes differ
        path = export(tmp_path / "p.pt2", model, None) if how == "exported" else script(tmp_path / "p.ts", model, how)
    state = torch.get_rng_state()
    with pytest.raises(ModelError, match=said) as caught:
        open_model(path, X, 3)
    assert torch.equal(state, torch.get_rng_state())
    assert "\n" not in str(caught.value)


def test_a_script_saved_in_training_mode_is_put_into_eval_mode(tmp_path):
    model = small()
    program = open_model(script(tmp_path / "p.ts", model.train(), "scripted"), X, 3)
    assert torch.allclose(program(X), model.eval()(X))


def test_other_shapes_two_inputs_and_foreign_files_are_refused(tmp_path):
    path = export(tmp_path / "p.pt2", small(), Dim("rows"))
    with pytest.raises(ModelError, match=r"on samples of shape \(2, 1, 5, 5\)"):
        open_model(path, torch.zeros(3, 1, 5, 5), 3)

    class Two(nn.Module):
        def forward(self, x, t):
            return x.flatten(1) + t

    torch.export.save(torch.export.export(Two(), (X[:4], torch.zeros(4, 16))), tmp_path / "two.pt2")
    with pytest.raises(InputError, match="a program of 2 inputs"):
        open_model(str(tmp_path / "two.pt2"), X, 3)
    torch.save(small().state_dict(), tmp_path / "weights.pt")
    (tmp_path / "cut.pt2").write_bytes((tmp_path / "p.pt2").read_bytes()[:-200])
    for name, said in (("weights.pt", "a state_dict goes to weights"), ("cut.pt2", r"torch\.export\.save"), ("none.pt2", "existing")):
        with pytest.raises(InputError, match=said):
            open_model(str(tmp_path / name), X, 3)
    with pytest.raises(InputError, match="holds its own"):
        open_model(path, X, 3, weights="w.safetensors")


@pytest.mark.parametrize("how", ["any", "traced", "scripted"])
def test_damaged_programs_are_programs_or_one_line(tmp_path, how):
    name, numbers, refused = ("p.pt2" if how == "any" else "p.ts"), random.Random(how), 0
    whole = Path(export(tmp_path / name, small(), BATCHES[how]) if how == "any" else script(tmp_path / name, small(), how)).read_bytes()
    for _ in range(60):
        raw = bytearray(whole)
        for _ in range(numbers.randint(1, 3)):
            place = numbers.randrange(len(raw))
            raw[place : place + numbers.choice((0, 1, 1, 9))] = numbers.randbytes(numbers.choice((0, 1, 1, 3)))
        (tmp_path / name).write_bytes(raw[: numbers.randrange(len(raw))] if numbers.random() < 0.1 else raw)
        try:
            open_model(str(tmp_path / name), X, 3)
        except (InputError, ModelError) as error:
            refused += 1
            line = str(error)
        else:
            line = "model: "
        assert line.startswith("model: ")
        assert "\n" not in line
    assert refused > 20


def test_an_untrained_network_is_not_opened_as_a_trained_one(tmp_path, net):
    with pytest.raises(InputError, match="untrained"):
        open_model("lenet-300-100", torch.zeros(2, 8), 3)
    save_tensors(tmp_path / "w.safetensors", net.state_dict())
    opened = open_model("lenet-300-100", torch.zeros(2, 8), 3, weights=tmp_path / "w.safetensors")
    assert not opened.training
    assert torch.equal(opened[1].weight, net[1].weight)


LEAVES = """
import os
import torch
from torch import nn
def set_all():
    os.chdir("/")
    torch.set_num_threads(7)
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
def make():
    net = nn.Linear(4, 3)
    set_all()
    return net
def attack(model, x, y):
    set_all()
    return x
"""


def test_what_user_code_sets_for_the_whole_process_is_put_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tidy.py").write_text(LEAVES)
    (tmp_path / "untidy.py").write_text(LEAVES + "set_all()\n")

    def settings():
        return Path.cwd(), torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_default_device()

    before = settings()
    build("tidy.py:make", (4,), 3)
    assert settings() == before
    with contextlib.suppress(InputError):  # its weights are on the meta device
        build("untidy.py:make", (4,), 3)
    assert settings() == before
    attack = Wrapped(target="tidy.py:attack", norm="linf", eps=0.1)
    attack(nn.Linear(4, 3), torch.rand(2, 4), torch.tensor([0, 1]))
    assert settings() == before
    with torch.no_grad():
        build("tidy.py:make", (4,), 3)
        assert not torch.is_grad_enabled()
