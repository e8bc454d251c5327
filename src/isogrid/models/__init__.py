"""Models: `build` makes a built-in network by name; `MODELS` is the registry of names."""

from isogrid.models.zoo import MODELS, BinaryLinear, build

__all__ = ["MODELS", "BinaryLinear", "build"]
