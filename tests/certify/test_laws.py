"""The law suite over every registered certificate, and over methods built to break a law: a law that cannot fail is none."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from isogrid.certify import CERTIFICATES, Certifier
from isogrid.certify.method import Found
from isogrid.testing import CERTIFICATE_LAWS, check_certificate

DEAR = {"alpha-crown", "branch-and-bound"}
"""Methods whose laws take minutes together: one domain in each norm is among the fast tests, without the laws that search many times."""
CASES = [
    pytest.param(
        cls(norm=norm, domain=domain),
        law,
        id=f"{name}-{norm}-{domain}-{law}",
        marks=[pytest.mark.slow]
        if name in DEAR and ((norm, domain) in {("l2", "free"), ("linf", "box")} or law in {"rows-alone", "agrees-with-itself"})
        else [],
    )
    for (name, cls), norm, domain, law in itertools.product(CERTIFICATES.items(), ("l2", "linf"), ("box", "free"), CERTIFICATE_LAWS)
]


@pytest.mark.parametrize(("method", "law"), CASES)
def test_law(method, law):
    check_certificate(method, [law])


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimist(Certifier):
    """Proves a constant."""

    name: ClassVar[str] = "optimist"
    radius: float = 0.2

    def search(self, problem):
        return Found(radius=torch.full_like(problem.limit, self.radius))


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbourly(Certifier):
    """Its radii are those of the batch."""

    name: ClassVar[str] = "neighbourly"

    def search(self, problem):
        return Found(radius=torch.full_like(problem.limit, 1e-9 * len(problem.y)))


@pytest.mark.parametrize(
    ("method", "law"),
    [
        (Optimist(), "below-the-truth"),
        (Optimist(), "verdicts-are-true"),
        (Optimist(radius=0.5), "points-keep-their-class"),
        (Optimist(radius=0.0), "below-the-truth"),
        (Optimist(), "affine-is-exact"),
        (Neighbourly(), "rows-alone"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_broken_method_breaks_its_law(method, law):
    with pytest.raises(AssertionError, match=law):
        check_certificate(method, [law])
