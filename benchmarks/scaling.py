"""How the cost per sample grows with the batch and with the number of classes. `python benchmarks/scaling.py`."""

from __future__ import annotations

import statistics

import harness
import torch
from torch import nn

from isogrid.attacks import APGDT, DDN, FGS, PGD, CarliniWagner, DeepFool
from isogrid.attacks.driver.base import Attack
from isogrid.core.random import generator

ATTACKS: dict[str, Attack] = {
    "fgs": FGS(eps=0.1),
    "pgd (40 steps, all run)": PGD(eps=0.1, steps=40, early_stop=False),
    "apgd-t (10 steps)": APGDT(eps=0.1, steps=10),
    "deepfool, 3 candidates": DeepFool(),
    "deepfool, all classes": DeepFool(candidates=None),
    "ddn, converging": DDN(converge=True),
    "cw, converging (2 x 30)": CarliniWagner(converge=True, searches=2, steps=30),
}
BATCHES = {
    "mlp": (1024, (16, 64, 256, 1024), tuple(ATTACKS)),
    "lenet": (256, (16, 64, 256), ("fgs", "pgd (40 steps, all run)", "deepfool, 3 candidates", "ddn, converging")),
}
"""network: digits, batches, attacks"""
CLASSES = (10, 100, 1000)


def per_sample(model: nn.Module, attack: Attack, x: torch.Tensor, y: torch.Tensor, batch: int) -> float:
    """Milliseconds of CPU time per sample, the median of three, in calls of `batch` samples."""

    def run() -> None:
        for part in range(0, len(y), batch):
            attack(model, x[part : part + batch], y[part : part + batch])

    run()
    return 1e3 * statistics.median(harness.cpu_seconds(run) for _ in range(3)) / len(y)


def wide(classes: int) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A random ReLU network of `classes` outputs, and samples with its own predictions as labels."""
    g = generator(0, "bench", "wide", classes)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, classes))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=g) / p.shape[-1] ** 0.5)
    x = torch.rand(256, 1, 28, 28, generator=g)
    return model.eval(), x, model(x).argmax(1)


def main() -> None:
    """Measure and write the section of RESULTS.md."""
    torch.set_num_threads(1)
    by_batch = []
    for network, (count, batches, names) in BATCHES.items():
        model = harness.network(network)
        x, y = harness.correct_samples(model, count // 2)
        x, y = torch.cat([x, x]), torch.cat([y, y])
        for name in names:
            costs = {batch: per_sample(model, ATTACKS[name], x, y, batch) for batch in batches}
            shown = [f"{costs[batch]:.3f}" if batch in costs else "" for batch in BATCHES["mlp"][1]]
            by_batch.append([network, name, *shown, f"{costs[batches[-1]] / costs[64]:.2f}"])
            print(by_batch[-1], flush=True)
    networks = {classes: wide(classes) for classes in CLASSES}
    by_class = []
    for name, attack in ATTACKS.items():
        costs = [per_sample(*networks[c][:1], attack, *networks[c][1:], 256) for c in CLASSES]
        by_class.append([name, *(f"{cost:.3f}" for cost in costs), f"{costs[-1] / costs[0]:.2f}"])
    body = (
        f"Milliseconds of CPU time per sample, {harness.machine()}.\n\nBy batch (small networks pay a fixed "
        "cost per call, which larger batches share; what must not happen is that a sample costs more):\n\n"
        + harness.table(["network", "attack", *map(str, BATCHES["mlp"][1]), "largest batch / 64"], by_batch)
        + "\n\nRandom 784-300-100-C networks, 256 samples, by number of classes C:\n\n"
        + harness.table(["attack", *map(str, CLASSES), "1,000 / 10"], by_class)
    )
    harness.write_section("Scaling", body)
    print(body)


if __name__ == "__main__":
    main()
