"""Checkpoints as people have them: loaded, so that the network computes what the saved one did, or refused with the cure."""

from __future__ import annotations

import argparse
import random
import warnings
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from isogrid.core.errors import InputError
from isogrid.core.files import save_tensors
from isogrid.core.random import generator
from isogrid.models import load_weights

X = torch.rand(7, 1, 6, 6, generator=generator(0, "x"))


class Net(nn.Module):
    """Convolution, normalisation, one nested block, a tied pair of layers."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
        self.head = nn.Sequential(nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 5))
        self.out = nn.Linear(5, 5)
        self.out.weight = self.head[2].weight

    def forward(self, x):
        return self.out(self.head(self.features(x)))


def trained(seed: int = 0) -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Net()
        model.train()(torch.rand(9, 1, 6, 6))  # moves the running statistics
    return model.eval()


SOURCE = trained()
STATE = SOURCE.state_dict()


def loads(path, source=SOURCE) -> tuple[str, ...]:
    """What was said; the network that the file was loaded into computes what `source` does."""
    model = trained(seed=1)
    notes = load_weights(model, path)
    assert torch.allclose(model(X), source(X), atol=1e-6)
    return notes


def prefixed(prefix: str) -> dict:
    return {prefix + name: value for name, value in STATE.items()}


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        (STATE, ()),
        (OrderedDict(STATE), ()),
        (prefixed("module."), ("without module. in its names",)),
        (prefixed("_orig_mod."), ("without _orig_mod. in its names",)),
        (prefixed("module._orig_mod."), ("without _orig_mod., module. in its names",)),
        (prefixed("model."), ("without the prefix model. of all its names",)),
        (prefixed("net.backbone."), ("without the prefix net.backbone. of all its names",)),
        (prefixed("model._orig_mod."), ("without _orig_mod. in its names, without the prefix model. of all its names",)),
        ({n.replace("features.", "features.module."): v for n, v in STATE.items()}, ("without module. in its names",)),
        ({"state_dict": prefixed("model."), "epoch": 3, "optimizer_states": [{}]},
         ("taken from its key 'state_dict'", "without the prefix model. of all its names")),
        ({"model_state_dict": STATE, "optimizer_state_dict": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{}]}},
         ("taken from its key 'model_state_dict'",)),
        ({"net": STATE, "acc": np.float64(93.1), "epoch": np.int64(3)}, ("taken from its key 'net'",)),
        ({"model": STATE, "args": argparse.Namespace(lr=0.1, model="net")}, ("taken from its key 'model'",)),
        ({"checkpoint": {"weights": STATE}, "best": torch.tensor(0.9)}, ("taken from its key 'checkpoint.weights'",)),
        ({n: v for n, v in STATE.items() if "num_batches" not in n}, ()),
        (STATE | {"total_ops": torch.zeros(1), "features.0.total_params": torch.zeros(1)}, ()),
        (prefixed("module.") | {"n_averaged": torch.tensor(4)}, ("without module. in its names",)),
        ({n: v for n, v in STATE.items() if n != "out.weight"}, ()),
        ({n: v.double() if v.is_floating_point() else v.int() for n, v in STATE.items()}, ()),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["w.pt", "checkpoint.pth.tar", "w", "w.safetensors.bin"])
def test_usual_checkpoints_are_loaded_and_what_was_done_is_said(tmp_path, stored, said, name):
    torch.save(stored, tmp_path / name)
    assert loads(tmp_path / name) == said


def test_wrappers_of_the_libraries_themselves(tmp_path):
    averaged = torch.optim.swa_utils.AveragedModel(SOURCE)
    wrapped = {"compiled": torch.compile(SOURCE, backend="eager"), "parallel": nn.DataParallel(SOURCE), "averaged": averaged}
    for name, model in wrapped.items():
        save_tensors(tmp_path / "w.safetensors", model.state_dict())
        assert len(loads(tmp_path / "w.safetensors")) == 1, name
    save_tensors(tmp_path / "plain.safetensors", STATE)
    for make in (lambda net: torch.compile(net, backend="eager"), nn.DataParallel, lambda net: nn.Sequential(OrderedDict(model=net))):
        model = trained(seed=1)
        assert load_weights(make(model), tmp_path / "plain.safetensors")
        assert torch.equal(model(X), SOURCE(X))


def test_masks_of_torch_prune_give_exact_zeros(tmp_path):
    model = trained()
    model.out.weight = nn.Parameter(model.out.weight.detach().clone())
    for layer in (model.features[0], model.head[0], model.out):
        prune.l1_unstructured(layer, "weight", 0.5)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "w.pth")
    other = trained(seed=1)
    other.out.weight = nn.Parameter(other.out.weight.detach().clone())
    notes = load_weights(other, tmp_path / "w.pth")
    assert "with weight_orig times weight_mask as its weights" in notes
    assert torch.equal(other.eval()(X), model(X))
    assert [int((layer.weight == 0).sum()) for layer in (other.features[0], other.head[0], other.out)] == [18, 160, 12]
    same = trained(seed=1)
    same.out.weight = nn.Parameter(same.out.weight.detach().clone())
    for layer in (same.features[0], same.head[0], same.out):
        prune.identity(layer, "weight")
    assert load_weights(same, tmp_path / "w.pth") == ("taken from its key 'state_dict'",)
    assert torch.equal(same.eval()(X), model(X))


@pytest.mark.parametrize("dim", [0, 1, None])
def test_weight_norm_is_folded(tmp_path, dim):
    def small(norm):
        with torch.random.fork_rng():
            torch.manual_seed(3)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the older form is deprecated, and says so
                layers = [nn.utils.weight_norm(layer, dim=dim) if norm else layer for layer in (nn.Conv2d(1, 3, 3), nn.Linear(48, 3))]
            return nn.Sequential(layers[0], nn.Flatten(), layers[1])

    source, other = small(True), small(False)
    with torch.no_grad():
        for name, value in source.named_parameters():
            value.mul_(1.7 if name.endswith("_g") else 0.6)
    torch.save(source.state_dict(), tmp_path / "w.pt")
    assert load_weights(other, tmp_path / "w.pt") == ("with weight norm folded into its weights",)
    assert torch.allclose(other(X), source(X), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda: {"state_dict": STATE, "ema": trained(5).state_dict()},
         r"networks under state_dict, ema; .*torch\.save\(checkpoint\['state_dict'\]"),
        (lambda: prefixed("model.") | {"loss.weight": torch.ones(3)}, r"keep those under model\. alone: .*removeprefix\('model\.'\)"),
        (lambda: STATE | {"extra.scale": torch.ones(1)}, r"the unknown extra\.scale.*k not in \['extra\.scale'\]"),
        (lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(3, 3))).state_dict(), r"parametrised: .*remove_parametrizations"),
        (lambda: nn.Sequential(nn.utils.spectral_norm(nn.Linear(3, 3))).state_dict(), r"parametrised"),
        (lambda: SOURCE, r"torch\.save\(model\.state_dict\(\), FILE\).*Unsupported global"),
        (lambda: {"epoch": 3}, "no names with tensors"),
        (lambda: [STATE], "no names with tensors"),
        (lambda: STATE | {"out.weight": STATE["out.weight"].to_sparse()}, "sparse or quantised"),
        (lambda: STATE | {"out.bias": torch.quantize_per_tensor(STATE["out.bias"], 0.1, 0, torch.qint8)}, "sparse or quantised"),
        (lambda: {n: v for n, v in STATE.items() if "features" not in n}, r"without features\.0\.weight"),
        (lambda: prefixed("a.") | prefixed("b."), r"keep those under a\. alone"),
    ],
)  # fmt: skip
def test_what_is_ambiguous_or_other_is_refused_with_the_cure(tmp_path, change, said):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # quantised tensors and older parametrisations are deprecated
        torch.save(change(), tmp_path / "w.pt")
        model = trained(seed=1)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        with pytest.raises(InputError, match=said) as caught:
            load_weights(model, tmp_path / "w.pt")
    assert caught.value.field == "weights"
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_two_networks_of_which_one_has_these_shapes(tmp_path):
    teacher = {name: torch.zeros(*value.shape, 2) for name, value in STATE.items()}
    torch.save({"student": STATE, "teacher": teacher}, tmp_path / "w.pt")
    assert loads(tmp_path / "w.pt") == ("taken from its key 'student'",)


@pytest.mark.parametrize("form", ["safetensors", "zip", "legacy", "nested"])
def test_damaged_files_are_weights_or_one_line(tmp_path, form):
    path, numbers = tmp_path / "w.pth", random.Random(form)
    if form == "safetensors":
        save_tensors(path, {name: value for name, value in STATE.items() if name != "out.weight"})
    else:
        torch.save(
            {"net": STATE, "acc": np.float64(1)} if form == "nested" else STATE, path, _use_new_zipfile_serialization=form != "legacy"
        )
    whole, refused, times = path.read_bytes(), 0, 500
    model = trained(seed=1)
    for _ in range(times):
        raw = bytearray(whole)
        for _ in range(numbers.randint(1, 4)):
            place = numbers.randrange(min(len(raw), numbers.choice((40, 2000, 10**6))))
            raw[place : place + numbers.choice((0, 1, 1, 9))] = numbers.randbytes(numbers.choice((0, 1, 1, 3)))
        path.write_bytes(raw[: numbers.randrange(len(raw))] if numbers.random() < 0.1 else raw)
        try:
            load_weights(model, path)
        except InputError as error:
            refused += 1
            line = str(error)
        else:
            line = "weights: "
        assert line.startswith("weights: ")
        assert "\n" not in line
    assert refused > times / 5
