"""Fixed-budget attacks against their peers: PGD-40 at equal work, AutoAttack standard against the original; CPU time and strength.

    python benchmarks/fixed_budget.py [--pairs 9] [--only pgd|autoattack] [--samples N]

Writes the section "Fixed budget" of RESULTS.md, one per part.
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from collections.abc import Callable
from functools import partial

import torch
from harness import Ratio, compare, digits, machine, network, table, write_section
from peers import MissingError, PeerAttack, advlib, peer, torchattacks
from torch import Tensor, nn

from isogrid.attacks import PGD, Attack, AutoAttack

PGD_EPS = {"lenet": 0.1, "mlp": 0.05, "mlp-98": 0.05, "resnet": 0.03}
REL_STEP = 0.05
STEPS = 40
AUTO = (("lenet", 0.1, 128), ("resnet", 0.03, 64))  # network, eps, samples
SEEDS = 3


def robust(model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor, eps: float) -> float:
    """Accuracy at x_adv, verified: what lies outside the ball or the box is no candidate and counts as the clean sample."""
    x_adv = x_adv.detach()
    inside = ((x_adv - x).flatten(1).abs().amax(1) <= eps * (1 + 1e-5) + 1e-6) & ((x_adv >= 0) & (x_adv <= 1)).flatten(1).all(1)
    with torch.no_grad():
        return (model(torch.where(inside.view(-1, 1, 1, 1), x_adv, x)).argmax(1) == y).float().mean().item()


def race(ours: Attack, theirs: PeerAttack, model: nn.Module, x: Tensor, y: Tensor, pairs: int) -> Ratio:
    """Interleaved pairs of the two attacks on the same samples."""
    return compare(lambda: ours(model, x, y), lambda: theirs(model, x, y), pairs)


def pgd_peers(eps: float) -> dict[str, Callable[[], PeerAttack]]:
    """The same PGD in other libraries: 40 steps of REL_STEP * eps from a uniform start, cross-entropy, no early stop."""
    step = REL_STEP * eps

    def adv() -> PeerAttack:
        run = advlib("projected_gradient_descent").pgd_linf
        return lambda model, x, y: run(model, x, y, ε=eps, steps=STEPS, random_init=True, absolute_step_size=step)

    def fool() -> PeerAttack:
        fb = peer("foolbox")
        attack = fb.attacks.LinfPGD(rel_stepsize=REL_STEP, steps=STEPS)

        def run(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            found: Tensor = attack(fb.PyTorchModel(model, bounds=(0, 1), device=x.device), x, y, epsilons=eps)[1]
            return found

        return run

    return {
        "torchattacks": lambda: torchattacks(lambda lib, model: lib.PGD(model, eps=eps, alpha=step, steps=STEPS)),
        "adv-lib": adv,
        "foolbox": fool,
    }


def run_pgd(pairs: int, samples: int) -> None:
    """PGD-40 on four networks, every peer."""
    lines = []
    _, _, x, y = digits()
    x, y = x[:samples], y[:samples]
    for name, eps in PGD_EPS.items():
        model = network(name)
        for parameter in model.parameters():
            parameter.requires_grad_(False)  # peers that leave this to the caller are not charged for it
        equal, early = PGD(eps=eps, rel_step=REL_STEP, steps=STEPS, early_stop=False), PGD(eps=eps, rel_step=REL_STEP, steps=STEPS)
        own = robust(model, x, y, equal(model, x, y).x_adv, eps)
        for title, build in pgd_peers(eps).items():
            try:
                other = build()
            except MissingError as reason:
                lines.append([name, f"{eps:g}", title, f"not measured ({reason})", "", "", ""])
                continue
            theirs = robust(model, x, y, other(model, x, y), eps)
            same, stop = race(equal, other, model, x, y, pairs), race(early, other, model, x, y, pairs)
            lines.append([name, f"{eps:g}", title, str(same), str(stop), f"{own:.4f}", f"{theirs:.4f}"])
            print(lines[-1], flush=True)
    body = f"""PGD-{STEPS} l_inf, step {REL_STEP} eps, one uniform start, cross-entropy, {samples} test digits in one batch.
Ratio = our CPU time / theirs,
median of {pairs} interleaved pairs [95 % interval]. Equal work: every row takes all steps; default: rows leave once misclassified.
Ours includes the driver: clean pass, verifying pass, query counts. {machine()}.

"""
    header = ["network", "eps", "peer", "equal work", "default (early stop)", "our accuracy", "their accuracy"]
    write_section("Fixed budget: PGD", body + table(header, lines))


def original(model: nn.Module, x: Tensor, y: Tensor, eps: float, seed: int = 0) -> Tensor:
    """AutoAttack standard by its authors (package pyautoattack)."""
    logging.getLogger("auto-attack").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        attack = peer("pyautoattack").AutoAttack(model, norm="Linf", eps=eps, version="standard", seed=seed)
        found: Tensor = attack.run_standard_evaluation(x, y, batch_size=len(x))[0]
    return found


def run_auto(pairs: int, limit: int | None) -> None:
    """AutoAttack standard: time and robust accuracy against the original, and our own full schedule beside."""
    lines = []
    _, _, x_all, y_all = digits()
    for name, eps, n in AUTO:
        model = network(name)
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        n = min(n, limit or n)
        x, y = x_all[:n], y_all[:n]
        ours = [AutoAttack(eps=eps)(model, x, y, seed=seed).robust.float().mean().item() for seed in range(SEEDS)]
        theirs = [robust(model, x, y, original(model, x, y, eps, seed), eps) for seed in range(SEEDS)]
        started = time.process_time()
        full = AutoAttack(eps=eps, thrifty=False)(model, x, y).robust.float().mean().item()
        full_seconds = time.process_time() - started
        ratio = race(AutoAttack(eps=eps), partial(original, eps=eps), model, x, y, pairs)
        lines.append(
            [
                name,
                f"{eps:g}",
                str(n),
                str(ratio),
                f"{ratio.ours:.1f} / {ratio.theirs:.1f}",
                f"{sum(ours) / SEEDS:.4f}",
                f"{sum(theirs) / SEEDS:.4f}",
                f"{full:.4f} in {full_seconds:.1f} s",
            ]
        )
        print(lines[-1], flush=True)
    body = f"""AutoAttack standard, l_inf.
Ratio = our CPU time / the original's (pyautoattack), median of {pairs} interleaved pairs [95 % interval].
Robust accuracy: mean of {SEEDS} seeds over the samples named, verified alike. {machine()}.

"""
    header = [
        "network",
        "eps",
        "samples",
        "ratio",
        "seconds, ours / theirs",
        "our robust accuracy",
        "theirs",
        "ours, thrifty=False (one run)",
    ]
    write_section("Fixed budget: AutoAttack", body + table(header, lines))


def main() -> None:
    """Run the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--only", choices=["pgd", "autoattack"])
    parser.add_argument("--samples", type=int, help="at most this many samples (default: 512 for PGD, 128 and 64 for AutoAttack)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.only != "autoattack":
        run_pgd(arguments.pairs, arguments.samples or 512)
    if arguments.only != "pgd":
        run_auto(arguments.pairs, arguments.samples)


if __name__ == "__main__":
    main()
