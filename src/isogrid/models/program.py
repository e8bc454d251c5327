"""Exported programs as models to attack: torch.export (.pt2) and TorchScript. What does not belong here: training or pruning them."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self, final

import torch
from torch import Tensor, nn
from torch.jit import optimized_execution  # type: ignore[attr-defined]

from isogrid.core.errors import InputError, IsogridError, ModelError
from isogrid.core.files import exists, user_path

EXPORTED = (".pt2",)
SCRIPTED = (".ts", ".torchscript", ".pt", ".pth")
SUFFIXES = EXPORTED + SCRIPTED
"""Suffixes of a model's name that mean a program, not a factory."""

_MODES = ("train", "training")
"""What the arguments of dropout and batch statistics are called in operators."""
_FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


@final
class Program(nn.Module):
    """A program as a module: parameters frozen and out of sight, batches cut to the sizes that it takes.

    `rows` = (least, most) rows per call, most None for any number: a shorter batch is filled up with copies of its last row, a longer one
    cut; gradients flow through both. `activation_elements`: values that one row's forward pass keeps for its backward pass (for
    the driver's batch rule, which cannot look into a program).
    """

    def __init__(self, inner: nn.Module, rows: tuple[int, int | None] = (1, None)) -> None:
        super().__init__()
        self._inner = (inner,)  # in a tuple, so that it is no submodule: eval(), hooks and flags do not work on programs
        self.least, self.most = rows
        self.activation_elements = 0
        for parameter in inner.parameters():
            parameter.requires_grad_(False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._inner[0]._apply(fn)  # type: ignore[no-untyped-call]
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call, no-any-return]

    def forward(self, x: Tensor) -> Any:
        """x [B, *S] -> what the program returns for B rows (logits, if it is a classifier)."""
        if self.most is None or len(x) <= self.most:
            return self._call(x)
        return torch.cat([self._call(part) for part in torch.split(x, self.most)])

    def _call(self, x: Tensor) -> Any:
        short = self.least - len(x)
        if short > 0:
            x = torch.cat([x, x[-1:].expand(short, *x.shape[1:])])
        # without TorchScript's optimiser: the first runs of a shape would differ in bits from later ones
        with optimized_execution(False):
            z = self._inner[0](x)
        return z[: len(x) - short] if short > 0 and isinstance(z, Tensor) else z


def open_program(path: Path, x: Tensor) -> Program:
    """Load a torch.export program or TorchScript and check on samples `x` [N, *S] that it gives input gradients.

    A program exported with a fixed batch size is called with full batches of that size. Raises InputError where the file is none, and
    ModelError where it was exported in training mode, draws random numbers, raises, or gives no gradient. Pitfalls: a program is
    code; take it only from people you trust (pickled objects in it are refused all the same). Tensors made inside an
    exported graph stay on the device of the export.
    """
    path = user_path(path, "model")
    if not exists(path):
        raise InputError("model", str(path), "the path of an existing torch.export program (.pt2) or TorchScript file")
    program = (_exported if path.suffix in EXPORTED else _scripted)(path)
    _probe(program, x[:2], path)
    return program


def _exported(path: Path) -> Program:
    try:
        with _quiet(), _tensors_only():
            if not zipfile.is_zipfile(path):
                raise ValueError("no zip archive")
            loaded = torch.export.load(path)
            inner, rows = loaded.module(), _batch_limits(loaded, path)
            _refuse_training_mode(loaded, path)
    except IsogridError:
        raise
    except Exception as error:  # a file of any other kind may raise anything
        raise InputError("model", str(path), f"a program written by torch.export.save that this torch reads ({_line(error)})") from None
    return Program(inner, rows)


def _scripted(path: Path) -> Program:
    try:
        with _quiet():
            inner = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
            with contextlib.suppress(RuntimeError):  # a frozen program has no mode, and is in eval mode for good
                inner.eval()
            _refuse_training_script(inner, path)
    except IsogridError:
        raise
    except Exception as error:
        accepted = f"TorchScript written by torch.jit.save (a state_dict goes to weights, beside a factory) ({_line(error)})"
        raise InputError("model", str(path), accepted) from None
    return Program(inner)


