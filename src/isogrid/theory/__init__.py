"""The paper's theory, computed: closed forms and bounds that attacks are compared with."""

from isogrid.theory.affine import box_distance, free_distance, linear_weights
from isogrid.theory.linear import LinearTheory, TheoryRow, fgs_assumption, linear_theory

__all__ = ["LinearTheory", "TheoryRow", "box_distance", "fgs_assumption", "free_distance", "linear_theory", "linear_weights"]
