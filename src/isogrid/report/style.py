"""How every figure looks and how it is written. What belongs here: colours, rc settings, saving. What does not: data.

A figure is drawn once, in named colours. Its files keep the light colours; in the page each colour becomes a CSS variable, so that
one drawing serves light and dark.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import matplotlib as mpl
import matplotlib.style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from isogrid.core.files import replacing, write_text

# (light, dark): ink, muted text, grid, page. The light value is the token that the drawing uses, so no two may be equal.
ROLES: dict[str, tuple[str, str]] = {
    "ink": ("#16202c", "#e9edf2"),
    "muted": ("#5a6675", "#9ba8b7"),
    "grid": ("#e3e7ec", "#2b3541"),
    "page": ("#fefefe", "#12181f"),
    "control": ("#6f7b8b", "#a3afbd"),
    "truth": ("#b0123c", "#ff8fa3"),
}
# Okabe and Ito's hues, darkened for white and lightened for black until each has a contrast of at least 3:1 there.
SERIES: tuple[tuple[str, str], ...] = (
    ("#0068b3", "#62b5f5"),
    ("#c44d00", "#ff9152"),
    ("#00805f", "#3bd1a5"),
    ("#a3457f", "#ea9fcb"),
    ("#8f6a00", "#ecc247"),
    ("#357d9e", "#8ed6f7"),
)
MARKERS = ("o", "^", "D", "v", "P", "X")
INK, MUTED, GRID, PAGE, CONTROL_COLOUR, TRUTH = (ROLES[name][0] for name in ("ink", "muted", "grid", "page", "control", "truth"))

RC: dict[str, object] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Helvetica Neue", "Arial", "sans-serif"],
    "font.size": 8.5,
    "mathtext.fontset": "dejavusans",
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.labelcolor": MUTED,
    "axes.labelsize": 8,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.size": 3,
    "xtick.minor.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "figure.facecolor": PAGE,
    "svg.fonttype": "none",
    "svg.hashsalt": "isogrid",
    "path.simplify": False,
    "image.composite_image": False,
}
_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """A finished figure: its slug (file name), what it shows in a sentence (alt), its caption, and its SVG as drawn."""

    slug: str
    title: str
    alt: str
    caption: str
    svg: str
    wide: bool = False

    @property
    def inline(self) -> str:
        """The SVG for the page: scalable, named for screen readers, with ids of its own and colours from the style sheet."""
        return inline_svg(self.svg, self.slug, self.alt)


@contextlib.contextmanager
def drawing_style() -> Iterator[None]:
    """Within it, figures follow the report's style; matplotlib's settings are as before on exit.

    >>> before = dict(mpl.rcParams)
    >>> with drawing_style():
    ...     changed = mpl.rcParams["svg.hashsalt"]
    >>> changed, dict(mpl.rcParams) == before
    ('isogrid', True)
    """
    with mpl.style.context(["default", RC]):
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of that size in inches, on its own canvas (pyplot and its global state stay out of it)."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def finish(figure: Figure, folder: Path | None, *, slug: str, title: str, alt: str, caption: str, wide: bool = False) -> Drawing:
    """Render to SVG, write `slug`.svg and `slug`.png into `folder` if given, and return the drawing. Equal data give equal bytes."""
    buffer = io.StringIO()
    # the canvases' own printers, and the layout computed once: savefig would draw each figure four times
    FigureCanvasSVG(figure).print_svg(buffer, metadata=_NO_METADATA)  # type: ignore[no-untyped-call]
    figure.set_layout_engine("none")
    svg = re.sub(r"[ \t]+$", "", buffer.getvalue(), flags=re.MULTILINE)
    if folder is not None:
        write_text(folder / f"{slug}.svg", svg)
        with replacing(folder / f"{slug}.png") as path:
            figure.set_dpi(200)
            FigureCanvasAgg(figure).print_png(path, metadata={"Software": None}, pil_kwargs={"compress_level": 2})  # type: ignore[no-untyped-call]
    return Drawing(slug=slug, title=title, alt=alt, caption=caption, svg=svg, wide=wide)


def slugify(*parts: object) -> str:
    """A file name of letters, digits, dots and dashes only.

    >>> slugify("LeNet/300 <b>", "r_inf", 0.1)
    'lenet-300-b-r_inf-0.1'
    """
    words = (re.sub(r"[^a-z0-9._]+", "-", str(part).lower()).strip("-.") for part in parts if part not in (None, ""))
    return "-".join(word for word in words if word) or "figure"


def colours(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Attack -> (colour, marker), by its place among `names`, so that an attack looks alike in every figure of a study."""
    unique = dict.fromkeys(names)
    return {name: (SERIES[k % len(SERIES)][0], MARKERS[k % len(MARKERS)]) for k, name in enumerate(unique)}


def variables(dark: bool) -> str:
    """The colours as CSS declarations, for light or dark."""
    pairs = {**ROLES, **{f"series-{k}": pair for k, pair in enumerate(SERIES)}}
    return " ".join(f"--{name}: {pair[dark]};" for name, pair in pairs.items())


def inline_svg(svg: str, slug: str, alt: str) -> str:
    """`svg` as a part of a page: no prolog, no fixed size, unique ids, CSS variables for colours, an accessible name."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="([^"]+)"', rf'id="{slug}-\1"', body)
    body = re.sub(r'(xlink:href|href)="#([^"]+)"', rf'href="#{slug}-\2"', body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{slug}-\1)", body)
    for name, (light, _) in {**ROLES, **{f"series-{k}": pair for k, pair in enumerate(SERIES)}}.items():
        body = body.replace(light, f"var(--{name})")
    head, rest = body.split(">", 1)
    box = re.search(r'viewBox="([^"]+)"', head)
    width = float(box.group(1).split()[2]) if box else 0.0
    start = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box.group(1) if box else ""}" role="img" aria-label="{escape(alt)}"'
    return f'{start} style="--natural: {width / 72 * 96:.0f}px">{rest}'.replace("xlink:href", "href").strip()
