"""`isogrid`: its commands, and the one place where errors become a line and an exit code."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

import isogrid
from isogrid.cli.output import print_json, reserved
from isogrid.core.errors import IsogridError, StorageError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Prune a classifier level by level, attack every level, and say where it is most robust and where it turns fragile.",
)
UsageError: type[Exception] = typer.BadParameter.__mro__[2]
"""click's ClickException; newer versions of typer carry click inside, under a name that is not public."""
INTERRUPTED = 130
out_console = Console()
err_console = Console(stderr=True)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; every expected error is ONE line on stderr and exit code 2."""
    command = typer.main.get_command(app)
    try:
        code = command.main(args=arguments, prog_name="isogrid", standalone_mode=False)
        sys.stdout.flush()
    except UsageError as error:
        _fail(f"{error.format_message()} (see `isogrid --help`)")  # type: ignore[attr-defined]
    except IsogridError as error:
        _fail(str(error))
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except BrokenPipeError:
        _close_output()
        sys.exit(0)
    except OSError as error:
        _close_output()
        _fail(str(StorageError(error)))
    except MemoryError:
        _fail("memory: there is too little of it; fewer --workers or fewer samples need less")
    if code == INTERRUPTED:  # typer, too, makes this code of Ctrl-C
        goes_on = "; the same command continues where this one stopped" if (arguments or sys.argv[1:])[:1] == ["run"] else ""
        print(f"interrupted{goes_on}", file=sys.stderr)
        _abandon()
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str) -> None:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    _abandon()
    sys.exit(2)


def _abandon() -> None:
    """Nothing will be run any more: the server that workers are forked from would hold this process's output open."""
    if engine := sys.modules.get("isogrid.engines.local"):
        engine.abandon()


def _close_output() -> None:
    """What is left in the buffer of an output that cannot be written would be tried again at exit, and reported with a traceback."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        return
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _version(value: bool) -> None:
    if value:
        print(isogrid.__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")] = False,
) -> None:
    """Options of every command."""


def _count(given: str | int) -> int:
    """A whole number as people write it: 100, 1e2."""
    try:
        return int(given)
    except ValueError:
        pass
    try:
        if (number := float(given)).is_integer():
            return int(number)
    except ValueError:
        pass
    raise typer.BadParameter(f"{given!r} is not a whole number")


COUNT: dict[str, Any] = {"parser": _count, "metavar": "INTEGER"}
ATTACKS_HELP = "Attacks with commas, parameters in brackets (`isogrid list`)."
PENALTIES_HELP = "Penalties with commas; every network is trained without one and with each of them."
EPS_HELP = "Budgets, as 0.05,0.1, of the attacks that have one by default."


@app.command()
def run(
    study: Annotated[Path | None, typer.Argument(help="A study in YAML; without it a preset runs.", metavar="[STUDY.yaml]")] = None,
    preset: Annotated[str | None, typer.Option(help="quick (the default) or paper-mnist.")] = None,
    data: Annotated[
        str | None, typer.Option(help="mnist-5k, digits, fashion-mnist, a .npz, a folder; `NAME:train=1000,test=200` cuts it.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="One or more, with commas: linear, lenet-300-100, lenet-5, file.py:factory.")] = None,
    classes: Annotated[str | None, typer.Option(help="Only these labels, as 1,7 (two: a binary model).")] = None,
    weights: Annotated[str | None, typer.Option(help="Your trained network (.safetensors) instead of dense training.")] = None,
    method: Annotated[str | None, typer.Option(help="The pruning method (`isogrid list`), or file.py:Class.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Pruning rounds.", **COUNT)] = None,
    penalties: Annotated[str | None, typer.Option(help=PENALTIES_HELP)] = None,
    seeds: Annotated[int | None, typer.Option(help="Independent trainings.", **COUNT)] = None,
    attacks: Annotated[str | None, typer.Option(help=ATTACKS_HELP)] = None,
    eps: Annotated[str | None, typer.Option(help=EPS_HELP)] = None,
    engine: Annotated[str, typer.Option(help="Where tasks run: local, worker processes on this machine.")] = "local",
    workers: Annotated[int | None, typer.Option(help="Worker processes (default: one per core).", **COUNT)] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    out: Annotated[str | None, typer.Option(help="The study's folder (default: runs/NAME).", metavar="PATH")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan with its expected time and disk, and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Train, prune level by level, attack every level, judge the claims, draw the report.

    The same command again continues where the last one stopped. Example:

        isogrid run --model lenet-300-100 --attacks "fgs,pgd(norm=l2,steps=100)" --eps 0.1 --seeds 3 --out runs/mine

    Sparsity of weights and of activations together, in one study, which judges claim 4 and draws a heat map:

        isogrid run --model lenet-300-100 --data mnist-5k --penalties "l1-activations(weight=1e-5),l1-activations(weight=1e-4)"
    """
    from isogrid.engines import local

    if not dry_run:  # workers' libraries and this process's own load side by side
        local.warm_up(["isogrid.study.run"])
    from isogrid.cli.flags import specification, study_folder
    from isogrid.cli.running import carry_out

    flags = {
        "data": data,
        "model": model,
        "classes": classes,
        "weights": weights,
        "method": method,
        "rounds": rounds,
        "penalties": penalties,
        "seeds": seeds,
        "attacks": attacks,
        "eps": eps,
        "device": device,
    }
    with reserved(as_json):
        spec = specification(study, preset, flags)
        carry_out(spec, study_folder(out, spec.name), engine=engine, workers=workers, dry_run=dry_run, as_json=as_json, console=err_console)


