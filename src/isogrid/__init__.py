"""isogrid: prune a classifier level by level, attack every level, and say with statistics which sparsity is the most robust."""

__version__ = "0.1.0"
