"""VNN-LIB properties: what is a ball around a sample is read as one and decided as exhaustive search decides it; the rest is refused."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from isogrid.certify import CROWN, Property, decide, make, read_property
from isogrid.certify.properties import judged
from isogrid.core.errors import InputError
from isogrid.core.random import generator
from isogrid.models import read_onnx
from tests.certify.vnnlib_texts import bounds, declared, rivals, version_1, version_2
from tests.models.onnx_nets import constant, node, saved

EXACT = make({"name": "branch-and-bound", "norm": "linf", "seconds": 20.0})


def parsed(tmp_path, text):
    path = tmp_path / "p.vnnlib"
    path.write_text(text, encoding="utf-8")
    return read_property(path)


def ball(x, eps, bottom=0.0, top=1.0):
    """Bounds of a ball cut by a range, computed in float32 as VNN-COMP's generators do, printed with every digit."""
    x = torch.as_tensor(x, dtype=torch.float32)
    return (x - eps).clamp_min(bottom).tolist(), (x + eps).clamp_max(top).tolist()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_ball_around_the_sample_comes_back(data):
    bottom, top = data.draw(st.sampled_from([(0.0, 1.0), (-0.4242, 2.8215), (-3.0, -1.0)]))
    n, eps = data.draw(st.integers(2, 30)), data.draw(st.floats(1e-4, 0.4))
    x = torch.rand(n, generator=generator(data.draw(st.integers(0, 999)), "ball")) * (top - bottom) + bottom
    x[0] = (bottom + top) / 2  # one that is not cut fixes the radius
    low, high = (torch.tensor(end, dtype=torch.float64) for end in ball(x, eps, bottom, top))
    found = Property(low=low, high=high, label=0, classes=2, ties=True)
    assert found.eps == pytest.approx(eps, rel=1e-3, abs=2e-6)
    low_end, high_end = found.box
    covered = found.x.double()[:, None] + found.eps * torch.tensor([-1.0, 1.0], dtype=torch.float64)
    assert bool((covered[:, 0].clamp_min(low_end) <= low).all())  # the whole of the box, to the last bit
    assert bool((covered[:, 1].clamp_max(high_end) >= high).all())
    first, last = found.ends
    assert bool((first.double() >= low).all() and (last.double() <= high).all() and (first <= last).all())
    assert bool((torch.nextafter(first, first - 1).double() < low).all() and (torch.nextafter(last, last + 1).double() > high).all())
    assert torch.equal(found.x.clamp(first, last), found.x)


@pytest.mark.parametrize(
    ("low", "high"),
    [
        ([0.2, 0.2, 0.0], [0.4, 0.45, 1.0]),  # a side that is wider
        ([0.2, 0.3, 0.0], [0.4, 0.3, 1.0]),  # an input that is fixed, inside the range
        ([0.0, 0.3], [0.05, 0.7]),  # cut so short that the sample lies outside the range
        ([0.5, 0.5], [0.5, 0.5]),
        ([0.1, 0.2], [0.1, 0.3]),  # no float32 lies in the first
    ],
)
def test_a_box_that_is_no_ball_is_refused(tmp_path, low, high):
    with pytest.raises(InputError, match=r"property: got input \d in"):
        parsed(tmp_path, version_1(low, high, 0, 3))


def test_both_versions_say_the_same(tmp_path):
    low, high = ball([0.05, 0.5, 0.97, 0.4], 0.1)
    first = parsed(tmp_path, version_1(low, high, 2, 4))
    sides = " ".join(f"(>= X_{i} {low[i]!r}) (<= X_{i} {high[i]!r})" for i in range(4))
    joined = f"{declared(4, 4)} (assert (and {sides})) {rivals(2, 4)}"
    for text in (
        version_2(low, high, 2, 4),
        version_2(low, high, 2, 4, shape=([1, 2, 2], lambda i: f"0, {i // 2}, {i % 2}")),
        version_1(low, high, 2, 4).replace("(>= X_1 ", "(<= 0.0 X_1)) ; an assertion more\n(assert (>= X_1 "),
        version_1(low, high, 2, 4, rivals(2, 4).replace("(>= Y_0 Y_2)", "(<= Y_2 Y_0)").replace("(and (>= Y_1 Y_2))", "(>= Y_1 Y_2)")),
        version_1(low, high, 2, 4, rivals(2, 4).replace("(>= Y_0 Y_2)", "(>= (- Y_0 Y_2) 0.0)")),
        joined,
    ):
        found = parsed(tmp_path, text)
        assert torch.equal(found.low, first.low)
        assert torch.equal(found.high, first.high)
        assert (found.label, found.classes, found.ties) == (2, 4, True)
    assert torch.equal(first.low, torch.tensor(low, dtype=torch.float64))
    assert torch.equal(first.high, torch.tensor(high, dtype=torch.float64))
    assert not parsed(tmp_path, version_1(low, high, 2, 4, rivals(2, 4, ">"))).ties


