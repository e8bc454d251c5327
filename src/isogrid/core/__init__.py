"""Foundations that know nothing of models or attacks: errors, norms, randomness, files."""
