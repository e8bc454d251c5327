"""The gallery: the same samples attacked at several levels. What belongs here: tensors to small pictures and their captions."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from PIL import Image
from torch import Tensor

from isogrid.report.style import INK, MUTED, Drawing, drawing_style, finish, new_figure, slugify
from isogrid.report.tables import Tables
from isogrid.report.words import attack_label, norm_label, number, percent
from isogrid.verdicts.arm import Arm

MAX_SAMPLES, MAX_LEVELS = 6, 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One sample at one level: the adversarial example, the perturbation in diverging colours (uint8 RGB), and what came of it."""

    adversarial: np.ndarray
    perturbation: np.ndarray
    note: str
    verdict: str
    broken: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelRow:
    """One level of the gallery."""

    level: int
    sparsity: float | None
    cells: tuple[Example, ...]

    @property
    def label(self) -> str:
        """`dense` for level 0, else the sparsity in per cent."""
        return "dense" if self.level == 0 else percent(self.sparsity) if self.sparsity is not None else f"level {self.level}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """One attack on one arm, named `model`: the clean samples with their labels, a row per level, the perturbation that full colour
    stands for."""

    arm: Arm
    model: str
    attack: str
    norm: str
    clean: tuple[tuple[str, np.ndarray], ...]
    rows: tuple[LevelRow, ...]
    full: float

    @property
    def title(self) -> str:
        """The attack in words."""
        budget = self.attack.split("@", 1)
        return attack_label(self.attack) + (f", ε = {budget[1]}" if len(budget) == 2 else "")

    @property
    def slug(self) -> str:
        """The name of its files."""
        return slugify(self.model, "gallery", self.attack)


def picture(sample: np.ndarray) -> np.ndarray:
    """A sample as uint8 RGB [H, W, 3]: grey or colour images as they are, a table row as a strip of its features; clipped to [0, 1]."""
    values = np.clip(np.nan_to_num(_plane(sample)), 0.0, 1.0)
    rgb = values if values.ndim == 3 else np.repeat(values[..., None], 3, axis=2)
    return np.round(255 * rgb).astype(np.uint8)


def difference(delta: np.ndarray, full: float) -> np.ndarray:
    """A perturbation as uint8 RGB [H, W, 3] in diverging colours: white is 0, full red +full, full blue -full; channels averaged."""
    plane = _plane(delta)
    plane = plane.mean(axis=2) if plane.ndim == 3 else plane
    scaled = 0.5 + 0.5 * np.clip(np.nan_to_num(plane) / max(full, 1e-12), -1.0, 1.0)
    rgb: np.ndarray = np.asarray(colormaps["RdBu_r"](scaled))[..., :3]
    return np.round(255 * rgb).astype(np.uint8)


def _plane(sample: np.ndarray) -> np.ndarray:
    """[1, H, W] and [H, W] to [H, W]; [3, H, W] to [H, W, 3]; a square number of features to its square, other features to a strip."""
    if sample.ndim == 3:
        plane: np.ndarray = sample.transpose(1, 2, 0) if sample.shape[0] == 3 else sample.mean(axis=0)
        return plane
    if sample.ndim == 2:
        return sample
    flat = sample.reshape(-1)
    side = math.isqrt(flat.size)
    return flat.reshape(side, side) if side * side == flat.size and side >= 8 else np.repeat(flat[None], max(1, flat.size // 8), axis=0)


def data_uri(image: np.ndarray) -> str:
    """A uint8 RGB picture as a PNG data URI (equal pixels give equal text)."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", optimize=False)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def galleries(study: Tables) -> list[Gallery]:
    """Every (model, attack) of the stored gallery, in the order of the study; at most 6 levels and 6 samples of each."""
    tensors = study.gallery
    norms = {one.id: one.norm for one in study.summary.attacks}
    found: dict[tuple[str, str], list[int]] = {}
    for key in tensors:
        if key.endswith("/x_adv") and key.count("/") >= 3:
            model, level, attack = key.removesuffix("/x_adv").rsplit("/", 2)
            if level.isdigit() and _of_model(tensors, model, "clean") is not None and _of_model(tensors, model, "label") is not None:
                found.setdefault((model, attack), []).append(int(level))
    by_model = {arm.model: arm for arm in reversed(study.arms)}
    models, attacks = [arm.model for arm in study.arms], list(norms)

    def place(key: tuple[str, str]) -> tuple[int, int, tuple[str, str]]:
        model, attack = key
        return (models.index(model) if model in models else len(models), attacks.index(attack) if attack in attacks else len(attacks), key)

    return [
        _one(
            study,
            tensors,
            by_model.get(model, Arm(data="", model=model, pruner="")),
            attack,
            norms.get(attack, ""),
            sorted(found[model, attack]),
        )
        for model, attack in sorted(found, key=place)
    ]


def _of_model(tensors: Mapping[str, Tensor], model: str, name: str) -> Tensor | None:
    """The clean samples or labels of a model: its own, else those that all models share."""
    return tensors.get(f"{model}/{name}", tensors.get(name))


