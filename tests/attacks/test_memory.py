"""The batch rule bounds memory: 10,000 samples of the largest network here stay within 4 GiB, as does a full batch of a slow attack."""

from __future__ import annotations

import subprocess
import sys

import pytest

LIMIT_GIB = 4.0
SCRIPT = """
import resource, sys, dataclasses, torch
from isogrid.attacks import ATTACKS
from isogrid.core.random import generator
from isogrid.models import build
torch.set_num_threads(2)
model = build("lenet-5", (1, 28, 28), 10, 0).eval()
x = torch.rand(int(sys.argv[1]), 1, 28, 28, generator=generator(0, "memory"))
with torch.no_grad():
    y = torch.cat([model(part).argmax(1) for part in x.split(1000)])
for name in sys.argv[2:]:
    cls = ATTACKS[name]
    effort = {"steps": 2, "queries": 30, "searches": 1, "rounds": 1, "targets": 1, "restarts": 1, "iterations": 1, "draws": 1}
    fields = {f.name for f in dataclasses.fields(cls)}
    cls(**{k: v for k, v in effort.items() if k in fields})(model, x, y)
    print(name, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("samples", "names"), [(10_000, ("fgs", "pgd", "deepfool")), (1_100, ("ddn", "fmn", "apgd-t", "fab")), (1_100, ("cw",))]
)
def test_many_samples_fit(samples, names):
    result = subprocess.run([sys.executable, "-c", SCRIPT, str(samples), *names], capture_output=True, text=True, check=True)
    peaks = {line.split()[0]: float(line.split()[1]) for line in result.stdout.splitlines()}
    assert set(peaks) == set(names)
    assert all(peak < LIMIT_GIB for peak in peaks.values()), peaks


CLASSES = """
import resource, torch
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
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


def test_all_of_a_thousand_classes_need_no_more_memory_than_a_few():
    """Their gradients side by side would be 1.5 GiB."""
    result = subprocess.run([sys.executable, "-c", CLASSES], capture_output=True, text=True, check=True)
    assert float(result.stdout) < 1.0, result.stdout
