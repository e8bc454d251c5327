"""`isogrid certify --property`: one VNN-LIB property of one ONNX file. Not here: certificates on samples (certifying.py)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from isogrid import models
from isogrid.certify import Decision, decide, make, read_property
from isogrid.cli.certifying import configurations
from isogrid.cli.flags import tidy
from isogrid.cli.output import print_json
from isogrid.core.errors import InputError
from isogrid.core.files import write_text

COUNTEREXAMPLE = "counterexample.txt"


def decide_property(
    *,
    model: str,
    question: Path,
    unused: Mapping[str, object],
    methods: str,
    exact: float | None,
    seed: int,
    out: str | None,
    as_json: bool,
    console: Console,
) -> None:
    """Read both files, decide, print the verdict; `unused`: flags that say nothing of a property."""
    for flag, value in unused.items():
        if value is not None:
            raise InputError(flag, value, "nothing beside --property, which brings its own sample, box and class")
    if Path(model).suffix not in models.ONNX:
        raise InputError("model", model, "the path of an .onnx file beside --property")
    chosen = [make(config | {"norm": "linf"}) for config in configurations(methods, exact)]
    folder = None if out is None else tidy(out)
    started = time.perf_counter()
    asked = read_property(question)
    found = decide(models.read_onnx(model), asked, chosen, seed=seed)
    seconds = time.perf_counter() - started
    written = _written(folder, found) if folder is not None else None
    if as_json:
        told = {
            "model": model,
            "property": str(question),
            "verdict": found.verdict,
            "method": found.method,
            "class": asked.label,
            "eps": asked.eps,
            "box": asked.box,
            "seconds": round(seconds, 3),
            "counterexample": None if written is None else str(written),
        }
        print_json(told)
        return
    what = f"class {asked.label} within {asked.eps:.4g} (linf), by {found.method}, {seconds:.1f} s"
    console.print(f"{found.verdict}: {what}", markup=False, highlight=False)
    if written is not None:
        console.print(f"counterexample: {written}", markup=False, highlight=False)


def _written(out: Path, found: Decision) -> Path | None:
    """The counterexample, if there is one, in VNN-COMP's form: every digit of its float32 numbers, and onnxruntime's outputs.

    One of an earlier verdict does not stay beside another.
    """
    if found.point is None or found.logits is None:
        (out / COUNTEREXAMPLE).unlink(missing_ok=True)
        return None
    lines = [
        f"({letter}_{i} {value!r})"
        for letter, values in (("X", found.point), ("Y", found.logits))
        for i, value in enumerate(values.tolist())
    ]
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / COUNTEREXAMPLE, "(" + "\n".join(lines) + ")\n")
    except OSError as error:
        raise InputError("out", str(out), f"a folder that can be written ({error.strerror})") from None
    return out / COUNTEREXAMPLE
