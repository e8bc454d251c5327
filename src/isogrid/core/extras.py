"""Packages that are installed only with an extra. Not here: what is done with them."""

from __future__ import annotations

import importlib
from typing import Any

from isogrid.core.errors import InputError


def needed(module: str, extra: str, what: str) -> Any:
    """A module of the extra's packages; raises InputError in one line that names the extra where it is not installed.

    >>> needed("no_such_package.part", "onnx", "ONNX files")
    Traceback (most recent call last):
    isogrid.core.errors.InputError: onnx: got no package no_such_package; accepted: ONNX files need the extra onnx: pip install ...
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = (error.name or module).split(".")[0]
        raise InputError(extra, f"no package {missing}", f"{what} need the extra {extra}: pip install 'isogrid[{extra}]'") from None
