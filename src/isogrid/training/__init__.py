"""Training: one loop and its objectives."""

from isogrid.training.loop import EarlyStop, FitConfig, FitLog, OptimizerConfig, fit
from isogrid.training.objectives import OBJECTIVES

__all__ = ["OBJECTIVES", "EarlyStop", "FitConfig", "FitLog", "OptimizerConfig", "fit"]
