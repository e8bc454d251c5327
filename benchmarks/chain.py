"""The chain: 15 levels of LeNet-300-100 attacked as one job, against each attack run separately, cold, on each level.

Both use the same converged attacks in the same order on the same 500 digits: FGS, PGD-40 and APGD-T at eps 0.1, DeepFool, DDN. The chain
must be nowhere weaker. `python benchmarks/chain.py [--pairs 9]`.
"""

from __future__ import annotations

import argparse
import copy

import harness
import torch
from torch import nn

from isogrid.attacks import APGDT, DDN, FGS, PGD, DeepFool, attack_levels
from isogrid.sparsity import Masks, Progressive
from isogrid.training import FitConfig, fit

ATTACKS = (FGS(eps=0.1), PGD(eps=0.1, steps=40), APGDT(eps=0.1), DeepFool(), DDN())
ROUNDS = 14


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
    parser.add_argument("--samples", type=int, default=500)
    options = parser.parse_args()
    torch.set_num_threads(1)
    models = levels()
    _, _, x, y = harness.digits()
    x, y = x[: options.samples], y[: options.samples]

    def chain() -> object:
        return attack_levels(models, ATTACKS, x, y)

    def separate() -> object:
        return [[attack(model, x, y) for attack in ATTACKS] for model in models]

    ratio = harness.compare(chain, separate, options.pairs)
    mine, other = attack_levels(models, ATTACKS, x, y), [[attack(model, x, y) for attack in ATTACKS] for model in models]
    weaker = sum(int((a.failed & b.success).sum()) for la, lb in zip(mine, other, strict=True) for a, b in zip(la, lb, strict=True))
    left = [sum(float(level[k].failed.double().mean()) for level in side) / len(models) for side in (mine, other) for k in (2,)]
    body = (
        f"{len(models)} levels of LeNet-300-100, {len(y)} digits, {harness.machine()}. Ratio of CPU time, {ratio.pairs} interleaved pairs: "
        f"**{ratio}** (target 0.80: {'met' if ratio.high <= 0.8 else 'missed'}); {ratio.ours:.1f} s against {ratio.theirs:.1f} s.\n"
        f"Verdicts where the chain is weaker than an attack alone: {weaker}. Mean accuracy left of correct samples after APGD-T: "
        f"{left[0]:.4f} in the chain, {left[1]:.4f} alone."
    )
    harness.write_section("The chain", body)
    print(body)


if __name__ == "__main__":
    main()
