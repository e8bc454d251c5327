"""VNN-LIB files as boxes of inputs and the class that must win: parsed by the package vnnlib. Not here: what is decided about them.

The package reads version 2 of the language. A file of version 1, in which all of VNN-COMP's benchmarks are written, declares X_0 ... and
Y_0 ... one by one; its declarations are rewritten, its assertions stay what they are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import numpy as np

from isogrid.core.errors import InputError
from isogrid.core.extras import needed
from isogrid.core.files import exists, user_path

ROBUST: Final = "an input box, and one assertion that another class k wins: (assert (or (and (>= Y_k Y_y)) ...)), for every k but y"
_MOST_BYTES: Final = 2**26
_DEEPEST: Final = 100  # the package's parser is recursive
_MOST_EXPONENT: Final = 400
_DECLARED: Final = re.compile(r"\(\s*declare-(?:const|fun)\s+([^\s()]+)\s+(?:\(\s*\)\s*)?([^\s()]+)\s*\)")
_EXPONENT: Final = re.compile(r"(?<=[\s(])[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+(?=[\s)])")
_PLAIN: Final = re.compile(r"(?<=[\s(])\+?(-?)(\d*)\.(\d*)(?=[\s)])")
_INTEGER: Final = re.compile(r"(?<=[\s(])\+?(-?\d+)(?=[\s)])")
_NAME: Final = re.compile(r"\b([XY])_(\d+)\b")

Region = tuple[np.ndarray[Any, np.dtype[np.float64]], np.ndarray[Any, np.dtype[np.float64]], int, int, bool]


def read_region(path: str | Path) -> Region:
    """(low [n], high [n], class y, number of classes, whether a tie violates it) of a robustness property; InputError for any other."""
    path = user_path(path, "property")
    if not exists(path):
        raise InputError("property", str(path), "the path of an existing VNN-LIB file")
    if path.stat().st_size > _MOST_BYTES:
        raise InputError("property", f"{path.stat().st_size} bytes in {path}", f"files of up to {_MOST_BYTES}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError("property", str(path), "VNN-LIB, which is text in UTF-8") from None
    try:
        return _region(_parsed(text))
    except _Other as error:
        raise InputError("property", f"{error} ({path.name})", ROBUST) from None


class _Other(Exception):  # noqa: N818
    """What a file holds that is no robustness property."""


def _parsed(text: str) -> Any:
    vnnlib = needed("vnnlib", "onnx", "VNN-LIB files")
    text = re.sub(r";[^\n]*", " ", text)
    depth = deepest = 0
    for bracket in re.findall(r"[()]", text):
        depth += 1 if bracket == "(" else -1
        deepest = max(deepest, depth)
    if deepest > _DEEPEST:
        raise _Other(f"brackets {deepest} deep")
    if not re.search(r"\(\s*vnnlib-version\b", text):
        text = _newer(text)
    text = _PLAIN.sub(lambda m: f"{m[1]}{m[2] or 0}.{m[3] or 0}" if m[2] or m[3] else m[0], _EXPONENT.sub(_decimal, text))
    try:
        return vnnlib.parse_query_string(text)
    except Exception as error:  # the package's own, and what its C++ parts raise
        raise _Other(f"what vnnlib cannot parse: {' '.join(str(error).split())[:200]}") from None


def _newer(text: str) -> str:
    """Version 1 as version 2: X_3 becomes X[3], and an integer, which there is no float32, a decimal."""
    names = [found[1] for found in _DECLARED.finditer(text)]
    counts = {}
    for letter in "XY":
        indices = sorted(int(name[2:]) for name in names if re.fullmatch(rf"{letter}_\d+", name))
        if not indices or indices != list(range(len(indices))):
            raise _Other(f"declarations other than {letter}_0, {letter}_1 ... without gaps")
        counts[letter] = len(indices)
    if len(names) != sum(counts.values()):
        raise _Other("declarations other than X_i and Y_i")
    if others := sorted({found[2] for found in _DECLARED.finditer(text)} - {"Real"}):
        raise _Other(f"variables of type {others[0]}, not Real")
    header = f"(declare-network f (declare-input X float32 [{counts['X']}]) (declare-output Y float32 [{counts['Y']}]))"
    body = _INTEGER.sub(r"\1.0", _NAME.sub(r"\1[\2]", _DECLARED.sub(" ", text)))
    return f"(vnnlib-version <2.0>)\n{header}\n{body}"


def _decimal(match: re.Match[str]) -> str:
    """A number with an exponent, which the package does not read, with its digits written out."""
    number = Decimal(match[0])
    if abs(number.adjusted()) > _MOST_EXPONENT:
        raise _Other(f"the number {match[0][:40]}")
    plain = format(number, "f")
    return plain if "." in plain else f"{plain}.0"


def _region(query: Any) -> Region:
    vnnlib = needed("vnnlib", "onnx", "VNN-LIB files")
    if len(query.networks) != 1 or len(query.networks[0].inputs) != 1 or len(query.networks[0].outputs) != 1:
        raise _Other("other than one network of one input and one output")
    network = query.networks[0]
    for one in (network.inputs[0], network.outputs[0]):
        if one.dtype not in (vnnlib.DType.F32, vnnlib.DType.Unknown):  # Real, which has no type there
            raise _Other(f"{one.name} of type {one.dtype.name}, not float32")
    inputs, outputs = (math.prod(one[0].shape) for one in (network.inputs, network.outputs))
    low, high = np.full(inputs, -np.inf), np.full(inputs, np.inf)
    disjuncts: list[tuple[int, int, bool]] | None = None
    for expression in (part for assertion in query.assertions for part in _parts(assertion.expr, vnnlib.And)):
        if isinstance(expression, vnnlib.Comparison) and (bound := _bound(expression, vnnlib)) is not None:
            place, value, above = bound
            if above:
                low[place] = max(low[place], value)
            else:
                high[place] = min(high[place], value)
            continue
        if disjuncts is not None:
            raise _Other("more than one condition on the outputs")
        disjuncts = [_beaten(part, vnnlib) for part in _parts(expression, vnnlib.Or)]
    if not disjuncts:
        raise _Other("no condition on the outputs")
    if not (np.isfinite(low).all() and np.isfinite(high).all() and (low <= high).all()):
        place = int(np.flatnonzero(~(np.isfinite(low) & np.isfinite(high) & (low <= high)))[0])
        raise _Other(f"input {place} between {low[place]} and {high[place]}")
    classes, rivals = {y for _, y, _ in disjuncts}, {k for k, _, _ in disjuncts}
    ties = {tie for _, _, tie in disjuncts}
    if len(ties) != 1:
        raise _Other("conditions on the outputs of which some are strict and others not")
    if len(classes) != 1 or rivals != set(range(outputs)) - classes:
        raise _Other(f"outputs {sorted(rivals)} against {sorted(classes)} of {outputs}")
    return low, high, classes.pop(), outputs, ties.pop()


def _parts(expression: Any, kind: Any) -> Iterator[Any]:
    """The expressions that an And (an Or) joins, nested ones too."""
    if not isinstance(expression, kind):
        yield expression
        return
    for part in expression.args:
        yield from _parts(part, kind)


Linear = dict[tuple[Any, int] | None, Fraction]
"""Coefficients by kind and flat index of a variable; None is the constant. Exact: a sum of floats may lose a part of what is written."""


def _linear(expression: Any, vnnlib: Any) -> Linear:
    if isinstance(expression, vnnlib.Var):
        return {(expression.kind, int(np.ravel_multi_index(expression.indices, expression.shape))): Fraction(1)}
    if isinstance(expression, vnnlib.Literal):
        return {None: Fraction(expression.lexeme)}
    parts = [_linear(part, vnnlib) for part in expression.children()]
    if isinstance(expression, vnnlib.Multiply):
        found: Linear = {None: Fraction(1)}
        for part in parts:
            constants = [set(side) <= {None} for side in (found, part)]
            if not any(constants):
                raise _Other(f"{str(expression)[:60]}, which is not linear")
            factor, other = (found, part) if constants[0] else (part, found)
            found = {key: factor.get(None, Fraction(0)) * value for key, value in other.items()}
        return found
    signs = [1 if isinstance(expression, vnnlib.Plus) else -1] * len(parts)
    if isinstance(expression, vnnlib.Minus):
        signs[0] = 1
    return _total(zip(signs, parts, strict=True))


def _total(parts: Iterable[tuple[int, Linear]]) -> Linear:
    found: Linear = {}
    for sign, part in parts:
        for key, value in part.items():
            found[key] = found.get(key, Fraction(0)) + sign * value
    return {key: value for key, value in found.items() if value}


def _difference(comparison: Any, vnnlib: Any) -> tuple[Linear, Fraction, bool]:
    """(coefficients, constant, strict) of a comparison written as sum + constant >= 0."""
    signs = {vnnlib.GreaterEqual: 1, vnnlib.GreaterThan: 1, vnnlib.LessEqual: -1, vnnlib.LessThan: -1}
    sign = signs.get(type(comparison))
    if sign is None:
        raise _Other(f"{str(comparison)[:60]}")
    found = _total([(sign, _linear(comparison.lhs, vnnlib)), (-sign, _linear(comparison.rhs, vnnlib))])
    return found, found.pop(None, Fraction(0)), type(comparison) in (vnnlib.GreaterThan, vnnlib.LessThan)


def _bound(comparison: Any, vnnlib: Any) -> tuple[int, float, bool] | None:
    """(input, limit, whether it lies above it) of a comparison of one input with a number; None where it is none.

    The limit itself is outside where the comparison is strict: the next number is the limit then.
    """
    found, constant, strict = _difference(comparison, vnnlib)
    if len(found) != 1:
        return None
    (((kind, place), factor),) = ((key, value) for key, value in found.items() if key is not None)
    if kind != vnnlib.SymbolKind.Input:
        return None
    if abs(factor) != 1:
        raise _Other(f"{str(comparison)[:60]}")
    try:
        limit = float(-constant * factor)
    except OverflowError:
        raise _Other(f"{str(comparison)[:60]}") from None
    return place, math.nextafter(limit, math.inf * factor) if strict else limit, factor > 0


def _beaten(expression: Any, vnnlib: Any) -> tuple[int, int, bool]:
    """(k, y, whether a tie counts) of Y_k >= Y_y."""
    (comparison, *more) = _parts(expression, vnnlib.And)
    if more or not isinstance(comparison, vnnlib.Comparison):
        raise _Other(f"{str(expression)[:60]}")
    found, constant, strict = _difference(comparison, vnnlib)
    places = {factor: key[1] for key, factor in found.items() if key is not None and key[0] == vnnlib.SymbolKind.Output}
    if len(found) != 2 or set(places) != {1, -1} or constant != 0:
        raise _Other(f"{str(comparison)[:60]}")
    return places[Fraction(1)], places[Fraction(-1)], not strict
