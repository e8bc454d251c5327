"""The whole weight-sparsity study: isogrid against what a competent user composes from DataLoader, torch.nn.utils.prune and Foolbox.

Both train LeNet-300-100 on the same 4,000 digits (40 epochs, 15 after each of ROUNDS rounds of 1/3), one seed, and attack every level
on the same 1,000 test digits: FGSM at 0.1, DeepFool (3 candidates), C&W 5 x 60, DDN-100. Each runs as a process of its own on two
cores, start-up and reading the data included; the ratio is of wall-clock time. `python benchmarks/study.py [--rounds 14] [--pairs 9]`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import harness
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils.data import DataLoader, TensorDataset

from isogrid import data
from isogrid.study.run import open_study
from isogrid.study.spec import Spec

TARGET, PAIRS = 0.25, 9
NAMES = ("accuracy", "fgs@0.1", "deepfool", "C&W", "DDN")
LABELS = ("accuracy", "FGS accuracy left", "DeepFool r_2", "C&W r_2", "DDN r_2")


def specification(rounds: int) -> Spec:
    """The same work as `composed`."""
    return Spec.parse(
        {
            "name": "bench",
            "data": "mnist-5k",
            "models": ["lenet-300-100"],
            "training": {"epochs": 40, "retrain_epochs": 15, "batch_size": 128},
            "pruning": {"rounds": rounds},
            "twin": {"rounds": "none"},
            "attacks": [
                {"name": "fgs", "eps": 0.1},
                {"name": "deepfool"},
                {"name": "cw", "label": "C&W", "converge": True, "searches": 5, "steps": 60, "lr": 0.1},
                {"name": "ddn", "label": "DDN", "converge": True, "steps": 100},
            ],
            "seeds": 1,
        }
    )


def foolbox_figures(net: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
    """Accuracy, accuracy left after FGSM, and the mean distances of Foolbox's attacks; what they do not break is counted, and left out."""
    import foolbox

    attacks = foolbox.attacks
    jobs = {
        "fgs@0.1": (attacks.LinfFastGradientAttack(random_start=False), 0.1, (0, 1)),
        "deepfool": (attacks.L2DeepFoolAttack(steps=50, candidates=3, overshoot=0.02, loss="logits"), None, (-1e4, 1e4)),
        "C&W": (attacks.L2CarliniWagnerAttack(binary_search_steps=5, steps=60, stepsize=0.1, initial_const=0.1), None, (0, 1)),
        "DDN": (attacks.DDNAttack(steps=100), None, (0, 1)),
    }
    with torch.no_grad():
        correct = net(x).argmax(1) == y
    row = {"accuracy": correct.double().mean().item()}
    for name, (attack, eps, bounds) in jobs.items():
        _, found, _ = attack(foolbox.PyTorchModel(net, bounds=bounds), x, y, epsilons=eps)
        with torch.no_grad():
            wrong = net(found).argmax(1) != y
        if eps is None:
            distance = (found - x).flatten(1).norm(dim=1)
            row[name] = torch.where(correct, distance, 0.0)[wrong | ~correct].double().mean().item()
            row[f"{name} failed"] = (correct & ~wrong).sum().item()
        else:
            row[name] = (~wrong).double().mean().item()
    return row


def composed(rounds: int) -> list[dict[str, float]]:
    """The study with the usual tools; two threads."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(2)
    torch.manual_seed(0)
    split = data.load("mnist-5k")
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10))
    loader = DataLoader(TensorDataset(split.train.x, split.train.y), batch_size=128, shuffle=True)

    def train(epochs: int) -> None:
        net.train()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=epochs * len(loader))
        for _ in range(epochs):
            for x, y in loader:
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(x), y).backward()
                optimizer.step()
                schedule.step()
        net.eval()

    rows: list[dict[str, float]] = []
    for level in range(rounds + 1):
        if level:
            for module in (net[1], net[3], net[5]):  # the output layer at half the rate (Frankle & Carbin 2019), or it ends with 3 weights
                prune.l1_unstructured(module, "weight", amount=1 / 6 if module is net[5] else 1 / 3)
        train(15 if level else 40)
        x, y = split.test.x, split.test.y
        rows.append({"level": level} | foolbox_figures(net, x, y))
    return rows


def ours(rounds: int, out: Path) -> float:
    """isogrid's wall time as a command."""
    path = out / "bench.yaml"
    path.write_text(specification(rounds).text())
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "isogrid", "run", str(path), "--out", str(out / "study"), "--workers", "2"], check=True, capture_output=True
    )
    return time.perf_counter() - started


