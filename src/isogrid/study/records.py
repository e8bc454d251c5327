"""The per-sample records of an attack, as its cell stores them."""

from __future__ import annotations

from torch import Tensor

from isogrid.attacks.driver.base import AttackOutcome
from isogrid.attacks.records import outcome_frame, to_numpy
from isogrid.study.store import Cell


def put_outcome(cell: Cell, outcome: AttackOutcome, rows: Tensor, cpu_seconds: float, shown: dict[str, Tensor]) -> None:
    """Store an outcome: per-sample records, the counts that tables need, examples for the gallery."""
    frame = outcome_frame(outcome).assign(sample=to_numpy(rows))
    metrics = {
        "n": len(frame),
        "correct": int(outcome.correct.sum()),
        "robust": int(outcome.robust.sum()),
        "success": int(outcome.success.sum()),
        "failed": int(outcome.failed.sum()),
        "zero_gradient": int(outcome.zero_gradient.sum()),
        "forwards": int(outcome.forwards.sum()),
        "backwards": int(outcome.backwards.sum()),
    }
    cell.put(metrics=metrics, cpu_seconds=cpu_seconds, records=frame, tensors={"examples": shown})
