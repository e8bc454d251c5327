"""The model and the samples that an attack is handed: are they usable, how are they frozen, how many rows fit a batch."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from isogrid.attacks.driver.classifier import as_classifier, classifier
from isogrid.attacks.driver.problem import Model
from isogrid.core.errors import InputError, ModelError
from isogrid.core.modules import check_module
from isogrid.core.numbers import beside, limits

BATCH_BYTES = 192 * 2**20
"""The batch rule: a batch holds as many rows as keep `state_copies` tensors of the input's size and three copies of all
activations of one forward pass, in the model's precision, within BATCH_BYTES, but at most MAX_ROWS and at least 1. It depends on
the model and the shape of the input only, never on free memory or on the number of samples."""
MAX_ROWS = 1024
SMALL, LARGE = 1e-6, 1e6
"""Logits below the one and margins above the other are handed to searches in another unit."""
PRECISIONS = (torch.float32, torch.float64)
AGREE = 1e-4
"""Two orders of summation give logits that differ by less than this share of the largest; a model that differs by more is left alone."""


@contextlib.contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Eval mode and no parameter gradients inside; every module's mode and every parameter's flag restored after."""
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval()
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def _both_passes(function: Model, x: Tensor) -> Tensor:
    """Logits, after a backward pass to the input where there is one."""
    with torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        z = function(leaf)
    if z.requires_grad:
        torch.autograd.grad(z.sum(), leaf, allow_unused=True)
    return z.detach()


class Layout:
    """The convolutions' weights in channels_last while an attack searches: up to 1.7 times as fast on a CPU, pooling above all.

    Inside `with layout:` each such parameter holds a copy in that order; outside, and if anything is raised, its very own memory.
    One forward and one backward pass decide whether the model can do it: where `view` is called on feature maps it stays as it is, and so
    it does where it is compiled. The driver's clean and verifying passes use the model's own order.
    """

    def __init__(self, model: nn.Module, function: Model, x: Tensor) -> None:
        # `clone` sets the strides even where one input channel makes both orders the same memory, and convolutions go by the strides
        weights = [p for p in model.parameters() if p.dim() == 4 and p.device.type == x.device.type == "cpu" and type(p.data) is Tensor]
        if any(hasattr(module, "_orig_mod") for module in model.modules()):
            weights = []  # torch.compile'd code is specialised on strides: each order would be compiled anew
        copies = [(p, p.data, p.data.clone(memory_format=torch.channels_last)) for p in weights]
        self._swaps: list[tuple[nn.Parameter, Tensor, Tensor]] = [swap for swap in copies if swap[1].stride() != swap[2].stride()]
        if self._swaps and not self._same(function, x[:8] if len(x) > 1 else x.expand(2, *x.shape[1:])):
            self._swaps = []

    def _same(self, function: Model, probe: Tensor) -> bool:
        """Whether the logits agree, up to rounding; False where a forward or backward pass raises."""
        try:
            expected = _both_passes(function, probe)
            with self:
                got = _both_passes(function, probe)
        except Exception:  # what a user's passes raise in the other order, or what a backward raises in any
            return False
        return bool(((got - expected).abs().amax() <= AGREE * expected.abs().amax()).item())

    def __enter__(self) -> None:
        for parameter, _, fast in self._swaps:
            parameter.data = fast

    def __exit__(self, *_: object) -> None:
        for parameter, before, _fast in self._swaps:
            parameter.data = before


def check_samples(x: Tensor, y: Tensor, box: tuple[float, float]) -> None:
    """Raise InputError unless x [N, *S] is float32 or float64, finite and inside `box`, and y [N] holds integer classes, N >= 1."""
    edges = limits(box)
    for field_, value, accepted in (("x", x, "a float32 or float64 tensor of shape [N, ...]"), ("y", y, "an integer tensor of shape [N]")):
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_meta:
            raise InputError(field_, f"a {type(value).__name__}", f"{accepted} with its values in memory (torch.as_tensor makes one)")
    if x.dim() < 2 or x.dtype not in PRECISIONS:
        accepted = "float32 or float64 samples of shape [N, ...] (in half precision a perturbation drowns in rounding: use .float())"
        raise InputError("x", f"{x.dtype} of shape {tuple(x.shape)}", accepted)
    if x.numel() == 0:
        raise InputError("x", f"shape {tuple(x.shape)}" if len(x) else "0 samples", "at least one sample with at least one value")
    if y.shape != (len(x),) or y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise InputError("y", f"{y.dtype} of shape {tuple(y.shape)}", f"one integer class per sample, shape ({len(x)},)")
    if y.device != x.device:
        raise InputError("y", f"a tensor on {y.device}", f"a tensor on {x.device}, as x is")
    low, high = x.min().item(), x.max().item()
    if not (math.isfinite(low) and math.isfinite(high)):
        raise InputError("x", "NaN or infinite values", "finite values")
    if beside(low, high, edges):
        accepted = f"values in [{edges[0]:g}, {edges[1]:g}]: put the normalisation inside the model, or give the `box` of x"
        raise InputError("x", f"values in [{low:.6g}, {high:.6g}]", accepted)


def batch_rows(model: nn.Module, x: Tensor, state_copies: int) -> int:
    """Rows per batch by the rule of BATCH_BYTES: measured on one sample, hence independent of N, memory and clock."""
    return _rows(x, _activations(model, x), state_copies)


