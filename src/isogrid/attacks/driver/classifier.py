"""The model as a function to logits: what a few samples show of it, what its passes raise. Not here: which samples, freezing, batches."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from isogrid.core.errors import InputError, IsogridError, ModelError
from isogrid.core.modules import check_module
from isogrid.core.random import isolated

PROBES = 8
DEPENDS = 0.04
"""Logits that move by more than this share of their range over samples, beside other samples, depend on these. In batches of one shape
float32 and bfloat16 move by nothing at all, dynamic int8 (its scale is the batch's) by 0.003 to 0.012, batch statistics by 0.13 to 1."""
ALONE = 0.1
"""The same share for a sample alone: batches of different shapes are summed in different orders, in bfloat16 too."""
ROUNDING = 1e-5
"""What is less than this share of a logit is rounding in any case; alone, and perhaps in bfloat16, a thousand times as much."""


@contextlib.contextmanager
def in_one_line(what: str, x: object = None) -> Iterator[None]:
    """Whatever a user's pass on `x` raises becomes a ModelError with its type and first line."""
    try:
        yield
    except IsogridError:
        raise
    except Exception as error:
        said = (str(error).splitlines() or [""])[0]
        where = f" on input of shape {tuple(x.shape)}" if isinstance(x, Tensor) else ""
        raise ModelError(f"model: {what} raised {type(error).__name__}{where}: {said}") from error


class _Logits(nn.Module):
    """A model's logits in the type of its input; a `single` output z as (0, z)."""

    def __init__(self, model: nn.Module, single: bool) -> None:
        super().__init__()
        self.model, self.single = model, single

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.model(x).to(x.dtype)
        return _two(z, len(x)) if self.single else z


def _two(z: Tensor, n: int) -> Tensor:
    """The logits of n samples; single outputs z as (0, z)."""
    return nn.functional.pad(z.reshape(n, 1), (1, 0)) if z.numel() == n else z


class Classifier(nn.Module):
    """Logits [B, classes] for any number of rows, or a ModelError; `twice`: a sample alone is handed over two times.

    A `squeeze()` without a dimension takes the batch's own away where it is 1, and attacks go on with fewer and fewer rows.
    """

    def __init__(self, logits: nn.Module, classes: int, twice: bool = False) -> None:
        super().__init__()
        self.logits, self.classes, self.twice = logits, classes, twice

    def forward(self, x: Tensor) -> Tensor:
        with in_one_line("forward", x):
            z: Tensor = self.logits(torch.cat((x, x)))[:1] if self.twice and len(x) == 1 else self.logits(x)
            if z.shape != (len(x), self.classes):
                raise ModelError(f"model: forward gave shape {tuple(z.shape)} for {len(x)} samples; accepted: {(len(x), self.classes)}")
        return z


def as_logits(model: nn.Module, x: Tensor, y: Tensor) -> nn.Module:
    """The model itself where it gives logits [B, C >= 2] of x's type, else a module that makes them of what it gives: z as (0, z).

    Raises ModelError where one forward pass on a few samples raises, writes into its input, or gives a wrong shape or non-finite values,
    and InputError where a label has no logit.
    """
    return _as_logits(model, x, y, *_probe(model, x))


def as_classifier(model: nn.Module, x: Tensor, y: Tensor) -> Classifier:
    """The model as a function to logits [B, C >= 2] of x's type for any B >= 1, each row's its own; a single output z becomes (0, z).

    Raises what `as_logits` raises, and ModelError where the model takes no sample alone, or its logits depend on the rest of the batch.
    What its forward raises later on is a ModelError, too.
    """
    return classifier(model, x, y)[0]


def classifier(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Classifier, float]:
    """`as_classifier`, and the rounding unit of the model's own logits."""
    few, given = _probe(model, x)
    logits = _as_logits(model, x, y, few, given)
    z = _two(given, len(few)).to(x.dtype)
    with torch.no_grad(), isolated(0, "probe"):  # a random forward draws here what later passes would miss
        found, alone = _any_number(logits, few, z.shape[1])
        _check_apart(found, few, z, alone)
    return found, torch.finfo(given.dtype).eps


def _probe(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """A few samples, and what the model gives for them; a sample that is alone and not taken alone comes twice."""
    check_module(model)
    few = x[:PROBES].clone()
    try:
        return few, _answer(model, few)
    except ModelError as error:
        if len(few) == 1:
            few = torch.cat((few, few))
            with contextlib.suppress(ModelError):
                return few, _answer(model, few)
        raise error from error.__cause__


def _answer(model: nn.Module, few: Tensor) -> Tensor:
    """What the model gives for `few`, floating-point numbers [b] or [b, classes]; raises ModelError where it is anything else."""
    version = few._version
    with torch.no_grad(), in_one_line("forward", few):
        z = model(few)
    if few._version != version:
        raise ModelError(
            "model: forward writes into its input; accepted: a forward that leaves it alone (x = x - mean instead of x -= mean)"
        )
    usable = isinstance(z, Tensor) and z.is_floating_point() and z.layout == torch.strided and z.device == few.device
    if not usable or z.dim() not in (1, 2) or len(z) != len(few) or z.numel() == 0:
        elsewhere = f" on {z.device}" if isinstance(z, Tensor) and z.device != few.device else ""
        got = f"{z.dtype} of shape {tuple(z.shape)}{elsewhere}" if isinstance(z, Tensor) else type(z).__name__
        raise ModelError(f"model: forward gave {got}; accepted: floating-point logits of shape [{len(few)}, classes]")
    if not bool(torch.isfinite(z).all()):
        raise ModelError("model: forward gave NaN or infinite logits; accepted: finite logits")
    answer: Tensor = z
    return answer


def _as_logits(model: nn.Module, x: Tensor, y: Tensor, few: Tensor, z: Tensor) -> nn.Module:
    single = z.numel() == len(few)
    classes = 2 if single else z.shape[1]
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= classes:
        raise InputError("y", f"labels from {low} to {high}", f"0 to {classes - 1}: the model has {classes} classes")
    return _Logits(model, single) if single or z.dtype != x.dtype else model


def _any_number(logits: nn.Module, few: Tensor, classes: int) -> tuple[Classifier, Tensor]:
    """The logits as a function of any number of rows, of one, as attacks end up with, too; the first sample's logits alone [1, classes]."""
    said = []
    for twice in (False, True):
        found = Classifier(logits, classes, twice)
        try:
            return found, found(few[:1])
        except ModelError as error:
            said.append(str(error).removeprefix("model: "))
    raise ModelError(f"model: it takes {len(few)} samples, but not one: {said[0]}; accepted: a forward for any number of samples")


def _check_apart(function: Classifier, few: Tensor, z: Tensor, alone: Tensor) -> None:
    """Raise ModelError where the first sample's logits, `alone` [1, C], depend on what else is in its batch, as in z [b, C] of `few`.

    It is put beside constant images, of the end of the values' range that the samples are farther from: what makes a statistic of the batch
    moves far, and in a batch of the same shape nothing else does.
    """
    low, high = few.min(), few.max()
    others = torch.cat((few[:1], torch.where(few.mean() * 2 > low + high, low, high).expand(max(2, len(few)) - 1, *few.shape[1:])))
    again = function(few)
    try:
        crowd = again if len(few) > 1 else function(torch.cat((few, few)))
        beside = function(others)
    except ModelError:  # a batch of another size, or values that it does not take: nothing is shown
        return
    every = torch.cat((crowd, beside))
    every = every[every.isfinite().all(1)]  # a constant image over its own deviation is no number
    span, least = (every.amax(0) - every.amin(0)).amax(), ROUNDING * crowd.abs().amax(0)  # a constant class at -1e9 must hide nothing
    if not bool(((again - z).abs() <= DEPENDS / 4 * span + least).all()):
        return  # two equal passes differ: its forward draws random numbers
    moved, gone = ((part[0] - crowd[0]).abs() for part in (beside, alone))
    if not bool(((moved <= DEPENDS * span + least) & (gone <= ALONE * span + 1e3 * least)).all()):
        raise ModelError(
            "model: a sample's logits depend on the other samples of its batch, so that no attack on one sample means anything; accepted: "
            "statistics that are fixed (batch norm's running ones, in eval mode) or each sample's own (LayerNorm, a mean over dims 1 to -1)"
        )
