"""How a model lies in memory while it trains. Not here: the order that attacks work in, which they try out for themselves."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from isogrid.core.modules import unchanged
from isogrid.core.random import isolated

AGREE = 1e-4
"""Two orders of summation give logits that differ by less than this share of the largest."""


def channels_last(model: nn.Module, x: Tensor) -> bool:
    """Put the model's 4-D parameters and buffers into channels_last, in which convolutions train faster on a CPU; False where it stays.

    `x` [N, *S]: samples that it will see. It stays as it is where they are no images, where it is compiled (for its own strides),
    and where a forward or backward pass raises in that order (`view` on a feature map) or gives other logits.
    """
    if x.dim() != 4 or any("_orig_mod" in module._modules for module in model.modules()):
        return False
    held = [t for t in (*model.parameters(), *model.buffers()) if t.dim() == 4]
    before = [t.data for t in held]
    if not held:
        return False
    probe = x[:2] if len(x) > 1 else x.expand(2, *x.shape[1:])
    with unchanged(model), isolated(0, "layout"):
        try:
            expected = _both_passes(model, probe)
        except Exception:  # whatever it is, training says it
            return False
        try:
            for t in held:
                t.data = t.data.to(memory_format=torch.channels_last)
            got = _both_passes(model, probe)
            agree = bool(((got - expected).abs().amax() <= AGREE * expected.abs().amax()).item())
        except Exception:
            agree = False
    if not agree:
        for t, data in zip(held, before, strict=True):
            t.data = data
    return agree


def _both_passes(model: nn.Module, x: Tensor) -> Tensor:
    """Logits in eval mode, after a backward pass to the parameters; their gradients stay as they are."""
    model.eval()
    with torch.enable_grad():
        z = model(x)
    if z.requires_grad:
        torch.autograd.grad(z.sum(), [p for p in model.parameters() if p.requires_grad], allow_unused=True)
    result: Tensor = z.detach()
    return result
