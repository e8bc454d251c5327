"""On a CUDA device: the same networks and verdicts as on the CPU up to rounding, and every success stands on the CPU too.

These tests need a device; where there is none they are skipped, which says nothing.
"""

from __future__ import annotations

import pytest
import torch

from isogrid.attacks import ATTACKS, make
from isogrid.certify import CERTIFICATES, make as certificate
from isogrid.data import load
from isogrid.models import build
from isogrid.sparsity import PRUNERS, Progressive
from isogrid.study.run import run_study
from isogrid.study.spec import Spec
from isogrid.training import FitConfig, fit

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
QUICK = {"steps": 20, "queries": 200, "searches": 3, "targets": 3}


@pytest.fixture(scope="module")
def trained():
    split = load("digits", train=600, test=100)
    network = build("lenet-300-100", split.train.shape, 10, 0)
    fit(network, split.train.x, split.train.y, FitConfig(epochs=8, batch_size=64), seed=0)
    return network, split.test


@pytest.mark.parametrize("name", ATTACKS)
def test_every_success_on_the_device_stands_on_the_cpu(name, trained):
    network, test = trained
    kind = ATTACKS[name]
    config = {"name": name} | {k: v for k, v in QUICK.items() if k in kind.__dataclass_fields__}
    outcome = make(config)(network.cuda(), test.x.cuda(), test.y.cuda(), seed=0)
    network.cpu()
    here = make(config)(network, test.x, test.y, seed=0)
    assert outcome.x_adv.device.type == "cuda"
    won = outcome.success.cpu()
    with torch.no_grad():
        z = network(outcome.x_adv.cpu())[won]
    others = z.scatter(1, test.y[won, None], -torch.inf).amax(1)
    assert bool((z.gather(1, test.y[won, None]).squeeze(1) - others < 1e-3).all())
    assert abs(int(won.sum()) - int(here.success.sum())) <= 3


def test_training_on_the_device_keeps_dead_weights_dead_and_learns_as_well():
    split = load("digits", train=600, test=100)
    x, y = split.train.x.cuda(), split.train.y.cuda()
    found = {}
    for device in ("cpu", "cuda"):
        network = build("lenet-300-100", split.train.shape, 10, 0).to(device)
        log = fit(network, x.to(device), y.to(device), FitConfig(epochs=8, batch_size=64), seed=0)
        log = fit(
            network, x.to(device), y.to(device), FitConfig(epochs=4, batch_size=64), seed=0, pruner=Progressive(rate=0.5), masks=log.masks
        )
        weights = dict(network.named_parameters())
        assert all(bool((weights[name][~mask.to(device)] == 0).all()) for name, mask in log.masks.items())
        found[device] = float((network(split.test.x.to(device)).argmax(1).cpu() == split.test.y).double().mean())
    assert abs(found["cpu"] - found["cuda"]) < 0.06


@pytest.mark.parametrize("name", PRUNERS)
def test_every_pruner_keeps_its_dead_weights_dead_on_the_device_and_repeats(name):
    if name == "channels":
        pytest.importorskip("torch_pruning")
    split, found = load("digits", train=300, test=60), []
    x, y = split.train.x.cuda(), split.train.y.cuda()
    for _ in range(2):
        network, config = build("lenet-300-100", split.train.shape, 10, 0).cuda(), FitConfig(epochs=2, batch_size=50)
        initial = {key: value.clone() for key, value in network.state_dict().items()}
        dense = fit(network, x, y, config, seed=0)
        log = fit(
            network, x, y, config, seed=0, purpose=("level", 1), pruner=PRUNERS.make({"name": name}), masks=dense.masks, initial=initial
        )
        weights = dict(network.named_parameters())
        assert all(mask.is_cuda for mask in log.masks.values())
        assert all(bool((weights[key][~mask] == 0).all()) for key, mask in log.masks.items())
        found.append({key: value.detach().clone() for key, value in weights.items()})
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


@pytest.mark.parametrize("name", CERTIFICATES)
def test_what_is_proved_of_a_network_on_the_device_is_what_is_proved_on_the_cpu(name, trained):
    network, test = trained
    x, y, config = test.x[:4], test.y[:4], {"name": name} | ({"nodes": 20} if name == "branch-and-bound" else {})
    here = certificate(config)(network, x, y)
    there = certificate(config)(network.cuda(), x.cuda(), y.cuda())
    network.cpu()
    assert torch.allclose(here.radius, there.radius.cpu(), rtol=0.02)
    assert bool((there.radius <= here.upper * (1 + 1e-5)).all())


def test_a_study_on_the_device_resumes_and_repeats(tmp_path):
    spec = Spec.parse(
        {
            "data": {"name": "digits", "train": 300, "test": 60},
            "models": ["linear", "lenet-300-100"],
            "training": {"epochs": 4, "retrain_epochs": 2},
            "pruning": {"rounds": 2},
            "attacks": [{"name": "fgs", "eps": 0.1}, {"name": "pgd", "eps": 0.1, "steps": 5}, {"name": "ddn", "steps": 20}],
            "exact": {"levels": [2], "samples": 10, "method": {"nodes": 20}},
            "certify": {"methods": ["crown-ibp"], "samples": 10},
            "seeds": 1,
            "device": "cuda",
        }
    )
    once = run_study(spec, tmp_path / "once").frontier()
    again = run_study(spec, tmp_path / "again").frontier()
    assert once.equals(again)
    assert once.query("metric == 'accuracy'")["value"].min() > 0.3
