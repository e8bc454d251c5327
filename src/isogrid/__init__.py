"""isogrid: prune a classifier level by level, attack every level, and say with statistics which sparsity is the most robust.

The public names below are imported when they are first used, so that `import isogrid` is quick.

>>> import isogrid
>>> isogrid.Spec.preset("quick").pruning.rounds
14
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from isogrid.data import Samples, load
    from isogrid.sparsity import Masks, Progressive, enforce
    from isogrid.study.run import Study, open_study, run_study
    from isogrid.study.spec import Spec
    from isogrid.training import FitConfig, fit

_HOMES = {
    "Samples": "isogrid.data",
    "load": "isogrid.data",
    "Masks": "isogrid.sparsity",
    "Progressive": "isogrid.sparsity",
    "enforce": "isogrid.sparsity",
    "Study": "isogrid.study.run",
    "open_study": "isogrid.study.run",
    "run_study": "isogrid.study.run",
    "Spec": "isogrid.study.spec",
    "FitConfig": "isogrid.training",
    "fit": "isogrid.training",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'isogrid' has no attribute {name!r}")


__all__ = [
    "FitConfig",
    "Masks",
    "Progressive",
    "Samples",
    "Spec",
    "Study",
    "__version__",
    "enforce",
    "fit",
    "load",
    "open_study",
    "run_study",
]
