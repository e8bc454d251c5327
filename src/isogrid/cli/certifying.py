"""`isogrid certify`: what can be proved of one trained model, between certificates and attacks, without pruning."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn

from isogrid import attacks as attack_library, data as data_library, models
from isogrid.attacks.records import to_numpy
from isogrid.certify import CERTIFICATES, make
from isogrid.cli.attack_flags import split_list
from isogrid.cli.flags import tidy
from isogrid.cli.output import print_json
from isogrid.core.errors import InputError, one_of
from isogrid.core.norms import NORMS, allowed
from isogrid.data import Samples
from isogrid.metrics.brackets import bracket_metrics, known

EXACT = "branch-and-bound"
UPPER: dict[str, tuple[dict[str, Any], ...]] = {
    "linf": tuple({"name": "fmn", "norm": "linf", "converge": True, "backward": backward} for backward in ("exact", "leaky")),
    "l2": tuple({"name": "ddn", "converge": True, "backward": backward} for backward in ("exact", "leaky")),
}
"""The attacks that give the upper ends: exact gradients, then those that dead units let through."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Brackets of one norm: per sample lower and upper ends [N], and with an eps the samples that are certified and broken."""

    norm: str
    lower: np.ndarray[Any, np.dtype[np.float64]]
    upper: np.ndarray[Any, np.dtype[np.float64]]

    def counts(self, eps: float) -> tuple[int, int, int]:
        """How many are certified, broken (misclassified ones among them), and undecided at eps."""
        certified = int(((self.lower >= eps) & (self.upper > 0)).sum())
        broken = int((self.upper <= allowed(eps)).sum())
        return certified, broken, len(self.lower) - certified - broken


def certify_model(
    *,
    model: str,
    data: str,
    weights: str | None,
    classes: str | None,
    norms: str,
    methods: str,
    eps: float | None,
    exact: float | None,
    samples: int,
    seed: int,
    out: str | None,
    as_json: bool,
    console: Console,
    progress_console: Console,
) -> None:
    """Load, attack, certify, print."""
    folder = None if out is None else tidy(out)
    chosen = split_list("norm", norms, str, "linf, l2 or both with a comma")
    for name in chosen:
        if name not in NORMS:
            raise one_of("norm", name, NORMS)
    require_positive("eps", eps)
    configs = configurations(methods, exact)
    labels = None if classes is None else tuple(split_list("classes", classes, int, "labels as 1,7"))
    test = data_library.load(data, classes=labels, test=samples, hold_out=False).test
    network = models.open_model(
        model, test.x, test.classes, weights=weights, on_note=lambda note: progress_console.print(note, markup=False, highlight=False)
    )
    found = []
    with Progress(console=progress_console, transient=True, disable=not progress_console.is_terminal) as progress:
        for norm in chosen:
            found.append(_bracket(network, test, norm, configs, eps, seed, progress))
            if folder is not None:
                _store(folder, found[-1])
    if as_json:
        print_json(_plain(model, test, found, configs, eps))
        return
    console.print(certificate_table(model, test, found, eps))


def configurations(methods: str, exact: float | None) -> list[dict[str, Any]]:
    """The methods that the flags name, the complete search last."""
    names = split_list("methods", methods, str, "names with commas")
    for name in names:
        if name not in CERTIFICATES:
            raise one_of("methods", name, CERTIFICATES)
    require_positive("exact", exact)
    return [{"name": name} for name in names] + ([] if exact is None else [{"name": EXACT, "seconds": exact}])


def require_positive(field: str, value: float | None) -> None:
    """Raise InputError unless a flag was left out or is a finite number > 0."""
    if value is not None and not (math.isfinite(value) and value > 0):
        raise InputError(field, value, "a finite number > 0")