@pytest.mark.parametrize("written", ["2.5e-05", "0.25E-4", "+2.5e-5", "25e-6", ".000025", "0.000025", "(- -2.5e-5)"])
def test_numbers_in_every_form(tmp_path, written):
    text = declared(1, 2) + f"(assert (>= X_0 {written}))(assert (<= X_0 1.))" + rivals(0, 2)
    assert parsed(tmp_path, text).low.item() == 2.5e-5


def test_integers_are_numbers(tmp_path):
    text = declared(2, 2) + "(assert (>= X_0 -1))(assert (<= X_0 2))(assert (>= X_1 +0))(assert (>= 3 X_1))" + rivals(0, 2)
    found = parsed(tmp_path, text)
    assert (found.low.tolist(), found.high.tolist()) == ([-1.0, 0.0], [2.0, 3.0])


def test_strict_bounds_leave_out_the_limit(tmp_path):
    inside = "(assert (> X_0 0.25))(assert (< X_0 0.5))(assert (>= X_1 0.25))(assert (<= X_1 0.5))"
    low, high = parsed(tmp_path, declared(2, 2) + inside + rivals(0, 2)).ends
    assert low.tolist() == [np.nextafter(np.float32(0.25), np.float32(1)), 0.25]
    assert high.tolist() == [np.nextafter(np.float32(0.5), np.float32(0)), 0.5]


def test_a_counterexample_on_a_strict_bound_is_none(tmp_path):
    network = linear(tmp_path, np.eye(2, dtype=np.float32), np.zeros(2, dtype=np.float32))  # only the corner that is left out ties
    box = "(assert (> X_0 0.5))(assert (<= X_0 1.0))(assert (>= X_1 0.0))(assert (<= X_1 0.5))"
    for text, verdict in ((box, "unknown"), (box.replace("> X_0", ">= X_0"), "violated")):
        question = parsed(tmp_path, declared(2, 2) + text + rivals(0, 2))
        assert decide(network, question, [CROWN(norm="linf")]).verdict in (verdict, "holds" if verdict == "unknown" else verdict)


@pytest.mark.parametrize("label", [0, 2])
def test_sums_are_exact(tmp_path, label):
    low, high = ball([0.05, 0.5], 0.1)
    plain = f"(>= Y_1 Y_{label})"
    same = f"(>= (+ Y_1 1e20 0.5) (+ (* 2.0 0.5 Y_{label}) (- 1e20 -0.5)))"
    written = version_1(low, high, label, 3)
    assert parsed(tmp_path, written.replace(plain, same)).label == label
    for other in (same.replace("0.5) (+", "0.25) (+"), plain.replace("Y_1", "(* 1.0000000000000000001 Y_1)")):
        with pytest.raises(InputError, match="property: got"):
            parsed(tmp_path, written.replace(plain, other))


def test_a_mark_of_the_byte_order_is_no_text(tmp_path):
    assert parsed(tmp_path, "\ufeff" + version_1(*ball([0.05, 0.5], 0.1), 0, 3)).label == 0


