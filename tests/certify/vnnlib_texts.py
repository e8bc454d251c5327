"""VNN-LIB written by the tests, in both versions of the language."""

from __future__ import annotations


def rivals(label, classes, relation=">="):
    """The negation of: class `label` beats all others."""
    return "(assert (or " + " ".join(f"(and ({relation} Y_{k} Y_{label}))" for k in range(classes) if k != label) + "))"


def declared(inputs, classes):
    """Version 1: every variable by itself."""
    return "\n".join(f"(declare-const {name} Real)" for name in [*(f"X_{i}" for i in range(inputs)), *(f"Y_{k}" for k in range(classes))])


def bounds(low, high):
    """Two assertions an input."""
    return "\n".join(f"(assert (>= X_{i} {a!r}))\n(assert (<= X_{i} {b!r}))" for i, (a, b) in enumerate(zip(low, high, strict=True)))


def version_1(low, high, label, classes, output=None):
    """A robustness property as VNN-COMP writes it."""
    return "\n".join(["; a property", declared(len(low), classes), bounds(low, high), output or rivals(label, classes)])


def version_2(low, high, label, classes, output=None, shape=None):
    """The same in version 2, its inputs a tensor [1, n] or of `shape`, a function of flat positions to indices."""
    dims, place = shape or ([1, len(low)], lambda i: f"0, {i}")
    body = bounds(low, high) + (output or rivals(label, classes))
    for i in reversed(range(len(low))):
        body = body.replace(f"X_{i} ", f"X[{place(i)}] ")
    for k in range(classes):
        body = body.replace(f"Y_{k} ", f"Y[0, {k}] ").replace(f"Y_{k})", f"Y[0, {k}])")
    network = f"(declare-network f (declare-input X float32 {dims}) (declare-output Y float32 [1, {classes}]))"
    return f"(vnnlib-version <2.0>)\n{network}\n{body}"
