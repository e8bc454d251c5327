"""Fixed-budget attacks against their peers: PGD-40 at equal work, AutoAttack standard against the original; CPU time and strength.

    python benchmarks/fixed_budget.py [--pairs 9] [--only pgd|auto] [--networks lenet ...] [--samples N] [--seeds N]

Each part writes its own sections "Fixed budget: ..." of RESULTS.md, AutoAttack's one per network: it takes minutes a row.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Callable
from itertools import count
from typing import Literal

import torch
from harness import Ratio, compare, digits, machine, network, table, write_section
from peers import MissingError, PeerAttack, advlib, peer, torchattacks
from torch import Tensor, nn

from isogrid.attacks import PGD, Attack, AutoAttack
from isogrid.core.norms import NORMS

PGD_EPS = {"lenet": 0.1, "mlp": 0.05, "mlp-98": 0.05, "resnet": 0.03}
REL_STEP = 0.05
STEPS = 40
PGD_SAMPLES = {"lenet": 128, "mlp": 256, "mlp-98": 256, "resnet": 64}
AUTO = (
    ("lenet", "linf", 0.1, 128),
    ("resnet", "linf", 0.06, 64),
    ("lenet", "l2", 1.5, 32),
    ("resnet", "l2", 0.6, 16),
)  # network, norm, eps, samples
NAMES = {"linf": "Linf", "l2": "L2"}  # the original's names
AUTO_RATIO, AUTO_SLACK = 0.5, 0.005


def robust(model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor, eps: float, norm: str = "linf") -> float:
    """Accuracy at x_adv, verified: what lies outside the ball or the box is no candidate and counts as the clean sample."""
    x_adv = x_adv.detach()
    inside = (NORMS[norm].size(x_adv - x) <= eps * (1 + 1e-5) + 1e-6) & ((x_adv >= 0) & (x_adv <= 1)).flatten(1).all(1)
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


def _frozen(name: str) -> nn.Module:
    """The network, its parameters without gradients: peers that leave this to the caller are not charged for it."""
    return network(name).requires_grad_(False)


def run_pgd(name: str, pairs: int, samples: int) -> None:
    """PGD-40 on one network, every peer."""
    body = f"""PGD-{STEPS} l_inf, step {REL_STEP} eps, one uniform start, cross-entropy, {samples} test digits in one batch.
Ratio = our CPU time / theirs,
median of {pairs} interleaved pairs [95 % interval]. Equal work: every row takes all steps; default: rows leave once misclassified.
Ours includes the driver: clean pass, verifying pass, query counts. {machine()}.

"""
    header = ["network", "eps", "peer", "equal work", "default (early stop)", "our accuracy", "their accuracy"]
    lines = []
    _, _, x, y = digits()
    x, y = x[:samples], y[:samples]
    model, eps = _frozen(name), PGD_EPS[name]
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
        write_section(f"Fixed budget: PGD, {name}", body + table(header, lines))


def original(model: nn.Module, x: Tensor, y: Tensor, eps: float, seed: int = 0, norm: str = "linf") -> Tensor:
    """AutoAttack standard by its authors (package pyautoattack)."""
    logging.getLogger("auto-attack").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        attack = peer("pyautoattack").AutoAttack(model, norm=NAMES[norm], eps=eps, version="standard", seed=seed)
        found: Tensor = attack.run_standard_evaluation(x, y, batch_size=len(x))[0]
    return found


def auto(name: str, norm: Literal["linf", "l2"], eps: float, n: int, pairs: int, seeds: int) -> None:
    """AutoAttack standard, pair i under seed i mod `seeds`: CPU time and robust accuracy against the original's."""
    model = _frozen(name)
    _, _, x, y = digits()
    x, y = x[:n], y[:n]
    left: tuple[dict[int, float], dict[int, float]] = ({}, {})  # robust accuracy by seed, ours and theirs
    turns = count(), count()

    def ours() -> None:
        seed = next(turns[0]) % seeds
        left[0][seed] = robust(model, x, y, AutoAttack(eps=eps, norm=norm, thrifty=True)(model, x, y, seed=seed).x_adv, eps, norm)
        print(name, "ours, seed", seed, left[0][seed], flush=True)

    def theirs() -> None:
        seed = next(turns[1]) % seeds
        left[1][seed] = robust(model, x, y, original(model, x, y, eps, seed, norm), eps, norm)
        print(name, "theirs, seed", seed, left[1][seed], flush=True)

    ratio = compare(ours, theirs, pairs)
    means = [sum(side.values()) / len(side) for side in left]
    met = ratio.high <= AUTO_RATIO and means[0] <= means[1] + AUTO_SLACK
    line = [
        name,
        f"{eps:g}",
        str(n),
        *(", ".join(f"{side[seed]:.4f}" for seed in sorted(side)) + f" (mean {mean:.4f})" for side, mean in zip(left, means, strict=True)),
        str(ratio),
        f"{ratio.ours:.1f} / {ratio.theirs:.1f}",
        "met" if met else "MISSED",
    ]
    print(line, flush=True)
    body = f"""AutoAttack standard, {norm}, the first {n} test digits in one batch (ours thrifty); seeds below {seeds}.
Ratio = our CPU time / the original's (pyautoattack), median of {pairs} interleaved pairs [95 % interval]; robust accuracy verified alike.
{machine()}.

"""
    header = [
        "network",
        "eps",
        "samples",
        "robust accuracy, ours",
        "robust accuracy, theirs",
        "ratio",
        "CPU s, ours / theirs",
        f"target: upper end <= {AUTO_RATIO}, accuracy <= theirs + {AUTO_SLACK}",
    ]
    write_section(f"Fixed budget: AutoAttack, {norm}, {name}", body + table(header, [line]))


def main() -> None:
    """Run the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--only", choices=["pgd", "auto"])
    parser.add_argument("--networks", nargs="+", choices=list(PGD_EPS), default=list(PGD_EPS))
    parser.add_argument("--norms", nargs="+", choices=list(NAMES), default=list(NAMES), help="of AutoAttack")
    parser.add_argument("--samples", type=int, help="at most this many samples (default: PGD_SAMPLES and AUTO)")
    parser.add_argument("--seeds", type=int, default=9, help="of AutoAttack: pair i runs under seed i mod this")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.networks:
        if arguments.only in (None, "pgd"):
            run_pgd(name, arguments.pairs, arguments.samples or PGD_SAMPLES[name])
    for name, norm, eps, n in AUTO:
        if name in arguments.networks and norm in arguments.norms and arguments.only in (None, "auto"):
            auto(name, norm, eps, min(n, arguments.samples or n), arguments.pairs, arguments.seeds)


if __name__ == "__main__":
    main()
