"""Linear classifiers, sample by sample: the affine map of a model, exact distances and exact verdicts, all in float64.

What belongs here: closed forms for one sample of g(x) = W x + b. What does not: sums over samples and the paper's bounds (linear.py).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from isogrid.core.errors import InputError
from isogrid.core.modules import check_module
from isogrid.core.norms import L2, Norm, norm as norm_of
from isogrid.core.numbers import sizes
from isogrid.core.random import generator

_CHUNK_ELEMENTS = 2**22  # rows x inputs held at once, in float64: a temporary of at most 32 MiB
_AFFINE_TOLERANCE = 1e-9  # relative to |W| |x| + |b|, far above float64's rounding and far below any nonlinearity


def linear_weights(model: nn.Module, shape: Sequence[int]) -> tuple[Tensor, Tensor] | None:
    r"""The exact affine map of a model: g(x) = W x + b, from g(0) = b and g(e_i) - b = W[:, i], evaluated in float64.

    `shape`: one sample's shape *S, with n = prod(shape) inputs. Returns W [C, n] and b [C] in float64 on the model's device (a
    single output z becomes the logits (0, z)), or None where the model is not affine or cannot run in float64. Affinity is
    verified at random points of sizes 1 to 10,000: a ReLU or a clamp anywhere shows up there. The model itself is left alone.
    Pitfall: layers that normalise by the batch are affine in eval mode, which is what is used.

    >>> layer = nn.Linear(3, 2)
    >>> W, b = linear_weights(nn.Sequential(nn.Flatten(), layer), (3,))
    >>> bool(torch.allclose(W, layer.weight.double())), linear_weights(nn.Sequential(layer, nn.ReLU()), (3,))
    (True, None)
    """
    check_module(model)
    shape = sizes(shape)
    first = next(iter(model.parameters()), None)
    device = torch.device("cpu") if first is None else first.device
    n = math.prod(shape)
    try:
        double = copy.deepcopy(model).double().eval()
        with torch.no_grad():

            def logits(x: Tensor) -> Tensor:
                z = double(x.view(-1, *shape)).reshape(len(x), -1)
                return nn.functional.pad(z, (1, 0)) if z.shape[1] == 1 else z

            points = _probes(n).to(device)
            values = logits(points)
            b = logits(torch.zeros(1, n, dtype=torch.float64, device=device))[0]
            step = max(1, _CHUNK_ELEMENTS // n)
            columns = []
            for start in range(0, n, step):
                width = min(step, n - start)
                units = torch.zeros(width, n, dtype=torch.float64, device=device)
                units[torch.arange(width), torch.arange(start, start + width)] = 1.0
                columns.append(logits(units) - b)
    except Exception:  # a user's forward may raise anything: no float64 on this device, a cast inside forward, no copy
        return None
    W = torch.cat(columns).T.contiguous()
    scale = points.abs() @ W.abs().T + b.abs()
    error = (values - points @ W.T - b).abs()
    affine = bool(torch.isfinite(W).all()) and bool((error <= _AFFINE_TOLERANCE * scale + 1e-300).all())
    return (W, b) if affine else None


def _probes(n: int) -> Tensor:
    random = generator(0, "linear probes")
    normal = torch.randn(8, n, dtype=torch.float64, generator=random)
    return torch.cat([torch.rand(4, n, dtype=torch.float64, generator=random), normal, 100 * normal, 10000 * normal])


def free_distance(W: Tensor, b: Tensor, x: Tensor, y: Tensor, norm: str | Norm) -> Tensor:
    r"""The exact smallest perturbation, anywhere: min_{k != y} f_k / ||w_y - w_k||_q with f_k = g_y - g_k and 1/p + 1/q = 1.

    `W` [C, n], `b` [C], `x` [N, *S], `y` [N]; `norm` l2 or linf. Returns float64 [N]: 0 for a misclassified sample, inf where no
    perturbation changes the class (equal weight rows). Source: Moosavi-Dezfooli 2016, equation 7; Hein & Andriushchenko 2017.

    >>> free_distance(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.zeros(2), torch.tensor([[3.0, 1.0]]), torch.tensor([0]), "linf")
    tensor([1.], dtype=torch.float64)
    """
    norm = norm_of(norm)
    W, b, x, y = prepared(W, b, x, y)
    best = torch.full((len(y),), math.inf, dtype=torch.float64, device=x.device)
    gaps = _gaps(W, b, x, y)
    for k in range(len(W)):
        slope = norm.dual_size(W - W[k])[y]
        reach = torch.where(slope > 0, gaps[:, k] / slope.clamp_min(1e-300), math.inf)
        best = torch.where(y == k, best, torch.minimum(best, reach))
    return torch.where(classified(W, b, x, y), best.clamp_min(0), 0.0)


def box_distance(W: Tensor, b: Tensor, x: Tensor, y: Tensor, norm: str | Norm, box: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    r"""The exact smallest perturbation with low <= x~ <= high, per sample.

    Against class k, with v = w_k - w_y, the best point is clip(x + lambda v) in l2 and clip(x + t sign(v)) in linf, with the least
    lambda (t) that closes the gap: sum_i s_i min(lambda, lambda_i) = f_k, where input i meets its limit at lambda_i (l2: room_i /
    |v_i|, s_i = v_i^2; linf: room_i, s_i = |v_i|). The left side is piecewise linear in lambda: sorting the lambda_i solves it
    exactly, with no tolerance. The minimum is taken over k. Arguments and result as in `free_distance`; inf where the box holds no
    adversarial point. Source: the KKT conditions of projecting onto a half-space within a box.

    >>> W, b = torch.tensor([[0.0, 0.0], [-1.0, -1.0]]), torch.tensor([0.0, 1.0])
    >>> box_distance(W, b, torch.tensor([[0.9, 1.0]]), torch.tensor([0]), "l2").round(decimals=4)
    tensor([0.6364], dtype=torch.float64)
    """
    norm = norm_of(norm)
    W, b, x, y = prepared(W, b, x, y)
    parts = [_box_distance(W, b, x[rows], y[rows], norm, box) for rows in chunks(x)]
    return torch.where(classified(W, b, x, y), torch.cat(parts), 0.0)


def _box_distance(W: Tensor, b: Tensor, x: Tensor, y: Tensor, norm: Norm, box: tuple[float, float]) -> Tensor:
    """Classes in the order of their free distance, a bound from below: a row is done when the next bound is no shorter than its best."""
    best = torch.full((len(y),), math.inf, dtype=torch.float64, device=x.device)
    gaps = _gaps(W, b, x, y)
    slopes = torch.stack([norm.dual_size(W - W[k])[y] for k in range(len(W))], 1)
    bound = torch.where(slopes > 0, gaps.clamp_min(0) / slopes.clamp_min(1e-300), math.inf).scatter(1, y[:, None], math.inf)
    bound, order = bound.sort(1)
    for place in range(len(W) - 1):
        rows = torch.nonzero(bound[:, place] < best).squeeze(1)
        if len(rows) == 0:
            break
        k = order[rows, place]
        best[rows] = torch.minimum(best[rows], _box_reach(W[k] - W[y[rows]], gaps[rows, k], x[rows], norm, box))
    return best


def _box_reach(v: Tensor, gap: Tensor, x: Tensor, norm: Norm, box: tuple[float, float]) -> Tensor:
    """The distance [R] in the box to the half-space <v, d> >= gap, for v [R, n], gap [R], x [R, n]."""
    room = torch.where(v > 0, box[1] - x, x - box[0]).clamp_min(0)
    size = v.abs()
    if norm is not L2:
        return _fill(size, torch.where(size > 0, room, 0.0), gap)
    limit = torch.where(size > 0, room / size.clamp_min(1e-300), 0.0)
    level = _fill(size.square(), limit, gap)
    reach: Tensor = torch.linalg.vector_norm(torch.minimum(level[:, None], limit) * size, dim=1)
    return torch.where(torch.isfinite(level), reach, math.inf)


def _fill(slope: Tensor, limit: Tensor, wanted: Tensor) -> Tensor:
    """The least t >= 0 with sum_i slope_i min(t, limit_i) >= wanted, per row [N]; inf where even t = inf falls short."""
    limit, order = limit.sort(1)
    slope = slope.gather(1, order)
    filled = (slope * limit).cumsum(1)
    open_slope = slope.flip(1).cumsum(1).flip(1)  # slopes not yet at their limit: summed from the far end, so nothing cancels
    after = torch.nn.functional.pad(open_slope[:, 1:], (0, 1))
    reached = filled + limit * after >= wanted[:, None]
    first = reached.int().argmax(1, keepdim=True)
    before = torch.nn.functional.pad(filled, (1, 0)).gather(1, first).squeeze(1)
    rest = (wanted - before).clamp_min(0)
    t = torch.where(rest > 0, rest / open_slope.gather(1, first).squeeze(1).clamp_min(1e-300), 0.0)
    return torch.where(reached.any(1), t, math.inf)


def fgs_prediction(W: Tensor, b: Tensor, x: Tensor, y: Tensor, eps: float, limits: tuple[float, float]) -> Tensor:
    """The class after x~ = clip(x + eps sign(grad CE)): the gradient's direction is sum_{k != y} softmax_{k != y}(g)_k w_k - w_y."""
    parts = []
    for rows in chunks(x):
        z = x[rows] @ W.T + b
        others = z.scatter(1, y[rows, None], -math.inf).softmax(1)
        moved = (x[rows] + eps * (others @ W - W[y[rows]]).sign()).clamp(*limits)
        parts.append((moved @ W.T + b).argmax(1))
    return torch.cat(parts)


