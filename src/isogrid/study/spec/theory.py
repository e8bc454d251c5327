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
