"""Other people's networks and properties, with the published verdicts of a dozen verifiers: what do ours say, and does anything disagree?

    python benchmarks/vnncomp.py BENCHMARK RESULTS [--seconds 30]

BENCHMARK: a folder of VNN-COMP's benchmark repositories (instances.csv, onnx, vnnlib; .gz too), as benchmarks/mnist_fc of
vnncomp2022_benchmarks, or benchmarks/eran of vnncomp2021. RESULTS: the repository of the same year's results. Every property is attacked
and given to each method alone; a line of JSON per property goes to build/vnncomp-NAME.jsonl, where a second run goes on.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
from harness import machine, table, write_section

from isogrid.certify import CERTIFICATES, Certifier
from isogrid.certify.properties import Decision, decide, read_property
from isogrid.models import read_onnx

METHODS = ("ibp", "crown-ibp", "crown", "alpha-crown", "branch-and-bound")
WORDS = {"holds": "unsat", "violated": "sat"}
"""Ours and 2021's words for the competition's."""


def plain(path: Path, folder: Path) -> Path:
    """The file, unpacked into `folder` where only its .gz is there."""
    if path.exists():
        return path
    unpacked = folder / path.name
    if not unpacked.exists():
        unpacked.write_bytes(gzip.decompress(path.with_name(path.name + ".gz").read_bytes()))
    return unpacked


def published(results: Path, name: str) -> dict[tuple[str, str], dict[str, str]]:
    """(network, property) -> {verifier: sat or unsat}: 2021 has a file per verifier, later years a folder with one per benchmark."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    files = {path: path.parent.parent.name for path in results.glob(f"*/{name}/results.csv")}
    files |= {path: path.stem for path in results.glob("results_csv/*.csv")}
    for path, verifier in sorted(files.items()):
        for row in csv.reader(path.read_text(encoding="utf-8").splitlines()):
            said = WORDS.get(row[4], row[4].lower()) if len(row) > 4 and row[0] == name else ""
            if said in WORDS.values():
                found.setdefault((Path(row[1]).name, Path(row[2]).name), {})[verifier] = said
    return found


def methods(seconds: float) -> dict[str, Certifier]:
    """The methods, each to be asked alone."""
    limits = {"branch-and-bound": {"seconds": seconds}}
    return {name: CERTIFICATES.make({"name": name, "norm": "linf"} | limits.get(name, {})) for name in METHODS}


def asked(network_path: Path, property_path: Path, seconds: float) -> dict[str, object]:
    """What each method alone says, after the attacks; one that is weaker than one that failed is asked all the same."""
    network, question = read_onnx(network_path), read_property(property_path)
    row: dict[str, object] = {}
    for name, method in methods(seconds).items():
        started = time.perf_counter()
        found: Decision = decide(network, question, [method])
        row[name] = [found.verdict, found.method, round(time.perf_counter() - started, 3)]
        if found.verdict == "violated":
            return row | dict.fromkeys(METHODS, row[name])
    return row


def main() -> None:
    """Ask, compare, write the section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--seconds", type=float, default=30.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    known = published(options.results, options.benchmark.name)
    listed = next(options.benchmark.glob("*instances.csv")).read_text(encoding="utf-8")
    instances = [row[:2] for row in csv.reader(listed.splitlines()) if row]
    kept = Path("build") / f"vnncomp-{options.benchmark.name}.jsonl"
    kept.parent.mkdir(exist_ok=True)
    done = {tuple(row["of"]): row for row in map(json.loads, kept.read_text().splitlines())} if kept.exists() else {}
    with tempfile.TemporaryDirectory() as folder, kept.open("a") as log:
        for network, question in instances:
            key = Path(network).name, Path(question).name
            if key not in done:
                paths = [plain(options.benchmark / part, Path(folder)) for part in (network, question)]
                done[key] = {"of": key} | asked(*paths, options.seconds)
                log.write(json.dumps(done[key]) + "\n")
                log.flush()
                print(key, {name: done[key][name] for name in METHODS}, known.get(key))
    write_section(f"VNN-COMP: {options.benchmark.name}", body(done, known, options.seconds))


def body(done: dict[tuple[str, ...], dict[str, list[object]]], known: dict[tuple[str, str], dict[str, str]], seconds: float) -> str:
    """A row per network and in all; then who disagrees with whom."""
    lines = []
    for network in [*sorted({key[0] for key in done}), "all"]:
        rows = {key: row for key, row in done.items() if network in (key[0], "all")}
        says = [set(known.get(key, {}).values()) for key in rows]
        broken = sum(row["crown"][0] == "violated" for row in rows.values())
        holds = [sum(row[name][0] == "holds" for row in rows.values()) for name in METHODS]
        undecided = sum(row["branch-and-bound"][0] == "unknown" for row in rows.values())
        counts = [len(rows), sum("unsat" in s for s in says), sum("sat" in s for s in says), *holds, broken, undecided]
        lines.append([network, *map(str, counts)])
    header = ["network", "properties", "holds, published", "violated, published", *METHODS, "violated", "undecided"]
    against: Counter[str] = Counter()
    wrong = alone = 0
    for key, row in done.items():
        ours = {WORDS[row[name][0]] for name in METHODS if row[name][0] in WORDS}
        for verifier, theirs in known.get(key, {}).items():
            against[verifier] += bool(ours) and theirs not in ours
        against["ourselves"] += len(ours) > 1
        votes = Counter(known.get(key, {}).values())
        if "unsat" in ours and votes["sat"]:
            wrong += 1
            alone += votes["unsat"] <= votes["sat"]
    contradicted = ", ".join(f"{name} ({count})" for name, count in sorted(against.items()) if count) or "none"
    times = sorted(float(row["branch-and-bound"][2]) for row in done.values() if row["branch-and-bound"][0] == "holds")
    about = (
        "Properties as published (ONNX, VNN-LIB), in their boxes; every method alone, after the attacks; counterexamples lie between the "
        "bounds without slack and are violated in torch's and in onnxruntime's float32. "
        f"Branch and bound: {seconds:g} s of CPU time a property at most; those that hold take {times[len(times) // 2]:.2g} s in the "
        f"median and up to {times[-1]:.3g} s, attacks included. {machine('one thread')}."
    )
    told = (
        f"Proved by us where a verifier says violated: {wrong}; where no more of them say that it holds: {alone}. "
        f"Published verdicts that ours contradict: {contradicted}."
    )
    return f"{about}\n\n{table(header, lines)}\n\n{told}\n"


if __name__ == "__main__":
    main()
