"""DDN, FMN and FAB-T against adv-lib and pyautoattack: CPU time in interleaved pairs, verified success and mean distance.

Run `python benchmarks/minimum_norm_ddn.py [network ...]` (default: all); it writes its section of RESULTS.md.
Peers get the settings of their papers; FAB is compared as a verdict for an eps near the median distance, the only form in which the
original runs.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import torch
from harness import Ratio, compare, correct_samples, machine, network, table, write_section
from peers import MissingError, advlib, peer
from torch import Tensor, nn

from isogrid.attacks import DDN, FAB, FMN, Attack
from isogrid.core.norms import NORMS

HEADER = ["network", "samples", "attack", "against", "time ratio", "seconds", "success, theirs", "mean distance, theirs"]
SAMPLES = {"lenet": 10, "mlp": 320, "mlp-98": 320, "resnet": 10}
FAB_SAMPLES = {"lenet": 3, "mlp": 12, "mlp-98": 12, "resnet": 3}
PAIRS, CLOSE_PAIRS = 9, 25  # the latter where the target is parity
TARGETS = 3  # classes that either FAB-T tries: all nine would take ten minutes


def _judge(model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor, norm: str, eps: float | None) -> Tensor:
    """Distances [N] of what an independent pass finds misclassified (and within eps), inf elsewhere."""
    x_adv = x_adv.detach().clamp(0, 1)
    with torch.no_grad():
        broken = model(x_adv).argmax(1) != y
    size = NORMS[norm].size(x_adv - x)
    return torch.where(broken & (size <= (math.inf if eps is None else eps * (1 + 1e-5))), size, math.inf)


def row(
    name: str,
    x: Tensor,
    y: Tensor,
    model: nn.Module,
    attack: Attack,
    label: str,
    their: tuple[str, Callable[[], Tensor]],
    pairs: int = PAIRS,
) -> list[str]:
    """One line: ours against theirs; mean distances over the samples where both succeed."""
    against, run = their
    ours = _judge(model, x, y, attack(model, x, y).x_adv, attack.threat.name, attack.budget)
    theirs = _judge(model, x, y, run(), attack.threat.name, attack.budget)
    both = torch.isfinite(ours) & torch.isfinite(theirs)
    ratio: Ratio = compare(lambda: attack(model, x, y), run, pairs)
    rates = [torch.isfinite(d).float().mean().item() for d in (ours, theirs)]
    means = [d[both].mean().item() if bool(both.any()) else math.nan for d in (ours, theirs)]
    return [
        name,
        str(len(x)),
        label,
        against,
        str(ratio),
        f"{ratio.ours:.2f}, {ratio.theirs:.2f}",
        f"{rates[0]:.3f}, {rates[1]:.3f}",
        f"{means[0]:.4f}, {means[1]:.4f}",
    ]


def rows(name: str) -> list[list[str]]:
    """Every line of one network."""
    model = network(name)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    x, y = correct_samples(model, SAMPLES[name])
    ddn, fmn = advlib("decoupled_direction_norm").ddn, advlib("fast_minimum_norm").fmn
    peer_ddn = ("adv-lib DDN-100", lambda: ddn(model, x, y, steps=100, levels=None))
    lines = [
        row(name, x, y, model, DDN(), "DDN, as published", peer_ddn, CLOSE_PAIRS),
        row(name, x, y, model, DDN(converge=True), "DDN converging", peer_ddn),
        row(name, x, y, model, FMN(converge=True), "FMN l2 converging", peer_ddn),
        row(
            name,
            x,
            y,
            model,
            FMN(converge=True, norm="linf"),
            "FMN l_inf converging",
            ("adv-lib FMN-100", lambda: fmn(model, x, y, norm=math.inf, steps=100)),
        ),
    ]
    x, y = x[: FAB_SAMPLES[name]], y[: FAB_SAMPLES[name]]
    for norm, code in (("l2", "L2"), ("linf", "Linf")):
        eps = 1.05 * FMN(converge=True, norm=norm)(model, x, y).distance.median().item()
        original = peer("pyautoattack.fab_pt").FABAttack_PT(model, norm=code, n_iter=100, eps=eps, seed=0, targeted=True, device="cpu")
        original.n_target_classes = TARGETS
        label = f"FAB-T {norm} converging, {TARGETS} targets, eps {eps:.3g}"
        theirs = ("pyautoattack FAB-T", lambda attack=original, x=x, y=y: attack.perturb(x, y))
        lines.append(row(name, x, y, model, FAB(converge=True, norm=norm, eps=eps, targets=TARGETS), label, theirs))
    return lines


def main() -> None:
    """Measure the networks named on the command line."""
    torch.set_num_threads(1)
    lines = []
    for name in sys.argv[1:] or list(SAMPLES):
        try:
            lines += rows(name)
        except MissingError as reason:
            lines.append([name, str(reason), *["-"] * (len(HEADER) - 2)])
    note = (
        f"Ratios: ours / theirs, median of {PAIRS} interleaved pairs ({CLOSE_PAIRS} at fixed steps) with a 95 % interval; "
        "mean distances where both succeed."
    )
    write_section("DDN, FMN and FAB-T", f"{table(HEADER, lines)}\n\n{note} {machine()}.")


if __name__ == "__main__":
    main()
