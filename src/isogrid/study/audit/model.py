"""The earlier address of `isogrid.audit.model`, for programs that were written for it."""

from isogrid.audit.model import examine_model

__all__ = ["examine_model"]
