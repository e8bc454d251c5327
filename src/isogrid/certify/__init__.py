"""Certificates: lower bounds on the minimal perturbation that are proved, and exact ones; `CERTIFICATES` is the registry.

certificate = make({"name": "crown", "norm": "l2"})(model, x, y)     # certificate.radius [N]
verdicts = CROWN(norm="linf").verify(model, x, y, eps=0.1)            # verdicts.certified, .broken, .undecided [N]
decide(models.read_onnx("net.onnx"), read_property("prop.vnnlib"), [CROWN(norm="linf")]).verdict    # "holds", "violated" or "unknown"
"""

from __future__ import annotations

from isogrid.certify.alpha import AlphaCROWN
from isogrid.certify.branch import BranchAndBound
from isogrid.certify.certificate import Bracket, Certificate, Verdicts, strongest
from isogrid.certify.crown import CROWN, CROWNIBP, IBP, FastLin
from isogrid.certify.fast_lip import FastLip
from isogrid.certify.method import Certifier
from isogrid.certify.norm_product import NormProduct
from isogrid.certify.properties import Decision, Property, decide, read_property
from isogrid.certify.reading import read_graph
from isogrid.core.registry import Registry

CERTIFICATES: Registry[Certifier] = Registry(
    "certificate", Certifier, IBP, CROWNIBP, CROWN, AlphaCROWN, FastLin, FastLip, NormProduct, BranchAndBound
)
"""Name -> method of certifying."""
make = CERTIFICATES.make

__all__ = [
    "CERTIFICATES",
    "CROWN",
    "CROWNIBP",
    "IBP",
    "AlphaCROWN",
    "Bracket",
    "BranchAndBound",
    "Certificate",
    "Certifier",
    "Decision",
    "FastLin",
    "FastLip",
    "NormProduct",
    "Property",
    "Verdicts",
    "decide",
    "make",
    "read_graph",
    "read_property",
    "strongest",
]
