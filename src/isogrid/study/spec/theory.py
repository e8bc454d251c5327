"""What is proved and measured of levels beside attacks: certificates, and the Lipschitz constants behind them. Not here: either itself."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from isogrid.certify import make
from isogrid.core.errors import InputError
from isogrid.study.spec.part import WITHOUT_SOURCES, Part

Norms = tuple[Literal["l2", "linf"], ...]


class CertifySpec(Part):
    """Certified radii of the levels of nonlinear models (of affine ones the theory gives the exact distances): the brackets' lower ends.

    `methods`: names or configurations, of which the best is taken per sample; each in every one of `norms`, in `domain`. `samples`: the
    first so many; `seeds`: of the first so many (None = all); `levels`: which (None = all). `eps`: budgets of certified accuracy by norm;
    those of the attacks where nothing is given. `control`: whether the attacked rounds of the dense control get certificates too.
    """

    methods: tuple[dict[str, Any], ...] = ({"name": "crown-ibp"},)
    norms: Norms = ("linf", "l2")
    domain: Literal["box", "free"] = "box"
    samples: int | None = Field(100, ge=1)
    seeds: int | None = Field(None, ge=1)
    levels: tuple[int, ...] | None = None
    eps: dict[Literal["l2", "linf"], tuple[float, ...]] = Field(default={}, validate_default=False)
    control: bool = True

    @field_validator("methods", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        many = value if isinstance(value, list | tuple) else [value]
        return [{"name": one} if isinstance(one, str) else one for one in many]

    @model_validator(mode="after")
    def _buildable(self, info: ValidationInfo) -> CertifySpec:
        if info.context == WITHOUT_SOURCES:
            return self
        if not self.methods or not self.norms:
            raise InputError("certify.methods" if not self.methods else "certify.norms", [], "at least one")
        for config in self.methods:
            if given := {"norm", "domain"} & set(config):
                raise InputError(
                    f"certify.methods.{min(given)}", config[min(given)], "none: certify.norms and certify.domain say it of all methods"
                )
            make(config)
        return self


class ExactSpec(Part):
    """Complete search: on levels of nonlinear models, which samples are robust at a budget in truth, and how far each is from a boundary.

    `norms`, `domain`, `samples`, `seeds` and `levels` as in `certify`; None: all. `eps`: budgets by norm; those of the attacks where
    nothing is given. `distances`: also the smallest perturbations, in these norms. `method`: branch-and-bound with its limits (`nodes`,
    `seconds` a sample: with seconds results depend on the machine). Pitfall: on networks that are not very sparse most samples reach the
    limit. Several such parts in a list may ask for other samples or levels, each.
    """

    norms: Norms = ("linf",)
    distances: Norms = ()
    domain: Literal["box", "free"] = "box"
    samples: int | None = Field(None, ge=1)
    seeds: int | None = Field(None, ge=1)
    levels: tuple[int, ...] | None = None
    eps: dict[Literal["l2", "linf"], tuple[float, ...]] = Field(default={}, validate_default=False)
    method: dict[str, Any] = Field(default={"name": "branch-and-bound"})

    @field_validator("method", mode="before")
    @classmethod
    def _name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else {"name": "branch-and-bound"} | value if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _buildable(self, info: ValidationInfo) -> ExactSpec:
        if info.context == WITHOUT_SOURCES:
            return self
        if given := {"norm", "domain"} & set(self.method):
            raise InputError(f"exact.method.{min(given)}", self.method[min(given)], "none: exact.norms and exact.domain say it")
        make(self.method)
        for norm, budgets in self.eps.items():
            for eps in budgets:
                if not 0 < eps < float("inf"):
                    raise InputError(f"exact.eps.{norm}", eps, "finite numbers > 0")
        return self

    def overlap(self, other: ExactSpec) -> str:
        """What both ask of the same level; "" for nothing."""
        apart = self.levels is not None and other.levels is not None and not set(self.levels) & set(other.levels)
        if apart or self.domain != other.domain:
            return ""
        both = [*(set(self.norms) & set(other.norms)), *(f"distances in {norm}" for norm in set(self.distances) & set(other.distances))]
        return ", ".join(sorted(both))


class LipschitzSpec(Part):
    """Margins, slopes and Lipschitz constants of the levels of nonlinear models: why one is more or less robust than the dense network.

    `samples`, `seeds`, `levels` as in `certify`. `radii`: of the balls in which gradients are bounded and units counted as stable, by norm.
    `draws`: Bernoulli masks of each level's densities that are put on the dense network. `clever`: on how many samples CLEVER estimates.
    """

    samples: int = Field(100, ge=2)
    seeds: int | None = Field(None, ge=1)
    levels: tuple[int, ...] | None = None
    radii: dict[Literal["l2", "linf"], float] = Field(default={"linf": 0.01, "l2": 0.1})
    draws: int = Field(2, ge=1)
    clever: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _radii(self) -> LipschitzSpec:
        for norm, radius in self.radii.items():
            if not radius > 0:
                raise InputError(f"lipschitz.radii.{norm}", radius, "a finite number > 0")
        return self
