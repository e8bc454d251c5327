"""CUDA beside the CPU of the same machine: attacks and certificates on one network and the same samples, answers compared.

Needs a CUDA device.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import harness
import torch
from torch import Tensor, nn

from isogrid.attacks import make
from isogrid.certify import make as certificate

ATTACKS = {
    "PGD-40": {"name": "pgd", "eps": 0.1, "steps": 40},
    "APGD-T, 9 targets, 100 steps": {"name": "apgd-t", "eps": 0.1},
    "DDN-100": {"name": "ddn", "steps": 100},
    "DeepFool": {"name": "deepfool"},
}
CERTIFICATES = {
    "CROWN-IBP": {"name": "crown-ibp"},
    "CROWN": {"name": "crown"},
    "alpha-CROWN": {"name": "alpha-crown"},
}
PAIRS = 9
HEADER = ["network", "method", "samples", "ratio", "seconds, device and CPU"]

Answer = Callable[[nn.Module, Tensor, Tensor], Tensor]


def successes(title: str) -> Answer:
    """Which samples an attack turns [B]."""
    attack = make(ATTACKS[title])
    return lambda model, x, y: attack(model, x, y, seed=0).success


def radii(title: str) -> Answer:
    """What a certificate proves of each sample [B]: l_inf, in the box."""
    prove = certificate(CERTIFICATES[title])
    return lambda model, x, y: prove(model, x, y).radius


def seconds(answer: Answer, model: nn.Module, x: Tensor, y: Tensor) -> tuple[float, Tensor]:
    """Wall time of one call, the device's queue included, and its answer."""
    if x.is_cuda:
        torch.cuda.synchronize()
    started = time.perf_counter()
    found = answer(model, x, y)
    if x.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started, found.cpu()


def measured(name: str, title: str, count: int, answer: Answer) -> tuple[list[str], Tensor, Tensor]:
    """A row of the table, and the answers of the device and of the CPU."""
    model = harness.network(name)
    x, y = harness.correct_samples(model, count)
    places = {device: (harness.network(name).to(device), x.to(device), y.to(device)) for device in ("cpu", "cuda")}
    seconds(answer, *places["cuda"])  # kernels are loaded and chosen once
    pairs = [(seconds(answer, *places["cuda"]), seconds(answer, *places["cpu"])) for _ in range(PAIRS)]
    ratios = [there / here for (there, _), (here, _) in pairs]
    low, high = harness.order_interval(ratios)
    (cuda, there), (cpu, here) = pairs[-1]
    row = [name, title, str(len(y)), f"{statistics.median(ratios):.2f} [{low:.2f}, {high:.2f}]", f"{cuda:.2f}, {cpu:.2f}"]
    print(row, flush=True)
    return row, there, here


def main() -> None:
    """Measure and write both sections of RESULTS.md."""
    intro = (
        f"Wall time on the device / on the CPU of the same machine with all its cores, median of {PAIRS} interleaved pairs [95 %].\n"
        f"{torch.cuda.get_device_name()}; {harness.machine(f'{torch.get_num_threads()} threads')}.\n\n"
    )
    lines = []
    for name, title, count in [
        ("mlp", "CROWN-IBP", 100),
        ("mlp", "CROWN", 100),
        ("mlp", "alpha-CROWN", 20),
        ("lenet", "CROWN-IBP", 20),
        ("lenet", "CROWN", 2),
    ]:
        row, there, here = measured(name, title, count, radii(title))
        lines.append([*row, f"{(there / here - 1).abs().max():.1e}"])
    harness.write_section("CUDA beside the CPU: certificates", intro + harness.table([*HEADER, "radii differ by at most"], lines))
    lines = []
    for name, title, count in [(name, title, count) for name, count in (("mlp", 900), ("lenet", 300)) for title in ATTACKS]:
        row, there, here = measured(name, title, count, successes(title))
        lines.append([*row, str(int((there != here).sum()))])
    harness.write_section("CUDA beside the CPU", intro + harness.table([*HEADER, "verdicts that differ"], lines))


if __name__ == "__main__":
    main()
