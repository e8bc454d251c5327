"""Data: `load` gives `Split(train, test)` of `Samples` by name or path; `DATA` is the registry of names."""

from isogrid.data.load import DATA, Request, load, parse
from isogrid.data.samples import Samples, Split, stratified_order

__all__ = ["DATA", "Request", "Samples", "Split", "load", "parse", "stratified_order"]
