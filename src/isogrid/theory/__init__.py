"""The paper's theory, computed: closed forms, bounds and norms that attacks and certificates are compared with."""

from isogrid.theory.affine import box_distance, free_distance, linear_weights
from isogrid.theory.clever import Estimate, clever
from isogrid.theory.linear import LinearTheory, TheoryRow, fgs_assumption, linear_theory
from isogrid.theory.lipschitz import MatrixNorms, eclipse_fast, matrix_norms
from isogrid.theory.local import Linearised, linearise
from isogrid.theory.masks import expected_frobenius, expected_row_sum

__all__ = [
    "Estimate",
    "LinearTheory",
    "Linearised",
    "MatrixNorms",
    "TheoryRow",
    "box_distance",
    "clever",
    "eclipse_fast",
    "expected_frobenius",
    "expected_row_sum",
    "fgs_assumption",
    "free_distance",
    "linear_theory",
    "linear_weights",
    "linearise",
    "matrix_norms",
]
