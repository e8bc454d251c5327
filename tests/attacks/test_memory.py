"""The batch rule bounds memory: 10,000 samples of the largest network here (HopSkipJump: 1,100) stay within 4 GiB, whatever the attack."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from isogrid.attacks import ATTACKS

LIMIT_GIB = 4.0
PEAK = """
def peak():  # GiB; ru_maxrss would begin with what the test runner, which forked this process, had in use
    status = open("/proc/self/status").read()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**20
"""
SCRIPT = """
import json, sys, torch
from isogrid.attacks import ATTACKS
from isogrid.core.random import generator
from isogrid.models import build
torch.set_num_threads(1)
model = build("lenet-5", (1, 28, 28), 10, 0).eval()
x = torch.rand(10_000, 1, 28, 28, generator=generator(0, "memory"))
with torch.no_grad():
    y = torch.cat([model(part).argmax(1) for part in x.split(1000)])
for name, effort in json.loads(sys.argv[1]).items():
    n = effort.pop("samples", len(x))
    found = ATTACKS[name](**effort)(model, x[:n], y[:n])
    assert len(found.success) == n
    print(name, peak())
"""
EFFORTS: dict[str, dict[str, float]] = {  # as little of each as still holds in memory all that a full run holds
    "fgs": {},
    "rfgs": {},
    "noise": {"draws": 2},
    "pgd": {"steps": 2},
    "deepfool": {"steps": 2},
    "superdeepfool": {"rounds": 1, "steps": 2},
    "ddn": {"steps": 2},
    "fmn": {"steps": 2},
    "cw": {"searches": 1, "steps": 2},
    "apgd-ce": {"eps": 1e-3, "steps": 1},  # a budget so small that hardly a row leaves
    "apgd-dlr": {"eps": 1e-3, "steps": 1},
    "apgd-t": {"eps": 1e-3, "steps": 1, "targets": 1},
    "square": {"eps": 1e-3, "queries": 3},
    "autoattack": {"eps": 1e-3, "steps": 1, "targets": 1, "queries": 3},
    "fab": {"steps": 1, "targets": 1},
    "hopskipjump": {"queries": 140, "trials": 8, "samples": 1_100},  # a full batch and the start of another: 10,000 take 10 minutes
}


def test_every_attack_has_its_effort():
    assert set(EFFORTS) == set(ATTACKS)


@pytest.mark.slow
@pytest.mark.parametrize("names", [tuple(EFFORTS)[:9], tuple(EFFORTS)[9:14], tuple(EFFORTS)[14:]], ids=", ".join)
def test_many_samples_fit(names):
    efforts = json.dumps({name: EFFORTS[name] for name in names})
    result = subprocess.run([sys.executable, "-c", PEAK + SCRIPT, efforts], capture_output=True, text=True, check=True)
    peaks = {line.split()[0]: float(line.split()[1]) for line in result.stdout.splitlines()}
    assert set(peaks) == set(names)
    assert all(peak < LIMIT_GIB for peak in peaks.values()), peaks


FUNCTIONS = """
import torch
from torch import nn
from isogrid.attacks import DDN
from isogrid.core.random import generator
torch.set_num_threads(1)

class Residual(nn.Module):
    # every step a function, none a layer
    def __init__(self):
        super().__init__()
        draw = generator(0, "memory")
        widths = (3, 32, 32, 32, 32)
        self.w = nn.ParameterList(torch.randn(b, a, 3, 3, generator=draw) / (9 * a) ** 0.5 for a, b in zip(widths, widths[1:]))
        self.last = nn.Parameter(torch.randn(10, 32, generator=draw))

    def forward(self, x):
        for w in self.w:
            y = torch.relu(nn.functional.conv2d(x, w, padding=1))
            x = x + y if x.shape == y.shape else y
        return x.mean((2, 3)) @ self.last.T

model = Residual()
x = torch.rand(700, 3, 32, 32, generator=generator(0, "memory", "x"))
with torch.no_grad():
    y = torch.cat([model(part).argmax(1) for part in x.split(100)])
assert DDN(steps=2)(model, x, y).forwards.sum() > 0
print(peak())
"""


def test_a_network_written_in_functions_is_measured_too():
    """Counted by its layers alone it would be attacked 1,024 samples at once, in 1.5 GiB."""
    result = subprocess.run([sys.executable, "-c", PEAK + FUNCTIONS], capture_output=True, text=True, check=True)
    assert float(result.stdout) < 0.8, result.stdout


CLASSES = """
import torch
from torch import nn
from isogrid.attacks import DeepFool
from isogrid.core.random import generator
torch.set_num_threads(1)
model = nn.Sequential(nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 1000))
draw = generator(0, "memory")
with torch.no_grad():
    for p in model.parameters():
        p.copy_(torch.randn(p.shape, generator=draw) / 16)
x = torch.rand(512, 784, generator=draw)
y = model(x).argmax(1).detach()
assert DeepFool(candidates=None, steps=2)(model, x, y).success.any()
print(peak())
"""


def test_all_of_a_thousand_classes_need_no_more_memory_than_a_few():
    """Their gradients side by side would be 1.5 GiB."""
    result = subprocess.run([sys.executable, "-c", PEAK + CLASSES], capture_output=True, text=True, check=True)
    assert float(result.stdout) < 1.0, result.stdout
