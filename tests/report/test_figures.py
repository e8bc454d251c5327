"""Laws of the figures: axis, marks, equal bytes, colours that the page can change, nothing global touched."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from isogrid.report import figures, gallery, matrices
from isogrid.report.style import PAGE, ROLES, SERIES, drawing_style, inline_svg, new_figure
from isogrid.report.tables import read_tables
from isogrid.study.results import Curve, Group, Point
from isogrid.verdicts.arm import Arm

ARM = Arm(data="made-up", model="m", pruner="progressive")
GROUP = Group(metric="r_inf", norm="linf", domain="box", eps=0.1)


def _point(level: int, **changes: object) -> Point:
    return Point(**{"level": level, "sparsity": 1 - (2 / 3) ** level, "mean": 0.3, "sd": 0.01, "low": 0.25, "high": 0.35, **changes})


def _curve(*points: Point) -> Curve:
    return Curve(arm=ARM, attack="fgs@0.1", group=GROUP, points=points)


def _axes() -> tuple[Figure, mpl.axes.Axes]:
    figure = new_figure(4, 3)
    return figure, figure.subplots()


def _luminance(colour: str) -> float:
    parts = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in to_rgb(colour)]
    return float(np.dot(parts, (0.2126, 0.7152, 0.0722)))


@pytest.mark.parametrize("dark", [0, 1])
def test_every_series_has_contrast_on_its_background(dark):
    page = _luminance(ROLES["page"][dark])
    for pair in (*SERIES, ROLES["ink"], ROLES["muted"], ROLES["control"]):
        tone = _luminance(pair[dark])
        assert (max(page, tone) + 0.05) / (min(page, tone) + 0.05) >= 3


def test_tokens_are_distinct_so_that_each_can_be_replaced():
    lights = [pair[0] for pair in (*ROLES.values(), *SERIES)]
    assert len(set(lights)) == len(lights)
    assert all(to_hex(colour) == colour for colour in lights)


def test_axis_runs_from_dense_to_sparse_logarithmically_and_is_labelled_in_sparsity():
    _, axes = _axes()
    figures.level_axis(axes, [0.0, 0.5, 0.9, 0.99])
    left, right = axes.get_xlim()
    assert left > 1.0 > 0.01 > right
    assert axes.get_xscale() == "log"
    for tick, label in zip(axes.get_xticks(), axes.get_xticklabels(), strict=True):
        assert float(label.get_text()) == pytest.approx(100 * (1 - tick))


@pytest.mark.parametrize("state", ["saturated", "collapsed", "void"])
def test_levels_that_are_no_evidence_are_hollow_and_explained(state):
    _, axes = _axes()
    curve = _curve(_point(0), _point(1, **{state: True}))
    states = figures.draw_curve(axes, curve, figures.positions(curve, {}), SERIES[0][0], "o")
    assert states == {state}
    faces = {round(float(line.get_xdata()[0]), 3): line.get_markerfacecolor() for line in axes.lines if line.get_linestyle() == "None"}
    assert faces[1.0] == SERIES[0][0]
    assert faces[0.667] == PAGE
    keys = figures.legend_keys(states=states, control=False, dense=False, band=False, colour=SERIES[0][0], tolerance=False)
    assert [key.get_label() for key in keys if key.get_marker() == figures.HOLLOW[state]] == [figures.STATE_LABELS[state]]


def test_interval_and_band_show_what_the_table_says():
    _, axes = _axes()
    curve = _curve(_point(0, low=0.2, high=0.5, sd=0.05), _point(1))
    figures.draw_curve(axes, curve, [1.0, 0.5], SERIES[0][0], "o")
    bars, band = axes.collections[1], axes.collections[0]
    assert bars.get_segments()[0][:, 1].tolist() == [0.2, 0.5]
    assert band.get_paths()[0].vertices[:, 1].max() == pytest.approx(0.35)


def test_each_seed_is_drawn_where_there_are_several():
    _, axes = _axes()
    curve = _curve(_point(0, by_seed=(0.2, 0.3, 0.6)), _point(1, by_seed=(0.1, math.nan, 0.3)))
    figures.draw_curve(axes, curve, [1.0, 0.5], SERIES[0][0], "o")
    [dots] = [line for line in axes.lines if line.get_marker() == "."]
    assert dots.get_xdata().tolist() == [1.0, 1.0, 1.0, 0.5, 0.5, 0.5]
    np.testing.assert_array_equal(dots.get_ydata(), [0.2, 0.3, 0.6, 0.1, math.nan, 0.3])
    _, axes = _axes()
    figures.draw_curve(axes, _curve(_point(0, by_seed=(0.3,))), [1.0], SERIES[0][0], "o")
    assert not [line for line in axes.lines if line.get_marker() == "."]


def test_without_spread_nothing_is_invented():
    _, axes = _axes()
    figures.draw_curve(axes, _curve(_point(0, sd=math.nan, low=math.nan, high=math.nan)), [1.0], SERIES[0][0], "o")
    assert len(axes.collections) == 1  # bars of length 0, no band
    assert np.ptp(axes.collections[0].get_segments()[0][:, 1]) == 0


def test_dense_reference_is_level_with_its_tolerance_below():
    _, axes = _axes()
    assert figures.draw_reference(axes, _point(0, mean=0.8), Group(metric="r_2", norm="l2", domain="free", eps=None), {"distance": 0.05})
    assert set(axes.lines[0].get_ydata()) == {0.8}
    box = axes.patches[0].get_bbox()
    assert (box.y0, box.y1) == (pytest.approx(0.76), 0.8)
    assert not figures.draw_reference(axes, None, GROUP, {})


def test_the_control_stands_at_the_level_whose_training_it_shares():
    control = Curve(arm=ARM, control=True, attack="fgs@0.1", group=GROUP, points=(_point(0, sparsity=0.0), _point(6, sparsity=0.0)))
    assert figures.positions(control, {0: 0.0, 6: 0.9}) == [1.0, pytest.approx(0.1)]


def test_headline_is_the_envelope_else_the_strongest_attack():
    weak = _curve(_point(0, mean=0.5), _point(1, mean=math.nan))
    strong = Curve(arm=ARM, attack="pgd@0.1", group=GROUP, points=(_point(0, mean=0.2),))
    envelope = Curve(arm=ARM, attack="envelope", group=GROUP, points=(_point(0, mean=0.9),))
    assert figures.headline([weak, strong]) is strong
    assert figures.headline([envelope, weak, strong]) is envelope


def test_equal_tables_give_equal_bytes_and_settings_are_restored(study, tmp_path):
    before, data = dict(mpl.rcParams), read_tables(study)
    arm = data.arms[1]
    group = data.groups(arm)[0]
    for place in ("one", "two"):
        with drawing_style():
            figures.overview(data, arm, group, tmp_path / place)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert [Path(name).suffix for name in files] == [".png", ".svg"]
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert dict(mpl.rcParams) == before


def test_inline_svg_is_well_formed_named_and_free_of_fixed_colours(study):
    data = read_tables(study)
    with drawing_style():
        drawing = figures.overview(data, data.arms[0], data.groups(data.arms[0])[0], None)
        other = figures.stack(data, data.arms[0], data.groups(data.arms[0])[0], None)
    root = ElementTree.fromstring(drawing.inline)
    assert root.get("role") == "img"
    assert root.get("aria-label") == drawing.alt
    assert not any(light in drawing.inline for light in (*[pair[0] for pair in ROLES.values()], *[pair[0] for pair in SERIES]))
    ids = [{e.get("id") for e in ElementTree.fromstring(one.inline).iter() if e.get("id")} for one in (drawing, other)]
    assert not ids[0] & ids[1]
    targets = {e.get("href")[1:] for e in root.iter() if (e.get("href") or "").startswith("#")}
    assert targets <= ids[0]
    assert 'aria-label="a &lt;b&gt; &quot;c&quot;"' in inline_svg('<svg viewBox="0 0 1 1"></svg>', "s", 'a <b> "c"')


def test_theory_and_transfer_are_drawn_only_where_there_are_any(study):
    data = read_tables(study)
    with drawing_style():
        linear, lenet = data.arms
        drawn = matrices.theory(data, linear, None)
        assert {drawing.slug for drawing in drawn} == {"linear-theory-l2-free", "linear-theory-linf-free-0.1"}
        assert any("above 1" in drawing.caption for drawing in drawn)
        assert matrices.theory(data, lenet, None) == []
        row = next(one for one in data.summary.transfer if one.arm == linear)
        assert ">.85</text>" in matrices.transfer(data, linear, row, None).svg
        assert matrices.transfer(data, linear, replace(row, matrix=((0.1,),)), None) is None
    assert "98." in matrices.assumption(data, linear)
    assert matrices.assumption(data, lenet) == ""


def test_gallery_never_shows_a_failure_as_a_distance(study):
    shown = gallery.galleries(read_tables(study))
    assert {(one.model, one.attack) for one in shown} == {(m, a) for m in ("linear", "lenet-300-100") for a in ("pgd@0.1", "deepfool")}
    cells = shown[0].rows[1].cells
    assert cells[4].note == "attack failed"
    assert cells[5].note == "wrong without attack"
    assert [cell.broken for cell in cells] == [True] * 4 + [False] * 2


def test_perturbation_colours_are_diverging_and_white_at_zero():
    image = gallery.difference(np.array([[0.0, 0.1, -0.1, 5.0]]), 0.1).astype(int)
    assert (image[0, 0] > 240).all()
    assert image[0, 1, 0] > image[0, 1, 2]
    assert image[0, 2, 2] > image[0, 2, 0]
    assert (image[0, 3] == image[0, 1]).all()


@pytest.mark.parametrize("shape", [(28, 28), (1, 28, 28), (3, 8, 8), (784,), (13,)])
def test_any_sample_has_a_picture(shape):
    image = gallery.picture(np.full(shape, 1.5))
    assert image.dtype == np.uint8
    assert image.shape[2] == 3
    assert (image == 255).all()
