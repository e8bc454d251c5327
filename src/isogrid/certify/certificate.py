"""What is proved: radii, verdicts at an eps, brackets with an attack. Not here: how anything is proved (method.py runs that)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from isogrid.attacks import Domain
from isogrid.core.errors import InputError
from isogrid.core.norms import Norm

CROSSING: Final = 1e-5
"""A lower end may exceed an upper one by this share (and by a hundredth of it): an attack's distance is measured in float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """Proved per sample: no input within `domain` and closer than radius [B] (float64, in `norm`) is classified otherwise.

    It speaks of the model as deployed: of every result that its own float arithmetic can give, in whatever order it sums. Radius 0:
    nothing is proved (a misclassified sample, too). Infinite: the prediction is the same in the whole box. `upper` [B]: the distance of
    the closest counterexample that is known, confirmed by the model itself; inf where none is. Raises InputError for NaN or negative
    radii, and where a radius exceeds its upper end beyond rounding, which would mean that one of them is wrong.
    """

    method: str
    norm: Norm
    domain: Domain
    radius: Tensor
    upper: Tensor

    def __post_init__(self) -> None:
        if self.radius.shape != self.upper.shape or not bool((self.radius >= 0).all()):
            raise InputError("radius", "NaN or negative radii", "radii >= 0, one for each upper end")
        _ordered(self.radius, self.upper, self.method)

    def verified(self, eps: float) -> Tensor:
        """bool [B]: proved robust against perturbations up to eps."""
        return self.radius >= eps

    def exact(self, tolerance: float = 1e-2) -> Tensor:
        """bool [B]: the smallest perturbation is known up to the share `tolerance`: it lies between `radius` and `upper`."""
        return (self.radius >= self.upper * (1 - tolerance)) | (self.radius == self.upper)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdicts:
    """What is known of perturbations up to `eps`, bool [B]: `certified` (no input within it is classified otherwise), `broken` (x_adv is).

    x_adv [B, *S] lies within eps and the domain, in the model's own type, and was classified otherwise by the model itself; where a sample
    is not broken it is the sample. Undecided: neither.
    """

    method: str
    norm: Norm
    domain: Domain
    eps: float
    certified: Tensor
    broken: Tensor
    x_adv: Tensor

    def __post_init__(self) -> None:
        both = torch.nonzero(self.certified & self.broken).flatten().tolist()
        if both:
            raise InputError("verdicts", f"samples {both[:5]} both certified and broken", "one of the two: a certificate is wrong")

    @property
    def undecided(self) -> Tensor:
        """bool [B]."""
        return ~(self.certified | self.broken)


def strongest(certificates: Sequence[Certificate]) -> Certificate:
    """The largest radius and the smallest upper end of several certificates of the same samples, norm and domain.

    Raises InputError where there is none, where these differ, or where one's radius exceeds another's upper end.
    """
    if not certificates:
        raise InputError("certificates", "none", "at least one certificate")
    first = certificates[0]
    if any(c.norm is not first.norm or c.domain != first.domain or c.radius.shape != first.radius.shape for c in certificates):
        raise InputError("certificates", [c.method for c in certificates], "certificates of one set of samples in one norm and domain")
    return Certificate(
        method="+".join(dict.fromkeys(c.method for c in certificates)),
        norm=first.norm,
        domain=first.domain,
        radius=torch.stack([c.radius for c in certificates]).amax(0),
        upper=torch.stack([c.upper for c in certificates]).amin(0),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bracket:
    """The minimal perturbation of each sample lies between lower and upper [B]: a certificate and an attack in one norm and domain.

    `upper`: the distances that an attack verified, inf where it failed. Raises InputError where `lower` is no Certificate (an estimate is
    none), norms or domains differ, or a lower end exceeds its upper one beyond rounding, which would mean that one of them is wrong.

    >>> from isogrid.core.norms import L2
    >>> known = torch.tensor([0.5], dtype=torch.float64)
    >>> exact = Certificate(method="exact", norm=L2, domain=Domain(), radius=known, upper=known)
    >>> Bracket(certificate=exact, upper=torch.tensor([0.6]), norm=L2, domain=Domain()).ratio.item()
    0.8333...
    """

    certificate: Certificate
    upper: Tensor
    norm: Norm
    domain: Domain

    def __post_init__(self) -> None:
        lower = self.certificate
        if not isinstance(lower, Certificate):
            raise InputError("lower end", type(lower).__name__, "a Certificate; an estimate proves nothing")
        if lower.norm is not self.norm or lower.domain != self.domain or lower.radius.shape != self.upper.shape:
            certified, attacked = (lower.norm, lower.domain, lower.radius), (self.norm, self.domain, self.upper)
            got = " against ".join(f"{norm.name}, {domain}, {len(ends)} samples" for norm, domain, ends in (certified, attacked))
            raise InputError("bracket", got, "both ends in one norm, one domain and for the same samples")
        _ordered(lower.radius, self.upper, lower.method)

    @property
    def lower(self) -> Tensor:
        """The certified radii [B]."""
        return self.certificate.radius

    @property
    def ratio(self) -> Tensor:
        """lower / upper [B], 1 where both are 0 or both infinite: how tight the bracket is."""
        upper = self.upper.double()
        same = (self.lower == upper) | (upper == 0)
        return torch.where(same, 1.0, self.lower / upper.clamp_min(1e-300)).clamp_max(1.0)


def _ordered(lower: Tensor, upper: Tensor, method: str) -> None:
    """Raise InputError where a lower end exceeds its upper one beyond rounding."""
    crossed = torch.nonzero(lower > upper.double() * (1 + CROSSING) + CROSSING * 1e-2).flatten().tolist()
    if crossed:
        i = crossed[0]
        got = f"sample {i}: certified {float(lower[i]):.6g} above {float(upper[i]):.6g} ({method}; {len(crossed)} in all)"
        raise InputError("bracket", got, "lower ends that do not exceed the distances found: a certificate or an attack is wrong")