@app.command()
def report(
    folders: Annotated[list[str], typer.Argument(help="One study folder to rebuild, or several to compare.", metavar="DIR...")],
    out: Annotated[str | None, typer.Option(help="Where the comparison goes (default: comparison.html).", metavar="PATH")] = None,
) -> None:
    """Rebuild the tables and the report of a study, or compare several.

    Example:

        isogrid report runs/quick
    """
    from isogrid.cli.running import rebuild

    rebuild(folders, out, err_console)


@app.command(name="list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False) -> None:
    """Data, models, methods, attacks and presets, one line each.

    Example:

        isogrid list --json
    """
    from isogrid.cli.listing import catalogue

    found = catalogue()
    if as_json:
        print_json(found)
        return
    width = max(len(name) for entries in found.values() for name in entries)
    for kind, entries in found.items():
        table = Table.grid(Column(min_width=width, no_wrap=True), Column(), padding=(0, 2))
        for name, line in entries.items():
            table.add_row(Text(name), Text(line))
        out_console.print(Text(kind, style="bold"), Padding(table, (0, 0, 0, 2), expand=False))


@app.command()
def attack(
    model: Annotated[str, typer.Option(help="linear, lenet-300-100, lenet-5, file.py:factory, a .pt2 program, TorchScript, .onnx.")],
    data: Annotated[str, typer.Option(help="mnist-5k, digits, a .npz, a folder ...")] = "mnist-5k",
    weights: Annotated[str | None, typer.Option(help="The network's weights (.safetensors).")] = None,
    classes: Annotated[str | None, typer.Option(help="Only these labels, as 1,7.")] = None,
    attacks: Annotated[str, typer.Option(help=ATTACKS_HELP)] = "fgs,pgd,deepfool",
    eps: Annotated[str | None, typer.Option(help=EPS_HELP)] = None,
    samples: Annotated[int | None, typer.Option(help="How many test samples (default: all).", **COUNT)] = None,
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.", **COUNT)] = 0,
    audit: Annotated[bool, typer.Option(help="Probe whether the figures can be believed (on up to 100 samples).")] = True,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    out: Annotated[str | None, typer.Option(help="Folder for the per-sample records (Parquet).", metavar="PATH")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
) -> None:
    """The robustness table of one trained model, without pruning.

    Example:

        isogrid attack --model lenet-300-100 --weights net.safetensors --attacks "pgd(norm=l2,steps=100),deepfool" --eps 0.5
    """
    from isogrid.cli.attacking import attack_model

    with reserved(as_json):
        attack_model(
            model=model, data=data, weights=weights, classes=classes, attacks_text=attacks, eps=eps, samples=samples, seed=seed,
            audit=audit, device=device, out=out, as_json=as_json, console=out_console, progress_console=err_console,
        )  # fmt: skip


@app.command()
def certify(
    model: Annotated[str, typer.Option(help="linear, lenet-300-100, lenet-5, file.py:factory, a .pt2 program, TorchScript, .onnx.")],
    data: Annotated[str | None, typer.Option(help="mnist-5k (the default), digits, a .npz, a folder ...")] = None,
    weights: Annotated[str | None, typer.Option(help="The network's weights (.safetensors).")] = None,
    classes: Annotated[str | None, typer.Option(help="Only these labels, as 1,7.")] = None,
    norm: Annotated[str | None, typer.Option(help="linf, l2, or both with a comma (the default).")] = None,
    methods: Annotated[str, typer.Option(help="Certificates with commas, of which the best counts (`isogrid list`).")] = "crown",
    eps: Annotated[float | None, typer.Option(help="Only decide at this size of perturbation; without it, radii.")] = None,
    exact: Annotated[
        float | None, typer.Option(help="Search what is still open completely, for so many seconds a sample.", metavar="SECONDS")
    ] = None,
    samples: Annotated[int | None, typer.Option(help="How many test samples (default: 100).", **COUNT)] = None,
    question: Annotated[
        Path | None, typer.Option("--property", help="Decide this VNN-LIB property of an .onnx model instead.", metavar="FILE.vnnlib")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the attacks' random numbers.", **COUNT)] = 0,
    out: Annotated[str | None, typer.Option(help="Folder for the per-sample ends (Parquet) or the counterexample.", metavar="PATH")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
) -> None:
    """What can be proved of one trained model: certified radii beside attacked ones, or verdicts at one eps.

    Example:

        isogrid certify --model lenet-300-100 --weights net.safetensors --norm linf --eps 0.1 --exact 5

    A VNN-LIB property of an ONNX file holds, is violated, or stays unknown:

        isogrid certify --model net.onnx --property prop.vnnlib --exact 60
    """
    if question is not None:
        from isogrid.cli.deciding import decide_property

        unused = {"data": data, "weights": weights, "classes": classes, "norm": norm, "eps": eps, "samples": samples}
        decide_property(
            model=model, question=question, unused=unused, methods=methods, exact=exact, seed=seed, out=out, as_json=as_json,
            console=out_console,
        )  # fmt: skip
        return
    from isogrid.cli.certifying import certify_model

    with reserved(as_json):
        certify_model(
            model=model, data=data or "mnist-5k", weights=weights, classes=classes, norms=norm or "linf,l2", methods=methods, eps=eps,
            exact=exact, samples=100 if samples is None else samples, seed=seed, out=out, as_json=as_json, console=out_console,
            progress_console=err_console,
        )  # fmt: skip
