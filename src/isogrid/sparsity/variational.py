"""Sparse variational dropout: every weight learns its own noise, and those that the noise drowns are removed. The sparsity follows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.optim import Adam
from torch.utils.hooks import RemovableHandle

from isogrid.core.parameters import number
from isogrid.sparsity import settings
from isogrid.sparsity.allocation import survivors
from isogrid.sparsity.layers import Weight, layer_weights, named_weights
from isogrid.sparsity.masks import Masks
from isogrid.sparsity.pruner import Dynamics, Pruner, Record, Static, Training

K1, K2, K3 = 0.63576, 1.87320, 1.48695
"""The constants of the paper's fit to the divergence, its equation 14."""
TINY = 1e-16
"""Beside the square of a weight, so that its logarithm is finite."""
MOST = 0.0
"""The largest log sigma^2: the noise of what has no influence on the loss would grow without end."""
LOCAL = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""The layers whose outputs are drawn instead of their weights."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class VariationalDropout(Pruner):
    """Sparse variational dropout (Molchanov, Ashukha & Vetrov 2017): w ~ N(theta, sigma^2), and a weight of log alpha > `threshold` goes.

    alpha = sigma^2 / theta^2. Minimised is the expected loss + strength * r(t) * sum KL(alpha) / N over N training samples, with -KL(alpha)
    = k1 s(k2 + k3 log alpha) - log(1 + 1 / alpha) / 2 - k1, s the logistic function; strength 1 is the evidence lower bound, and r rises
    from 0 to 1 over the share `warm` of the way. Linear layers and convolutions draw their outputs, with a noise of its own for each sample
    (additive, with local reparametrisation: N(x theta, x^2 sigma^2)); other layers draw their weights, once a step. theta is trained by the
    training's optimizer, log sigma^2, from `noise` on, by an Adam whose rate falls linearly and carries it `travel` at most in all, however
    long the training is. At the share `until` of the training the weights go, all at once, and what is left trains on without noise
    (published: `until: 1`, at the very end); the best weight of a layer or of an output class stays. How sparse a level becomes it chooses
    itself, and more `strength` makes it sparser. Evaluation uses theta; so does an attack within a step, but for weights that are drawn.
    Source: the paper, equations 14 and 17 and section 4.2; threshold 3 and sigma^2 = e^-10 at the start as in the authors' code.
    Pitfalls: it needs thousands of steps, more than other methods; and without `warm` a network that has learnt nothing yet is emptied
    before it can.
    """

    name: ClassVar[str] = "variational-dropout"
    relation: ClassVar[Literal["chain", "targets"]] = "targets"
    levels: ClassVar[tuple[str, tuple[Any, ...]]] = ("strength", (0.1, 0.3, 1.0, 3.0, 10.0))
    monotone: ClassVar[bool] = True

    strength: float = number(1.0, 0)
    threshold: float = number(3.0, -8, 8)
    travel: float = number(40.0, 0, low_open=True)
    warm: float = number(0.2, 0, 1, high_open=False)
    until: float = settings.until(1.0)
    noise: float = number(-10.0, -30, 0)

    def begin(self, training: Training) -> Dynamics:
        return _Noisy(training, self)


def log_alpha(theta: Tensor, log_variance: Tensor) -> Tensor:
    """log(sigma^2 / theta^2)."""
    return log_variance - theta.square().add_(TINY).log_()


def pull(theta: Tensor, log_variance: Tensor) -> tuple[Tensor, Tensor]:
    """The derivatives of KL by theta and by log sigma^2, of their shape."""
    ratio = log_alpha(theta, log_variance)
    gate = torch.sigmoid(K2 + K3 * ratio)
    slope = gate.mul_(1 - gate).mul_(K1 * K3).add_(torch.sigmoid(-ratio), alpha=0.5)
    return 2 * slope * theta / theta.square().add_(TINY), slope.neg_()


def _local(layer: Weight) -> bool:
    """Whether the layer's call is linear in this weight, which is a plain parameter of it, and can be repeated with another."""
    return isinstance(layer.module, LOCAL) and layer.parameter is layer.module.weight


