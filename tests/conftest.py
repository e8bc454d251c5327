"""Shared by all tests: one thread each (two run side by side), and small networks that are trained once."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
