"""Models: `build` makes one by name, `open_model` opens a trained one; `MODELS` is the registry of built-in names."""

from isogrid.models.load import build, open_model, source_digest
from isogrid.models.onnx_file import ONNX, OnnxNetwork, read_onnx
from isogrid.models.program import Program, open_program
from isogrid.models.weights import load_weights
from isogrid.models.winners import KWinners, k_winners
from isogrid.models.zoo import MODELS, BinaryLinear

__all__ = [
    "MODELS",
    "ONNX",
    "BinaryLinear",
    "KWinners",
    "OnnxNetwork",
    "Program",
    "build",
    "k_winners",
    "load_weights",
    "open_model",
    "open_program",
    "read_onnx",
    "source_digest",
]