HEAD, BOX = declared(2, 3), bounds([0.2, 0.3], [0.4, 0.5])
REFUSED = {
    "nothing": "",
    "noise": "\x00\x01(",
    "no declarations": BOX + rivals(0, 3),
    "a gap": HEAD.replace("X_1", "X_2") + BOX + rivals(0, 3),
    "an input without an upper bound": HEAD + BOX.replace("(assert (<= X_1 0.5))", "") + rivals(0, 3),
    "an empty box": HEAD + BOX.replace("(<= X_1 0.5)", "(<= X_1 0.1)") + rivals(0, 3),
    "no condition": HEAD + BOX,
    "one rival only": HEAD + BOX + "(assert (>= Y_1 Y_0))",
    "all at once": HEAD + BOX + "(assert (>= Y_1 Y_0))(assert (>= Y_2 Y_0))",
    "a conjunction": HEAD + BOX + "(assert (or (and (>= Y_1 Y_0) (>= Y_1 Y_2)) (and (>= Y_2 Y_0))))",
    "two classes": HEAD + BOX + "(assert (or (>= Y_1 Y_0) (>= Y_2 Y_1)))",
    "ties of one": HEAD + BOX + "(assert (or (>= Y_1 Y_0) (> Y_2 Y_0)))",
    "a margin": HEAD + BOX + "(assert (or (>= Y_1 (+ Y_0 0.1)) (>= Y_2 Y_0)))",
    "a number as rival": HEAD + BOX + "(assert (or (>= Y_1 0.5) (>= Y_2 Y_0)))",
    "a weight": HEAD + BOX + "(assert (>= (* 2.0 X_0) 0.5))" + rivals(0, 3),
    "a sum of inputs": HEAD + BOX + "(assert (>= (+ X_0 X_1) 0.5))" + rivals(0, 3),
    "a product": HEAD + BOX + "(assert (>= (* X_0 X_1) 0.5))" + rivals(0, 3),
    "two boxes": HEAD + BOX + "(assert (or (and (>= X_0 0.2) (>= Y_1 Y_0)) (>= Y_2 Y_0)))",
    "a class that is not declared": HEAD + BOX + rivals(0, 4),
    "no end": (HEAD + BOX + rivals(0, 3))[:-1],
    "brackets without end": HEAD + BOX + "(assert " + "(and " * 100_000 + "(>= Y_1 Y_0)" + ")" * 100_001,
    "an exponent without end": HEAD + BOX.replace("0.2", "1e999999999") + rivals(0, 3),
    "an infinite number": HEAD + BOX.replace("0.2", "-1e399") + rivals(0, 3),
    "many digits": HEAD + BOX.replace("0.2", "9" * 30) + rivals(0, 3),
    "no number": HEAD + BOX.replace("0.2", "NaN") + rivals(0, 3),
    "an equation": version_2([0.2, 0.3], [0.4, 0.5], 0, 2, "(assert (== Y_0 Y_1))"),
    "integers": (HEAD + BOX + rivals(0, 3)).replace("X_1 Real", "X_1 Int"),
    "numbers in double precision": version_2([0.2, 0.3], [0.4, 0.5], 0, 2).replace("X float32", "X float64"),
    "two networks": version_2([0.2], [0.4], 0, 2).replace(
        "(declare-network f", "(declare-network g (declare-input A Real [1]) (declare-output B Real [1]))(declare-network f"
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_anything_else_is_one_line_that_says_what_is_accepted(tmp_path, name):
    with pytest.raises(InputError) as raised:
        parsed(tmp_path, REFUSED[name])
    assert raised.value.field == "property"
    assert "(>= Y_k Y_y)" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_files_that_are_no_text_or_too_large_or_not_there(tmp_path):
    path = tmp_path / "p.vnnlib"
    with pytest.raises(InputError, match="existing"):
        read_property(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="UTF-8"):
        read_property(path)
    with path.open("wb") as file:
        file.truncate(2**26 + 1)
    with pytest.raises(InputError, match="bytes"):
        read_property(path)


def test_without_the_package_one_line_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "vnnlib", None)
    with pytest.raises(InputError, match=r"no package vnnlib.*isogrid\[onnx\]"):
        parsed(tmp_path, version_1([0.2], [0.4], 0, 2))


def linear(tmp_path, weight, bias):
    """logits = x W + b."""
    path = saved(tmp_path / "net.onnx", [node("Gemm", "x", weight, bias)], (len(weight),))
    return read_onnx(path)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), eps=st.floats(1e-3, 0.3))
def test_of_a_linear_network_the_closed_form_is_met(tmp_path_factory, seed, eps):
    folder = tmp_path_factory.mktemp("linear")
    weight, bias = constant(6, 3, seed=seed), constant(3, seed=seed + 1)
    network, x = linear(folder, weight, bias), torch.rand(6, generator=generator(seed, "sample")) * 0.9 + 0.05
    label = int(network.module(x[None]).argmax())
    question = parsed(folder, version_1(*ball(x, eps), label, 3))
    W, b = torch.from_numpy(weight).double(), torch.from_numpy(bias).double()
    gap = W[:, [label]] - W
    margins = torch.where(gap > 0, gap * question.low[:, None], gap * question.high[:, None]).sum(0) + b[label] - b
    margins[label] = torch.inf
    exact = margins.min().item()
    if abs(exact) < 1e-4:
        return
    found = decide(network, question, [CROWN(norm="linf")])
    assert found.verdict == ("holds" if exact > 0 else "violated")
    if found.point is not None:
        assert bool((found.point.double() >= question.low).all() and (found.point.double() <= question.high).all())
        assert torch.equal(network.reference(found.point[None])[0], found.logits)
        assert int(found.logits.argmax()) != label


