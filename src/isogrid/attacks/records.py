"""An attack's outcome as records, one row per sample: what is stored, audited and shown."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from isogrid.attacks.driver.base import AttackOutcome


def outcome_frame(outcome: AttackOutcome) -> pd.DataFrame:
    """One record per sample: what an attack cell stores."""
    return pd.DataFrame(
        {
            "sample": np.arange(len(outcome.label)),
            "label": to_numpy(outcome.label),
            "clean": to_numpy(outcome.clean),
            "adversarial": to_numpy(outcome.adversarial),
            "success": to_numpy(outcome.success),
            "distance": to_numpy(outcome.distance.double()),
            "margin": to_numpy(outcome.margin.double()),
            "zero_gradient": to_numpy(outcome.zero_gradient),
            "broken_gradient": to_numpy(outcome.broken_gradient),
            "forwards": to_numpy(outcome.forwards),
            "backwards": to_numpy(outcome.backwards),
        }
    )


def no_records() -> pd.DataFrame:
    """The records of an attack that had nothing left to attack."""
    kinds = dict.fromkeys(("success", "zero_gradient", "broken_gradient"), "bool") | dict.fromkeys(("distance", "margin"), "float64")
    counted = ("sample", "label", "clean", "adversarial", "forwards", "backwards")
    return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in (dict.fromkeys(counted, "int64") | kinds).items()})


def to_numpy(tensor: Tensor) -> np.ndarray[Any, Any]:
    """The tensor as an array on the CPU."""
    array: np.ndarray[Any, Any] = tensor.cpu().numpy()
    return array
