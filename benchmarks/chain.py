"""The chain: 15 levels of LeNet-300-100 attacked as one job, against each attack run separately, cold, on each level.

Both use the same attacks in the same order on the same digits: FGS, PGD-40 and APGD-T at eps 0.1, DeepFool, DDN. The chain must be
nowhere weaker. `python benchmarks/chain.py [--pairs 9] [--samples 300]`.
"""

from __future__ import annotations

import argparse
import copy

import harness
import torch
from torch import nn

from isogrid.attacks import APGDT, DDN, FGS, PGD, AttackOutcome, DeepFool, attack_levels
from isogrid.sparsity import Masks, Progressive
from isogrid.training import FitConfig, fit

ATTACKS = (FGS(eps=0.1), PGD(eps=0.1, steps=40), APGDT(eps=0.1), DeepFool(), DDN())
ROUNDS = 14
TARGET = 0.8


def levels() -> list[nn.Module]:
    """The dense network and its pruned levels, three epochs of retraining each."""
    x, y, _, _ = harness.digits()
    model = copy.deepcopy(harness.network("mlp"))
    found, masks = [copy.deepcopy(model)], Masks.dense(model)
    for level in range(1, ROUNDS + 1):
        masks = Progressive().prune(model, masks)
        fit(model, x, y, FitConfig(epochs=3), seed=0, purpose=("bench", level), masks=masks)
        found.append(copy.deepcopy(model))
    return found


def main() -> None:
    """Measure and write the section of RESULTS.md."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--samples", type=int, default=300)
    options = parser.parse_args()
    torch.set_num_threads(1)
    models = levels()
    _, _, x, y = harness.digits()
    x, y = x[: options.samples], y[: options.samples]

    def separate() -> list[list[AttackOutcome]]:
        return [[attack(model, x, y) for attack in ATTACKS] for model in models]

    alone, lines = separate(), []
    for name, thrifty in (("thrifty", True), ("every run to its end", False)):

        def chain(thrifty: bool = thrifty) -> list[list[AttackOutcome]]:
            return attack_levels(models, ATTACKS, x, y, thrifty=thrifty)

        ratio = harness.compare(chain, separate, options.pairs)
        mine = [(a, b) for ours, theirs in zip(chain(), alone, strict=True) for a, b in zip(ours, theirs, strict=True)]
        weaker = sum(int((a.failed & b.success).sum()) for a, b in mine)
        robust = [sum(float(pair[side].robust.double().mean()) for pair in mine[2 :: len(ATTACKS)]) / len(models) for side in (0, 1)]
        verdict = f"{'met' if ratio.high <= TARGET else 'MISSED'} (<= {TARGET:.2f})"
        seconds = f"{ratio.ours:.1f} / {ratio.theirs:.1f}"
        lines.append([name, str(ratio), seconds, verdict, str(weaker), f"{robust[0]:.4f} / {robust[1]:.4f}"])
        print(lines[-1], flush=True)
    body = (
        f"{len(models)} levels of LeNet-300-100, {len(y)} digits, {harness.machine()}; {options.pairs} interleaved pairs. FGS, PGD-40 and "
        "APGD-T at eps 0.1, DeepFool, DDN; separate: every attack to its end on every sample of every level.\n\n"
        + harness.table(
            ["chain", "time, chain / separate", "CPU s", "target", "verdicts where weaker", "robust accuracy after APGD-T, chain / alone"],
            lines,
        )
    )
    harness.write_section("The chain", body)
    print(body)


if __name__ == "__main__":
    main()