def our_figures(out: Path) -> list[dict[str, float]]:
    """isogrid's figures, a row a level."""
    frontier = pd.read_parquet(out / "study" / "frontier.parquet")
    rows = []
    for level, mine in frontier.groupby("level"):
        row = {"level": float(level), "accuracy": mine.query("metric == 'accuracy'")["value"].item()}
        row["fgs@0.1"] = mine.query("metric == 'r_inf' and attack == 'fgs@0.1'")["value"].item()
        for name in ("deepfool", "C&W", "DDN"):
            row[name] = mine.query("metric == 'r_2' and attack == @name")["value"].item()
        rows.append(row)
    return rows


def same_networks(out: Path, rows: list[dict[str, float]]) -> str:
    """Foolbox's attacks on some of isogrid's own levels: the strengths, network for network."""
    study, test, lines = open_study(out / "study"), data.load("mnist-5k").test, []
    for level in sorted({0, len(rows) // 2, len(rows) - 1}):
        peer = foolbox_figures(study.model(level=level), test.x, test.y)
        lines.append([str(level)] + [f"{rows[level][name]:.3f} / {peer[name]:.3f}" for name in NAMES])
    return harness.table(["level, isogrid / Foolbox on the same network", *LABELS], lines)


def theirs(rounds: int) -> tuple[float, list[dict[str, float]]]:
    """The composed study's wall time as a command, and its figures."""
    started = time.perf_counter()
    result = subprocess.run([sys.executable, __file__, "--composed", "--rounds", str(rounds)], check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    return seconds, json.loads(result.stdout.splitlines()[-1])


def main() -> None:
    """Run the pairs and write the section of RESULTS.md."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=14)
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--composed", action="store_true")
    options = parser.parse_args()
    if options.composed:
        print(json.dumps(composed(options.rounds)))
        return
    ratios, mine, other = [], [], []
    strengths = ""
    for _ in range(options.pairs):
        with tempfile.TemporaryDirectory() as folder:
            a = ours(options.rounds, Path(folder))
            our_rows = our_figures(Path(folder))
            strengths = strengths or same_networks(Path(folder), our_rows)
        b, their_rows = theirs(options.rounds)
        ratios.append(a / b)
        mine.append(a)
        other.append(b)
        print(f"pair {len(ratios)}: {a:.1f} s against {b:.1f} s, ratio {a / b:.3f}", flush=True)
        publish(options.rounds, ratios, (mine, other), (our_rows, their_rows), strengths)


def publish(
    rounds: int,
    ratios: list[float],
    seconds: tuple[list[float], list[float]],
    rows: tuple[list[dict[str, float]], list[dict[str, float]]],
    strengths: str,
) -> None:
    """Write the section from the pairs so far."""
    enough = len(ratios) >= 6
    low, high = harness.order_interval(ratios) if enough else (min(ratios), max(ratios))
    lines = [
        [who, f"{np.median(mine):.0f} s"] + [f"{np.mean([r[n] for r in levels]):.3f}" for n in NAMES]
        for who, mine, levels in zip(("isogrid", "composed"), seconds, rows, strict=True)
    ]
    kind = "95 % interval" if enough else "range"
    decided = "met" if high <= TARGET else "MISSED"
    verdict = f"target {TARGET}: {decided if len(ratios) >= PAIRS else f'not decided, which takes {PAIRS} pairs'}"
    body = (
        f"LeNet-300-100, {rounds} rounds, one seed, 1,000 digits; {len(ratios)} pairs of whole processes, wall time. C&W 5 x 60 "
        f"on both sides, isogrid's with its own first constant. {harness.machine('two cores')}.\n\n"
        f"Ratio isogrid / composed: **{np.median(ratios):.3f}** ({kind} {low:.3f} to {high:.3f}; {verdict}). "
        "Means over the levels:\n\n"
        + harness.table(["", "time", *LABELS], lines)
        + "\n\nThese networks were trained apart. On the same networks (the peer's FGS saturates; its means leave failures out):\n\n"
        + strengths
    )
    harness.write_section("The whole study", body)


if __name__ == "__main__":
    main()