def _batch_limits(loaded: Any, path: Path) -> tuple[int, int | None]:
    """(least, most) rows per call, from the first dimension of the program's only input."""
    names = loaded.graph_signature.user_inputs
    values = [node.meta["val"] for node in loaded.graph.nodes if node.op == "placeholder" and node.name in names]
    if len(values) != 1 or not isinstance(values[0], Tensor) or values[0].dim() < 2:
        raise InputError("model", f"{path}, a program of {len(names)} inputs", "a program of one input [B, ...]")
    size = values[0].shape[0]
    if isinstance(size, int):
        return size, size
    limits = loaded.range_constraints.get(size.node.expr)
    if limits is None:
        return 1, None
    most = int(limits.upper) if limits.upper.is_Integer else None
    return max(1, int(limits.lower)), most


def _refuse_training_mode(loaded: Any, path: Path) -> None:
    """Dropout or batch statistics in the graph would make every figure depend on chance and on batch neighbours."""
    for node in loaded.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        for place, argument in enumerate(schema.arguments if schema is not None else ()):
            if argument.name in _MODES and (node.args[place] if place < len(node.args) else node.kwargs.get(argument.name)) is True:
                raise _in_training_mode(path, str(node.target), "torch.export.export(model.eval(), ...)")


def _refuse_training_script(inner: Any, path: Path) -> None:
    """The same for TorchScript: what a trace has fixed, `eval()` does not undo."""
    for node in _nodes(inner.inlined_graph):
        if node.schema().startswith("aten::"):
            names = [argument.name for argument in torch._C.parse_schema(node.schema()).arguments]
            if any(name in _MODES and value.toIValue() is True for name, value in zip(names, node.inputs(), strict=False)):
                raise _in_training_mode(path, node.kind(), "torch.jit.trace(model.eval(), ...)")


def _nodes(graph: Any) -> Iterator[Any]:
    """All nodes of a TorchScript graph, those of its branches and loops included."""
    for node in graph.nodes():
        yield node
        for block in node.blocks():
            yield from _nodes(block)


def _in_training_mode(path: Path, operation: str, accepted: str) -> ModelError:
    return ModelError(f"model: {path} was exported in training mode ({operation}); accepted: {accepted}")


def _probe(program: Program, x: Tensor, path: Path) -> None:
    """One forward and backward pass: there is a gradient, and how much a row keeps for it."""
    own = {t.data_ptr() for t in (*program._inner[0].parameters(), *program._inner[0].buffers())}
    kept = 0

    def note(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += 0 if tensor.data_ptr() in own else tensor.numel()
        return tensor

    leaf = x.detach().clone().requires_grad_()
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            first, second = program(x), program(x)
        with torch.random.fork_rng(devices=[]), torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            z = program(leaf)
    except Exception as error:
        raise ModelError(f"model: {path} raised {type(error).__name__} on samples of shape {tuple(x.shape)}: {_line(error)}") from None
    if not isinstance(z, Tensor) or not z.is_floating_point():
        raise ModelError(f"model: {path} gave a {type(z).__name__}; accepted: one tensor of logits [B, classes]")
    if not torch.equal(first.nan_to_num(), second.nan_to_num()):
        raise ModelError(
            f"model: {path} gives other logits each time for the same samples; accepted: a program that draws no random numbers"
        )
    if not z.requires_grad:
        raise ModelError(f"model: {path} gives no gradient with respect to its input; accepted: a program exported without torch.no_grad()")
    (gradient,) = torch.autograd.grad(z.sum(), leaf, allow_unused=True)
    if gradient is None:
        raise ModelError(f"model: the output of {path} does not depend on its input; accepted: a classifier of its input")
    program.activation_elements = -(-kept // max(len(x), program.least))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Torch logs whole tracebacks, and warns that TorchScript is old; the caller says in one line what went wrong."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def _tensors_only() -> Iterator[None]:
    """Torch reads some parts of a program with a full unpickler unless this variable is set."""
    before = os.environ.get(_FORCE)
    os.environ[_FORCE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_FORCE]
        else:
            os.environ[_FORCE] = before


def _line(error: BaseException) -> str:
    return (str(error).strip().split("\n")[0] or type(error).__name__)[:160]
