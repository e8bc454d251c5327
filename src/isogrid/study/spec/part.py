"""What the parts of a specification share. Not here: any one part."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

WITHOUT_SOURCES = {"sources": False}
"""The validation context of a specification whose study has been run: files that it names need not be there any more."""


class Part(BaseModel):
    """No unknown keys, no changes, no infinite numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)
