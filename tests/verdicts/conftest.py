"""A generator of made-up studies, whose truth is known, for the tests of verdicts and recommendations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import ndtri

from isogrid.verdicts.arm import Arm
from isogrid.verdicts.evidence import Evidence, Measure

LEVELS = tuple(range(15))
FLAT = np.zeros(len(LEVELS))


@pytest.fixture(scope="session")
def made_up():
    """A function of a generator and settings; see `_study`."""
    return _study


def _study(
    rng,
    *,
    seeds=3,
    samples=200,
    control_levels=(0, 6, 10, 14),
    walk=(0.03, 0.03, 0.03),
    start=0.02,
    together=0.7,
    shared=0.3,
    own=0.3,
    base=(0.94, 0.2, 0.9),
    effect=(FLAT, FLAT, FLAT),
    drift=(FLAT, FLAT, FLAT),
    linear=False,
):
    """A made-up study. Accuracy, r_inf and mean distance start at `base` (seeds differ by `start`), move by `effect` along the levels,
    by `drift` along the rounds of training, sparse network and control alike, and by a random walk per seed (standard deviation `walk` at
    the last level; correlation `together` between the three figures; the control has a walk of its own). Each sample is as hard in every
    seed and level, up to noise of a share `shared` that all seeds have in common and one, `own`, that nobody has."""

    def walks():
        steps = rng.normal(size=(4, seeds, len(LEVELS)))
        steps[:, :, 0] = 0
        paths = steps.cumsum(2) / np.sqrt(len(LEVELS) - 1)
        return [scale * (together * paths[3] + np.sqrt(1 - together**2) * paths[k]) for k, scale in enumerate(walk)]

    begin = rng.normal(size=(3, seeds, 1)) * start * np.array([0.3, 1, 1])[:, None, None]
    ease = rng.standard_normal((3, 1, 1, samples), np.float32) * np.float32(np.sqrt(1 - shared**2 - own**2))

    def arrays(levels, paths, effects):
        K = len(levels)
        moved = [begin[k] + paths[k][:, levels] + effects[k][list(levels)] for k in range(3)]
        noise = [
            ease[k] + shared * rng.standard_normal((1, K, samples), np.float32) + own * rng.standard_normal((seeds, K, samples), np.float32)
            for k in range(3)
        ]
        share = [ndtri(np.clip(base[k] + moved[k], 1e-9, 1 - 1e-9))[:, :, None] for k in range(2)]
        correct = (noise[0] < share[0]).astype(float)
        distance = correct * (1 + moved[2])[:, :, None] * np.maximum(base[2] + 0.35 * noise[2], 0.01)
        return correct, (noise[1] < share[1]).astype(float), distance

    sparse = arrays(LEVELS, walks(), np.add(effect, drift))
    control = [values.copy() for values in arrays(control_levels, walks(), drift)] if control_levels else [None] * 3
    if 0 in control_levels:
        for values, reference in zip(control, sparse, strict=True):
            values[:, 0] = reference[:, 0]
    common = {"domain": "box", "strength": 1, "levels": LEVELS, "control_levels": control_levels}
    pgd = Measure(name="pgd@0.1", attack="pgd", norm="linf", eps=0.1, kind="r_inf", values=sparse[1], control_values=control[1], **common)
    ddn = Measure(name="ddn", attack="ddn", norm="l2", eps=None, kind="distance", values=sparse[2], control_values=control[2], **common)
    return Evidence(
        arm=Arm(data="made-up", model="network", pruner="progressive"),
        linear=linear,
        sparsity={level: 1 - (2 / 3) ** level for level in LEVELS},
        levels=LEVELS,
        correct=sparse[0],
        collapsed=np.zeros((seeds, len(LEVELS)), bool),
        control_levels=control_levels,
        control_correct=control[0],
        measures=(pgd, ddn),
    )
