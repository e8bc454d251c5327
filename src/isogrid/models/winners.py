"""k-winners: of each layer's units only the largest speak. Not here: penalties that make activations sparse (`training.penalties`)."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function_unary

from isogrid.core.errors import InputError


def winners(x: Tensor, share: float) -> Tensor:
    """x [B, *S] with all but the largest `share` of each sample's values set to 0: exactly max(1, round(share * number)) stay.

    What stays may be negative, as published. The gradient goes through what stays alone.

    >>> winners(torch.tensor([[0.5, -1.0, 2.0, -3.0]]), 0.5).tolist()
    [[0.5, 0.0, 2.0, 0.0]]
    """
    if has_torch_function_unary(x):  # so that it can be watched, as torch's own functions can
        return handle_torch_function(winners, (x,), x, share)
    flat = x.flatten(1)
    kept = flat.detach().topk(max(1, round(share * flat.shape[1])), 1).indices
    stays = torch.zeros_like(flat, dtype=torch.bool).scatter_(1, kept, True)
    return torch.where(stays, flat, 0.0).view(x.shape)


@final
class KWinners(nn.Module):
    """k-winners-take-all in a ReLU's place (Xiao, Zhong & Zheng 2020): see `winners`; `share` of the units stay, all channels together.

    Pitfall: which units win changes from point to point in jumps, and the gradient says nothing of the jumps: attacks that follow it fail
    where gradient-free ones succeed. It is a mask over gradients before it is a defence (Tramer et al. 2020 broke it), so attack it with
    gradient-free attacks beside the others, as the audit asks.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """x [B, *S] -> the same shape."""
        return winners(x, self.share)

    def extra_repr(self) -> str:
        """What print shows."""
        return f"share={self.share:g}"


def k_winners(model: nn.Module, share: float) -> nn.Module:
    """The model itself, with `KWinners(share)` in the place of every torch.nn.ReLU module.

    Raises InputError for a share that is not above 0 and at most 1, and where there is no such module (relu as a function stays as it is).
    """
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise InputError("winners", share, "a number above 0, at most 1")
    found = [(parent, name) for parent in model.modules() for name, child in parent.named_children() if isinstance(child, nn.ReLU)]
    if not found:
        raise InputError("model", type(model).__name__, "a network with torch.nn.ReLU modules, whose place k-winners can take")
    for parent, name in found:
        setattr(parent, name, KWinners(float(share)))
    return model
