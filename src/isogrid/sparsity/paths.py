"""Whether a class output of a pruned network can still depend on its input at all."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from isogrid.sparsity.masks import prunable


def live_outputs(model: nn.Module, x: Tensor) -> Tensor:
    """bool [C]: a path of weights that are not zero leads from the input to that class output.

    A copy of the model gets 1 for every alive weight, 0 for every dead one, 1 for every bias and neutral normalisation statistics,
    in float64: then every ReLU is active on a positive input, nothing cancels, and d z_k / d x counts the live paths to class k.
    `x` [N, *S] gives the input's shape only. A single output z stands for the logits (0, z), and of two classes one live output is
    enough for both: only their difference decides.

    >>> net = nn.Linear(3, 3)
    >>> _ = net.weight.data[1].zero_()
    >>> live_outputs(net, torch.zeros(1, 3)).tolist()
    [True, False, True]
    """
    paths = copy.deepcopy(model).double().eval()
    weights = {id(weight) for weight in prunable(paths).values()}
    with torch.no_grad():
        for parameter in paths.parameters():
            parameter.copy_((parameter != 0).double() if id(parameter) in weights else torch.ones_like(parameter))
        for module in paths.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None:
                module.reset_running_stats()
    with torch.enable_grad():
        leaf = torch.ones((1, *x.shape[1:]), dtype=torch.float64, device=x.device, requires_grad=True)
        z = paths(leaf).reshape(1, -1)
        live = [
            bool(torch.autograd.grad(z[0, k], leaf, retain_graph=True)[0].any()) if z.requires_grad else False for k in range(z.shape[1])
        ]
    return torch.tensor(live if len(live) > 2 else [any(live)] * 2)