def _bracket(
    network: nn.Module, test: Samples, norm: str, configs: list[dict[str, Any]], eps: float | None, seed: int, progress: Progress
) -> Found:
    """Attacks first, since a sample that one has broken within eps needs no proof; then each method on what is still open."""
    bar = progress.add_task(f"{norm}: attacks", total=test.n * (len(configs) + len(UPPER[norm])))
    upper = torch.full((test.n,), math.inf, dtype=torch.float64)
    for config in UPPER[norm]:
        outcome = attack_library.make(config)(network, test.x, test.y, seed=seed, box=test.box)
        upper = torch.minimum(upper, outcome.distance.double())
        progress.advance(bar, test.n)
    lower = torch.zeros_like(upper)
    for config in configs:
        progress.update(bar, description=f"{norm}: {config['name']}")
        rows = _open(lower, upper, eps)
        if len(rows):
            _certify(network, test, norm, config, eps, rows, (lower, upper))
        progress.advance(bar, test.n)
    progress.remove_task(bar)
    return Found(norm=norm, lower=to_numpy(lower), upper=to_numpy(upper))


def _open(lower: Tensor, upper: Tensor, eps: float | None) -> Tensor:
    """The samples on which a further method could say something new."""
    if eps is None:
        return torch.nonzero(~torch.from_numpy(known(to_numpy(lower), to_numpy(upper)))).flatten()
    return torch.nonzero((lower < eps) & (upper > allowed(eps))).flatten()


def _certify(
    network: nn.Module, test: Samples, norm: str, config: dict[str, Any], eps: float | None, rows: Tensor, ends: tuple[Tensor, Tensor]
) -> None:
    """Move the ends of `rows` as far as the method can: with an eps only to that, where it decides."""
    lower, upper = ends
    method = make(config | {"norm": norm})
    x, y = test.x[rows], test.y[rows]
    if eps is None:
        certificate = method(network, x, y, upper=upper[rows], box=test.box)
        lower[rows] = torch.maximum(lower[rows], certificate.radius)
        upper[rows] = torch.minimum(upper[rows], certificate.upper)
        return
    verdicts = method.verify(network, x, y, eps, box=test.box)
    lower[rows] = torch.where(verdicts.certified, torch.maximum(lower[rows], torch.tensor(eps, dtype=torch.float64)), lower[rows])
    size = NORMS[norm].size(verdicts.x_adv.double() - x.double())
    upper[rows] = torch.where(verdicts.broken, torch.minimum(upper[rows], size), upper[rows])


def _store(out: Path, one: Found) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        frame = pd.DataFrame({"sample": np.arange(len(one.lower)), "lower": one.lower, "upper": one.upper})
        frame.to_parquet(out / f"certificate-{one.norm}.parquet", index=False)
    except OSError as error:
        raise InputError("out", str(out), f"a folder that can be written ({error.strerror})") from None


def _figures(one: Found, eps: float | None) -> dict[str, float | None]:
    found: dict[str, float | None] = {"samples": len(one.lower)}
    if eps is not None:
        return found | dict(zip(("certified", "broken", "undecided"), one.counts(eps), strict=True))
    return found | {metric: value if math.isfinite(value) else None for metric, _, value in bracket_metrics(one.lower, one.upper, ())}


def _plain(model: str, test: Samples, found: list[Found], configs: list[dict[str, Any]], eps: float | None) -> dict[str, Any]:
    return {
        "model": model,
        "data": test.name,
        "samples": test.n,
        "methods": configs,
        "eps": eps,
        "domain": "box",
        "norms": {one.norm: _figures(one, eps) for one in found},
    }


def certificate_table(model: str, test: Samples, found: list[Found], eps: float | None) -> Table:
    """A row per norm: with an eps counts of samples, without one both ends of the brackets."""
    table = Table(
        title=Text(f"{model} on {test.n} samples of {test.name}"), title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0)
    )
    table.add_column("norm")
    if eps is not None:
        for header in ("eps", "certified", "broken", "undecided"):
            table.add_column(header, justify="right")
        for one in found:
            table.add_row(one.norm, f"{eps:g}", *map(str, one.counts(eps)))
        return table
    headers = {
        "certified_radius": "certified\nmean",
        "median_certified_radius": "certified\nmedian",
        "attacked_radius": "attacked\nmean",
        "median_attacked_radius": "attacked\nmedian",
        "tightness": "certified /\nattacked",
        "exact_share": "exact",
    }
    for header in headers.values():
        table.add_column(header, justify="right")
    for one in found:
        figures = _figures(one, None)
        table.add_row(one.norm, *("" if (value := figures.get(name)) is None else f"{value:.4g}" for name in headers))
    return table