def _rows(x: Tensor, activations: int, state_copies: int) -> int:
    row = x.element_size() * (state_copies * x[0].numel() + 3 * activations)
    return max(1, min(MAX_ROWS, BATCH_BYTES // row))


def _activations(model: nn.Module, x: Tensor) -> int:
    """Elements of all feature maps of one sample: what layers give out, or what is kept for a backward pass, whichever is more."""
    if elements := int(getattr(model, "activation_elements", 0)):
        return elements  # a program says it itself, since it may take many rows at once only
    given = 0
    kept: dict[int, int] = {}  # functions such as torch.relu are no layers: only what they keep shows
    own = {t.data_ptr() for t in (*model.parameters(), *model.buffers())}

    def add(_module: nn.Module, _inputs: object, output: object) -> None:
        nonlocal given
        if isinstance(output, Tensor):
            given += output.numel()

    def keep(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            kept[tensor.data_ptr()] = max(kept.get(tensor.data_ptr(), 0), tensor.numel())
        return tensor

    hooks = [m.register_forward_hook(add) for m in model.modules() if not any(True for _ in m.children())]
    keeping = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    leaf = x[:1].clone().requires_grad_()
    try:
        with frozen(model), torch.enable_grad(), keeping, contextlib.suppress(Exception):  # as_classifier reports a raising forward
            model(leaf + 0)  # a model that writes into its input is reported there, too
    finally:
        for hook in hooks:
            hook.remove()
    return int(max(given, sum(kept.values())))


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A classifier and samples, checked and prepared once for any number of attacks: see `prepared`.

    x [N, *S], y [N], box: the samples; function: the model as a function to logits [B, C] in x's type; unit: the rounding unit
    of the model's own; clean [N]: its predictions on the samples; scale [N]: what searches see its logits multiplied with, if anything.
    """

    model: nn.Module
    function: Model
    layout: Layout
    x: Tensor
    y: Tensor
    box: tuple[float, float]
    clean: Tensor
    activations: int
    unit: float
    scale: Tensor | None = None
    closed: list[bool] = field(default_factory=list)

    def room(self, state_copies: int) -> int:
        """The rows that the batch rule allows at once."""
        return _rows(self.x, self.activations, state_copies)


def ordinary(z: Tensor) -> Tensor:
    """Powers of two [N] that bring logits z [N, C] of an extraordinary size to 8 to 16, as trained ones have, and others as they are.

    Attacks divide by squares of gradients, or weigh a loss against a distance: in float32 that overflows where margins are 1e20, and is
    nothing where logits are 1e-20. Large is the margin between the two highest, for a third one at -1e9 does not matter, or its rounding.
    """
    info, top = torch.finfo(z.dtype), z.topk(2, 1).values
    margin = torch.maximum(top[:, 0] - top[:, 1], info.eps * top.abs().amax(1)).clamp(max=info.max)
    size = z.abs().amax(1)
    measure = torch.where(margin > LARGE, margin, torch.where((size > 0) & (size < SMALL), size, 1.0))
    most = math.frexp(info.max)[1] - 2
    shift = torch.where(measure == 1, 0, 4 - torch.frexp(measure).exponent).clamp(-most, most)
    return torch.ldexp(torch.ones_like(measure), shift)


def _clean(function: Model, x: Tensor, rows: int) -> tuple[Tensor, Tensor | None]:
    """Predictions [N], and what logits are multiplied with in searches [N], or None where all are ordinary.

    Raises ModelError where a sample has a logit that is no number: it would count as class 0.
    """
    parts, scales = [], []
    for number, part in enumerate(torch.split(x, rows)):
        with torch.no_grad():
            z = function(part)
        bad = torch.nonzero(~torch.isfinite(z).all(1)).flatten()
        if len(bad):
            raise ModelError(
                f"model: forward gave NaN or infinite logits for sample {number * rows + int(bad[0])}; accepted: finite logits"
            )
        parts.append(z.argmax(1))
        scales.append(ordinary(z))
    scale = torch.cat(scales)
    return torch.cat(parts), None if bool((scale == 1).all()) else scale


@contextlib.contextmanager
def prepared(model: nn.Module, x: Tensor, y: Tensor, box: tuple[float, float]) -> Iterator[Subject]:
    """The model frozen inside, and the subject of no use outside; attacks share its checks and its clean pass.

    Raises InputError for unusable samples and ModelError where the model is no classifier on them.
    """
    check_samples(x, y, box)
    check_module(model)
    box = limits(box)
    x, y = x.clone() if x.is_inference() else x.detach(), y.long()
    activations = _activations(model, x)
    with frozen(model):
        function, unit = classifier(model, x, y)
        clean, scale = _clean(function, x, _rows(x, activations, 1))
        subject = Subject(
            model=model,
            function=function,
            layout=Layout(model, function, x),
            x=x,
            y=y,
            box=box,
            clean=clean,
            activations=activations,
            unit=unit,
            scale=scale,
        )
        try:
            yield subject
        finally:
            subject.closed.append(True)


__all__ = ["BATCH_BYTES", "MAX_ROWS", "Layout", "Subject", "as_classifier", "batch_rows", "check_samples", "frozen", "prepared"]
