"""Flags laid over a study file or a preset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from isogrid import data as data_library
from isogrid.cli.attack_flags import chosen_attacks, parse_named, split_list
from isogrid.core.errors import InputError, one_of
from isogrid.core.files import user_path
from isogrid.study.spec import DEFAULT_ATTACKS, PRESETS, Spec, preset_data, read_yaml, rounds_of

PENALTIES_FORM = "penalties with commas, weights in brackets: l1-activations(weight=1e-5),l1-activations(weight=1e-4)"

LEVELLED = ("blackbox", "audit", "certify", "exact", "lipschitz", "cells")
"""The parts of a study that may ask for some of the levels."""


def specification(study: Path | None, preset: str | None, flags: dict[str, Any]) -> Spec:
    """The specification of `isogrid run`: a file or a preset, with the flags that were given on top."""
    if study is not None and preset is not None:
        raise InputError("preset", preset, "either a study file or a preset, not both")
    if preset is not None and preset not in PRESETS:
        raise one_of("preset", preset, PRESETS)
    base = read_yaml(study) if study is not None else preset_data(preset or "quick")
    base = dict(base)
    if study is not None:
        base.setdefault("name", study.stem)
    _lay(base, flags)
    base["data"] = _available(base.get("data", {}))
    return Spec.parse(base)


def _lay(base: dict[str, Any], flags: dict[str, Any]) -> None:
    request = None if flags["data"] is None else data_library.parse(flags["data"])
    if request is not None:
        cut = {"train": request.train, "test": request.test}
        box = "" if request.box is None else ":box={!r}..{!r}".format(*request.box)
        base["data"] = {"name": request.body + box} | {k: v for k, v in cut.items() if v is not None}
    labels = None if flags["classes"] is None else split_list("classes", flags["classes"], int, "labels as 1,7")
    if labels is None and request is not None and request.classes is not None:
        labels = list(request.classes)
    if flags["model"] is not None:
        base["models"] = [{"name": name} for name in split_list("model", flags["model"], str, "names with commas")]
    if labels is not None or flags["weights"] is not None:
        models = [{"name": m} if isinstance(m, str) else dict(m) for m in base.get("models", ["lenet-300-100"])]
        if flags["weights"] is not None and len(models) != 1:
            raise InputError("weights", flags["weights"], "exactly one --model beside it")
        for model in models:
            model |= {} if labels is None else {"classes": labels}
            model |= {} if flags["weights"] is None else {"weights": flags["weights"]}
        base["models"] = models
    if flags["penalties"] is not None:
        base["training"] = _penalised(base.get("training", {}), flags["penalties"])
    pruning = base.get("pruning", {})
    if flags["method"] is not None or flags["rounds"] is not None:
        if isinstance(pruning, list):
            raise InputError(
                "method" if flags["method"] else "rounds", flags["method"] or flags["rounds"], "no such flag: the study names several"
            )
        if flags["method"] not in (None, pruning.get("method", "progressive")):  # parameters are those of one method
            pruning = {"method": flags["method"]} | {name: value for name, value in pruning.items() if name == "rounds"}
        rounds = flags["rounds"]
        if rounds is not None:  # a list has a value for every level
            pruning = {name: part[:rounds] if isinstance(part, list) else part for name, part in pruning.items()} | {"rounds": rounds}
        base["pruning"] = pruning
        _shorten(base, rounds_of(pruning))
    if flags["seeds"] is not None:
        base["seeds"] = flags["seeds"]
    if flags["attacks"] is not None or flags["eps"] is not None:
        base["attacks"] = chosen_attacks(base.get("attacks", DEFAULT_ATTACKS), flags["attacks"], flags["eps"])
        names = {name for entry in base["attacks"] for name in (entry["name"], entry.get("label"))}
        for part in ("control", "twin"):
            control = dict(base.get(part, {}))
            if control.get("attacks") is not None:
                base[part] = control | {"attacks": [name for name in control["attacks"] if name in names] or None}
    base["device"] = choose_device(flags["device"], base.get("device", "cpu"))


def _penalised(training: Any, text: str) -> list[dict[str, Any]]:
    """The training without a penalty, then with each of those that `text` names; raises InputError where the study has several."""
    if not isinstance(training, dict):
        raise InputError("penalties", text, "no such flag: the study names several trainings")
    plain = {name: value for name, value in training.items() if name != "penalty"}
    return [plain, *(plain | {"penalty": penalty} for penalty in parse_named("penalties", text, PENALTIES_FORM))]


def _shorten(base: dict[str, Any], rounds: int) -> None:
    """Fewer rounds, by a flag or by a method that has so many levels: what is asked for beyond them goes; the control is attacked at the
    last round instead."""
    for part, name in (("control", "rounds"), ("twin", "rounds"), *((part, "levels") for part in LEVELLED)):
        settings = base.get(part)
        if isinstance(settings, list):
            base[part] = [_cut(one, name, rounds) for one in settings]
        elif settings is not None:
            base[part] = _cut(settings, name, rounds)


def _cut(settings: Any, name: str, rounds: int) -> Any:
    if not isinstance(settings, dict) or not isinstance(settings.get(name), list):
        return settings
    asked = settings[name]
    kept = [k for k in asked if not isinstance(k, int) or k <= rounds]
    beyond = name == "rounds" and len(kept) < len(asked) and rounds > 0 and rounds not in kept
    return settings | {name: [*kept, rounds] if beyond else kept}


def _available(data: Any) -> Any:
    """The first of `a|b|c` that can be had on this machine."""
    data = {"name": data} if isinstance(data, str) else data
    if not isinstance(data, dict) or "|" not in str(data.get("name", "")):
        return data
    names = str(data["name"]).split("|")
    for name in names[:-1]:
        try:
            data_library.load(name, train=data.get("train"), test=data.get("test"))
        except InputError:
            continue
        return data | {"name": name}
    return data | {"name": names[-1]}


def study_folder(out: str | None, name: str) -> Path:
    """`--out`, or runs/NAME; raises InputError for a name that would lead elsewhere."""
    if out is None and (name in (".", "..") or "/" in name or "\0" in name):
        raise InputError("name", name, "a name that can be a folder's in runs/, without a slash (or the folder with --out)")
    return tidy(f"runs/{name}" if out is None else out)


def tidy(out: str) -> Path:
    """The path that `--out` gives, without `..`, which leads nowhere before its folder is there; raises InputError where it is none.

    An empty one is none, where `Path("")` is the working folder: it comes of a shell's variable that is not set.
    """
    path = user_path(out, "out", "the path of a folder")
    if ".." not in path.parts:
        return path
    whole, here = path.resolve(), Path.cwd()
    return whole.relative_to(here) if whole.is_relative_to(here) else whole


def choose_device(flag: str, configured: str) -> str:
    """`auto` keeps what the study says; cuda must be there."""
    chosen = configured if flag == "auto" else flag
    if chosen not in ("cpu", "cuda"):
        raise one_of("device", chosen, ("auto", "cpu", "cuda"))
    if chosen == "cuda" and not torch.cuda.is_available():
        raise InputError("device", chosen, "cpu: this machine has no usable CUDA device")
    return chosen
