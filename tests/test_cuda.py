"""On a CUDA device: the same networks and verdicts as on the CPU up to rounding, and every success stands on the CPU too.

These tests need a device; where there is none they are skipped, which says nothing.
"""

from __future__ import annotations

import pytest
import torch

from isogrid.attacks import ATTACKS, make
from isogrid.data import load
from isogrid.models import build
from isogrid.sparsity import Progressive
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


def test_a_study_on_the_device_resumes_and_repeats(tmp_path):
    spec = Spec.parse(
        {
            "data": {"name": "digits", "train": 300, "test": 60},
            "models": ["linear", "lenet-300-100"],
            "training": {"epochs": 4, "retrain_epochs": 2},
            "pruning": {"rounds": 2},
            "attacks": [{"name": "fgs", "eps": 0.1}, {"name": "pgd", "eps": 0.1, "steps": 5}, {"name": "ddn", "steps": 20}],
            "seeds": 1,
            "device": "cuda",
        }
    )
    once = run_study(spec, tmp_path / "once").frontier()
    again = run_study(spec, tmp_path / "again").frontier()
    assert once.equals(again)
    assert once.query("metric == 'accuracy'")["value"].min() > 0.3