@pytest.mark.parametrize("seed", range(6))
def test_small_networks_are_decided_as_a_grid_decides_them(tmp_path, seed):
    layers = [
        node("Gemm", "x", constant(2, 6, seed=seed) * 3, constant(6, seed=seed) - 1, outputs=("h",)),
        node("Relu", "h", outputs=("r",)),
        node("Gemm", "r", constant(6, 3, seed=seed), constant(3, seed=seed) * 0.3),
    ]
    network = read_onnx(saved(tmp_path / "net.onnx", layers, (2,)))
    for i in range(4):
        x = torch.rand(2, generator=generator(seed, "grid", i))
        label = int(network.module(x[None]).argmax())
        question = parsed(tmp_path, version_1(*ball(x, 0.05 + 0.1 * i), label, 3))
        sides = [torch.linspace(*ends, 300) for ends in zip(*(end.tolist() for end in question.ends), strict=True)]
        z = network.module(torch.cartesian_prod(*sides))
        others = z.scatter(1, torch.full((len(z), 1), label), -torch.inf).amax(1)
        broken = bool((others >= z[:, label]).any())
        assert decide(network, question, [CROWN(norm="linf")]).verdict in ("violated", *(() if broken else ("holds", "unknown")))
        found = decide(network, question, [EXACT])
        assert found.verdict != "unknown"
        if broken:
            assert found.verdict == "violated"


def test_ties_violate_only_what_says_so(tmp_path):
    network = linear(tmp_path, constant(2, 1).repeat(3, 1), constant(3) * 0)
    low, high = ball([0.4, 0.6], 0.1)
    assert decide(network, parsed(tmp_path, version_1(low, high, 1, 3)), [CROWN(norm="linf")]).verdict == "violated"
    strict = parsed(tmp_path, version_1(low, high, 1, 3, rivals(1, 3, ">")))
    assert decide(network, strict, [CROWN(norm="linf")]).verdict == "unknown"


def test_a_counterexample_outside_by_less_than_the_slack_of_reading_is_none(tmp_path):
    # The second side is shorter by 5e-6 than the ball's: margin t - x_0 - x_1 is negative at the ball's corner, positive at the box's.
    question = parsed(tmp_path, version_1([0.3, 0.3 + 5e-6], [0.5, 0.5 - 5e-6], 0, 2))
    assert question.eps == pytest.approx(0.1, abs=1e-6)
    t = 1.0 - 2.5e-6
    weight = torch.tensor([[0.0, 1.0], [0.0, 1.0]]).numpy()
    network = linear(tmp_path, weight, torch.tensor([t, 0.0]).numpy())
    corner = torch.tensor([0.5, 0.5])
    assert int(network.module(corner[None]).argmax()) == 1
    assert judged(network, question, corner) is None
    assert decide(network, question, [CROWN(norm="linf"), EXACT]).verdict == "unknown"


def test_a_network_that_is_read_wrongly_decides_nothing(tmp_path):
    network = linear(tmp_path, constant(2, 3), constant(3))
    question = parsed(tmp_path, version_1(*ball([0.4, 0.6], 0.1), 1, 3))
    with torch.no_grad():
        next(network.module.parameters())[0, 0] += 0.5
    with pytest.raises(InputError, match="differ from onnxruntime"):
        decide(network, question, [CROWN(norm="linf")])


def test_what_does_not_fit_the_network_is_refused(tmp_path):
    network = linear(tmp_path, constant(2, 3), constant(3))
    for text in (version_1(*ball([0.4, 0.6, 0.5], 0.1), 1, 3), version_1(*ball([0.4, 0.6], 0.1), 1, 4)):
        with pytest.raises(InputError, match="2 inputs and 3 classes"):
            decide(network, parsed(tmp_path, text), [CROWN(norm="linf")])
    with pytest.raises(InputError, match="linf"):
        decide(network, parsed(tmp_path, version_1(*ball([0.4, 0.6], 0.1), 1, 3)), [CROWN(norm="l2")])
