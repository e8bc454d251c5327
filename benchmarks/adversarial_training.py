"""Adversarial training of LeNet-300-100 on the official MNIST at eps 0.3, dense and pruned, beside the published PGD-10 accuracy.

    python benchmarks/adversarial_training.py FOLDER [--epochs 15] [--rounds 3]

FOLDER holds MNIST's four IDX files. Published (Cosentino et al. 2019, lottery-ticket pruning, 5 trials): 45.3 % dense, 60.1 % at 48.7 %
sparsity. Here one seed. At eps 0.3 from the first step on the network stays at chance (loss 2.30), so the first weights are those after
a few epochs at 0.1 and 0.2; then PGD-7 training by SGD (Adam ends far lower), and rounds of lottery-ticket pruning by a fifth, each
trained from these weights anew.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping

import torch
from harness import machine, table, write_section
from torch import Tensor, nn

import isogrid
from isogrid.attacks import APGDT, PGD, Attack
from isogrid.data import Samples
from isogrid.models import build
from isogrid.sparsity import Lottery, Masks
from isogrid.training import FitConfig, OptimizerConfig, fit

EPS = 0.3
PUBLISHED = {0: "45.3 %", 3: "60.1 %"}
WARM = ((0.1, 3), (0.2, 3))
"""eps and epochs before."""
JUDGES: dict[str, Attack] = {
    "PGD-10": PGD(eps=EPS, steps=10),
    "PGD-100": PGD(eps=EPS, steps=100),
    "APGD-T, leaky": APGDT(eps=EPS, steps=20, targets=5, backward="leaky"),
}
FEW = 1000
"""Test digits for every judge but the first, which sees all 10,000."""


def judged(model: nn.Module, test: Samples) -> list[str]:
    """Clean accuracy, and what is left under every judge."""
    with torch.no_grad():
        clean = (model(test.x).argmax(1) == test.y).float().mean().item()
    figures = [f"{clean:.1%}"]
    for place, attack in enumerate(JUDGES.values()):
        x, y = (test.x, test.y) if place == 0 else (test.x[:FEW], test.y[:FEW])
        figures.append(f"{attack(model, x, y).robust.float().mean().item():.1%}")
    return figures


def main() -> None:
    """Train, judge after every round, and write the section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    split = isogrid.load(f"mnist:{arguments.folder}")
    model = build("lenet-300-100", split.train.shape, 10, seed=0)
    gentle, optimizer = OptimizerConfig(name="adam", lr=1e-3), OptimizerConfig(name="sgd", lr=0.1, momentum=0.9)
    for eps, epochs in WARM:
        warm = FitConfig(epochs=epochs, objective={"name": "pgd-at", "eps": eps, "steps": 7}, optimizer=gentle, schedule="constant")
        fit(model, split.train.x, split.train.y, warm, seed=0, purpose=("warm", eps))
    initial = {name: value.clone() for name, value in model.state_dict().items()}
    config = FitConfig(
        epochs=arguments.epochs, objective={"name": "pgd-at", "eps": EPS, "steps": 7}, optimizer=optimizer, schedule="one-cycle"
    )
    lines, masks = [], Masks.dense(model)
    state: Mapping[str, Tensor] = {}
    for level in range(arguments.rounds + 1):
        pruner = Lottery(rate=0.2) if level else None
        purpose = ("level", level)
        log = fit(
            *(model, split.train.x, split.train.y, config),
            **{"seed": 0, "purpose": purpose, "pruner": pruner, "masks": masks, "state": state, "initial": initial},
            on_epoch=lambda epoch, loss, level=level: print(f"level {level} epoch {epoch} loss {loss:.4f}", flush=True),
        )
        masks, state = log.masks, log.state
        lines.append([f"{masks.sparsity:.1%}", *judged(model, split.test), PUBLISHED.get(level, "")])
        print(" | ".join(lines[-1]), f"{log.cpu_seconds:.0f} s", flush=True)
    about = (
        f"LeNet-300-100, MNIST (60,000), PGD-7 training at eps {EPS}, {arguments.epochs} epochs of SGD (0.1, one cycle) a level"
        f" after three each of Adam at 0.1 and 0.2 (from the first weights on it stays at chance), one seed; clean and"
        f" PGD-10 accuracy on 10,000 test digits, the others on {FEW}. Published: PGD-10, Cosentino et al. 2019. {machine()}."
    )
    header = ["sparsity", "clean", *JUDGES, "PGD-10, published"]
    write_section("Adversarial training", f"{about}\n\n{table(header, lines)}")


if __name__ == "__main__":
    main()
