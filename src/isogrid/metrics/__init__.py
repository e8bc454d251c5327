"""Figures from per-sample arrays, and the statistics of their means: numpy and scipy only, no model is ever called here."""