def _pick(levels: Sequence[int]) -> list[int]:
    """At most MAX_LEVELS of the levels, first and last among them, evenly spaced."""
    if len(levels) <= MAX_LEVELS:
        return list(levels)
    return [levels[round(k * (len(levels) - 1) / (MAX_LEVELS - 1))] for k in range(MAX_LEVELS)]


def _one(study: Tables, tensors: Mapping[str, Tensor], arm: Arm, attack: str, norm: str, levels: Sequence[int]) -> Gallery:
    model = arm.model
    images, classes = _of_model(tensors, model, "clean"), _of_model(tensors, model, "label")
    assert images is not None
    assert classes is not None
    clean, labels = images[:MAX_SAMPLES].float().numpy(), [int(label) for label in classes[:MAX_SAMPLES]]
    count = len(labels)
    picked, sparsities = _pick(levels), study.sparsities(arm)
    deltas = {level: tensors[f"{model}/{level}/{attack}/x_adv"][:count].float().numpy() - clean for level in picked}
    sizes = np.concatenate([np.abs(delta[np.isfinite(delta)]) for delta in deltas.values()])
    full = float(np.quantile(sizes, 0.999)) if sizes.size else 0.0  # one scale for all levels, so that colours can be compared
    rows = []
    for level in picked:
        cells = []
        for k in range(count):
            note, verdict, broken = _outcome(tensors, f"{model}/{level}/{attack}", k, norm, labels[k])
            cells.append(
                Example(
                    adversarial=picture(clean[k] + deltas[level][k]),
                    perturbation=difference(deltas[level][k], full),
                    note=note,
                    verdict=verdict,
                    broken=broken,
                )
            )
        rows.append(LevelRow(level=level, sparsity=sparsities.get(level), cells=tuple(cells)))
    shown = tuple((str(label), picture(sample)) for label, sample in zip(labels, clean, strict=True))
    return Gallery(arm=arm, model=study.title(arm), attack=attack, norm=norm, clean=shown, rows=tuple(rows), full=full)


def _outcome(tensors: Mapping[str, Tensor], key: str, k: int, norm: str, label: int) -> tuple[str, str, bool]:
    """(size of the perturbation, prediction, whether the attack broke a correct one) in words; a failure is never a distance."""
    prediction = int(tensors[f"{key}/prediction"][k]) if f"{key}/prediction" in tensors else None
    distance = float(tensors[f"{key}/distance"][k]) if f"{key}/distance" in tensors else math.nan
    success = bool(tensors[f"{key}/success"][k]) if f"{key}/success" in tensors else prediction not in (None, label)
    said = f"says {prediction}" if prediction is not None else ""
    if distance == 0.0:
        return "wrong without attack", said, False
    if not success or math.isinf(distance):
        return "attack failed", said or f"says {label}", False
    return f"{norm_label(norm) or 'size'} {number(distance, 2)}", said, True


def draw(gallery: Gallery, folder: Path | None) -> Drawing:
    """The gallery as a figure for `figures/`: a clean row, then adversarial example and perturbation of each sample per level."""
    columns, lines = 2 * len(gallery.clean), 1 + len(gallery.rows)
    figure = new_figure(0.9 + 0.75 * columns, 0.1 + 0.95 * lines)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.axis("off")
    height, width = gallery.clean[0][1].shape[:2]
    across, down = round(width / 0.9), round(height / 0.9)  # pixels to one unit of the axes
    # all pictures on one canvas with see-through gaps: matplotlib spends a millisecond on an image, however small
    canvas = np.zeros((math.ceil(lines * 1.25 * down), (columns + 1) * across, 4), dtype=np.uint8)

    def put(image: np.ndarray, column: int, line: int, text: str, colour: str) -> None:
        left, top = round((column + 0.08 * (column % 2 == 0)) * across), round(line * 1.25 * down)
        canvas[top : top + height, left : left + width] = np.dstack([image, np.full((height, width), 255, np.uint8)])
        axes.text((left + width / 2) / across, top / down - 0.04, text, ha="center", va="bottom", fontsize=6, color=colour)

    for k, (label, image) in enumerate(gallery.clean):
        put(image, 2 * k, 0, f"class {label}", INK)
    axes.text(-0.05, 0.45, "clean", ha="right", va="center")
    for line, row in enumerate(gallery.rows, start=1):
        axes.text(-0.05, line * 1.25 + 0.45, row.label, ha="right", va="center")
        for k, cell in enumerate(row.cells):
            tone = INK if cell.broken else MUTED
            put(cell.adversarial, 2 * k, line, cell.verdict, tone)
            put(cell.perturbation, 2 * k + 1, line, cell.note.replace("wrong without attack", "already wrong"), tone)
    axes.imshow(canvas, extent=(0, canvas.shape[1] / across, canvas.shape[0] / down, 0), interpolation="none")
    axes.set(xlim=(-0.85, columns), ylim=(lines * 1.25 - 0.3, -0.25), aspect="equal")
    title = f"Adversarial examples of {gallery.model}: {gallery.title}"
    return finish(figure, folder, slug=gallery.slug, title=title, alt=title, caption="", wide=True)


def draw_all(pictures: Sequence[Gallery], folder: Path) -> None:
    """Draw galleries into `folder`, in the report's style wherever this runs: a process of its own may be told to."""
    with drawing_style():
        for one in pictures:
            draw(one, folder)