def _noise(theta: Tensor, log_variance: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]:
    """A forward hook that draws the layer's output from N(out, x^2 sigma^2), in passes that its weight learns from."""

    def draw(module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> Tensor | None:
        if not (torch.is_grad_enabled() and theta.requires_grad):
            return None
        energy, variance = inputs[0].square(), log_variance.exp()
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            spread = module._conv_forward(energy, variance, None)  # strides, padding and groups are the module's
        else:
            spread = linear(energy, variance)
        return torch.addcmul(out, spread.add_(1e-8).sqrt(), torch.randn_like(out))  # sqrt has no slope at 0

    return draw


class _Noisy(Static):
    def __init__(self, training: Training, pruner: VariationalDropout) -> None:
        super().__init__(training.model, training.masks)
        self._training, self._pruner, self._record = training, pruner, Record()
        weights, layers = named_weights(training.model), layer_weights(training.model)
        self._theta = {name: weights[name] for name in training.masks}
        self._log_variance = {
            name: torch.full_like(theta, pruner.noise).masked_fill_(~training.masks[name], -torch.inf).requires_grad_()
            for name, theta in self._theta.items()
        }
        self._modules = {name: layer.module for name, layer in layers.items() if name in self._theta and _local(layer)}
        self._handles: list[RemovableHandle] = []
        self._means: dict[str, Tensor] = {}
        self._end = max(1, round(pruner.until * training.steps))
        self._adam = Adam(self._log_variance.values(), lr=0.0, fused=True)
        self.busy = training.steps > 0
        if not self.busy:
            self._remove(0)

    def before_forward(self, step: int) -> None:
        if not self.busy:
            return
        for name, theta in self._theta.items():
            self._log_variance[name].grad = None
            if name in self._modules:
                self._handles.append(self._modules[name].register_forward_hook(_noise(theta, self._log_variance[name])))
            else:
                self._means[name] = theta.detach().clone()
                with torch.no_grad():
                    theta.addcmul_((self._log_variance[name] / 2).exp(), torch.randn_like(theta))

    @torch.no_grad()
    def after_backward(self, step: int) -> None:
        if not self.busy:
            return
        while self._handles:
            self._handles.pop().remove()
        warm = min(1.0, (step + 1) / (self._pruner.warm * self._end)) if self._pruner.warm else 1.0
        scale = self._pruner.strength * warm / self._training.samples
        for name, theta in self._theta.items():
            mean, log_variance = self._means.pop(name, None), self._log_variance[name]
            if mean is not None:
                log_variance.grad = None if theta.grad is None else (theta - mean).mul_(theta.grad).div_(2)
                theta.copy_(mean)
            if theta.grad is None:  # nothing has used it
                continue
            if log_variance.grad is None:  # its layer's weight is used without a call of the layer: from now on the weight is drawn
                del self._modules[name]
                continue
            by_theta, by_log_variance = pull(theta, log_variance)
            theta.grad.add_(by_theta, alpha=scale)
            log_variance.grad.add_(by_log_variance, alpha=scale)
        self._adam.param_groups[0]["lr"] = 2 * self._pruner.travel / self._end * (1 - step / self._end)
        self._adam.step()
        for log_variance in self._log_variance.values():
            log_variance.clamp_(max=MOST)

    def after_step(self, step: int) -> None:
        super().after_step(step)
        if step == self._end - 1:
            self._remove(step)

    @torch.no_grad()
    def _remove(self, step: int) -> None:
        before, axes = self.masks, self._training.axes()
        protected = survivors({name: theta.abs() for name, theta in self._theta.items()}, before, axes)
        drowned = {n: log_alpha(theta, self._log_variance[n]) > self._pruner.threshold for n, theta in self._theta.items()}
        self.revise(Masks({name: mask & (protected[name] | ~drowned[name]) for name, mask in before.items()}))
        self._record.note(step, before, self.masks)
        self.busy = False

    def finish(self) -> tuple[Masks, dict[str, Tensor]]:
        return self.masks, self._record.state()