def survives(W: Tensor, b: Tensor, x: Tensor, y: Tensor, eps: float, limits: tuple[float, float]) -> Tensor:
    """bool [N]: no class k overtakes y within eps and the limits (a tie counts as overtaken)."""
    parts = []
    for rows in chunks(x):
        part, label = x[rows], y[rows]
        gaps = _gaps(W, b, part, label)
        alive = torch.ones(len(label), dtype=torch.bool, device=x.device)
        for k in range(len(W)):
            v = W[k] - W[label]
            gain = (v * ((part + eps * v.sign()).clamp(*limits) - part)).sum(1)
            alive &= (label == k) | (gaps[:, k] > gain)
        parts.append(alive)
    return torch.cat(parts)


def prepared(W: Tensor, b: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(W, b, x flattened, y) in float64 on one device; raises InputError for shapes or labels that do not fit."""
    flat = x.flatten(1)
    if W.dim() != 2 or len(W) < 2 or b.shape != (len(W),) or flat.shape[1] != W.shape[1] or y.shape != (len(x),) or len(x) == 0:
        got = f"W {tuple(W.shape)}, b {tuple(b.shape)}, x {tuple(x.shape)}, y {tuple(y.shape)}"
        raise InputError("linear model", got, "W [C >= 2, n], b [C], x [N, *S] with prod(S) = n, y [N], N >= 1")
    if int(y.min()) < 0 or int(y.max()) >= len(W):
        raise InputError("y", f"labels from {int(y.min())} to {int(y.max())}", f"0 to {len(W) - 1}")
    W = W.detach().double()
    return W, b.detach().to(W), flat.detach().to(W), y.to(W.device)


def _gaps(W: Tensor, b: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """g_y - g_k [N, C]."""
    z = x @ W.T + b
    return z.gather(1, y[:, None]) - z


def classified(W: Tensor, b: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """bool [N]: argmax of W x + b is y."""
    return (x @ W.T + b).argmax(1) == y


def chunks(x: Tensor) -> Iterator[slice]:
    """Slices over the rows of x that keep temporaries of its shape small."""
    step = max(1, _CHUNK_ELEMENTS // max(1, x[0].numel()))
    return (slice(start, start + step) for start in range(0, len(x), step))
