"""Training: one loop, its settings, objectives and penalties."""

from isogrid.training.config import EarlyStop, FitConfig
from isogrid.training.loop import FitLog, fit
from isogrid.training.objectives import OBJECTIVES, Objective
from isogrid.training.optimizers import OptimizerConfig
from isogrid.training.penalties import PENALTIES, Penalty

__all__ = ["OBJECTIVES", "PENALTIES", "EarlyStop", "FitConfig", "FitLog", "Objective", "OptimizerConfig", "Penalty", "fit"]
