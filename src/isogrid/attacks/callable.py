"""Anybody's attack under our driver: a callable (model, x, y) -> x_adv. What does not belong here: adapters for single libraries."""

from __future__ import annotations

import contextlib
import copy
import inspect
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, final

import numpy as np
import torch
from torch import Tensor, nn

from isogrid.attacks.driver.base import Model, Problem, Role, frozen
from isogrid.attacks.driver.kinds import EitherKind
from isogrid.attacks.driver.parameters import choice
from isogrid.core.errors import InputError
from isogrid.core.norms import NORMS
from isogrid.core.process import settings_kept
from isogrid.core.random import derive
from isogrid.core.sources import of_file
from isogrid.core.targets import load_target, source_digest

Function = Callable[..., Any]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Wrapped(EitherKind):
    r"""Any callable (model, x, y) -> x_adv as an attack: its candidates are clipped, re-evaluated and measured like all others.

    Give a `function`, or its `target` "file.py:name" / "package.module:name", which can be written in a study's YAML. `norm` and `eps`
    (None: minimum-norm) state the threat model that its candidates are judged in; a function with a parameter `eps` receives it, and
    is called once for each of the budgets where they differ from row to row.
    `model` is an nn.Module in eval mode with frozen parameters, x [B, *S] float in the box, y [B] int64; x_adv is a tensor or an array
    of x's shape, in which a row that is not finite, or too far from x, is a failure. The global generators of torch, numpy
    (`np.random.seed`'s) and `random` are seeded from (seed, sample ids), so a function that draws from them repeats in equal batches;
    they are restored after. Pitfall: a generator that the function makes itself, such as `np.random.default_rng()`, is not. The function is
    handed a copy of the model, so that nothing it does to it (hooks, layers, types) reaches the model that judges.
    `digest` is that of the file that the target names, or that defines the function, filled in; given and different, the file has changed.

    Raises InputError where the target cannot be loaded, or the function raises or returns something of another shape.
    Pitfall: queries cannot be told apart by row: each row is charged the mean, rounded up; zero gradients inside are
    not seen (`zero_gradient` stays False). A peer's own success flag is ignored.

    >>> attack = Wrapped(function=lambda model, x, y: x + 0.2 * torch.tensor([[-1.0, 1.0]]), norm="linf", eps=0.2)
    >>> model = torch.nn.Linear(2, 2)
    >>> _ = model.weight.data.copy_(torch.eye(2)), model.bias.data.zero_()
    >>> attack(model, torch.tensor([[0.6, 0.4]]), torch.tensor([0])).success.item()
    True
    """

    name: ClassVar[str] = "callable"
    role: ClassVar[Role] = "weak"  # nobody knows what it does
    strength: ClassVar[Mapping[str, int]] = {}
    state_copies: ClassVar[int] = 16

    target: str = ""
    function: Function | None = None
    norm: Literal["l2", "linf"] = choice("l2", NORMS)
    label: str = ""
    digest: str = ""

    def agree(self) -> None:
        if (self.function is None) == (not self.target):
            raise InputError("attack callable", self.target or "neither or both", "one of `target` and `function`")
        function = self._function()  # refuses a target that is none
        current = source_digest(self.target) if self.target else _source_digest(function)
        if self.digest and self.digest != current:
            raise InputError("digest", self.digest, f"{current}, that of {self.target or 'the function'} as it is now")
        object.__setattr__(self, "digest", current)

    def expected_gradients(self) -> float:
        return 1.0  # nobody knows

    def search(self, problem: Problem) -> Tensor:
        function = self._function()
        if problem.budget is None or not _takes_eps(function):
            return self._ask(function, problem)
        x_adv = problem.x.clone()
        for eps in sorted(set(problem.budget[problem.budget > 0].tolist())):  # a function takes one eps: equal ones share a call
            rows = torch.nonzero(problem.budget == eps).squeeze(1)
            x_adv[rows] = self._ask(function, problem.take(rows), eps=eps)
        return x_adv

    def _ask(self, function: Function, problem: Problem, **settings: float) -> Tensor:
        """What the function makes of all rows at once."""
        label = self.label or self.target or self.name
        counted = _Counted(_copied(problem.model), problem.x).eval()
        seed = derive(problem.streams.seed, self.name, *problem.streams.ids.tolist())
        with _untouched(_Counted(problem.model, problem.x)), _seeded(seed, problem.x.device), torch.enable_grad():
            try:
                result = function(counted, problem.x.clone(), problem.y.clone(), **settings)
            except Exception as error:  # whatever somebody else's code raises ends in one line
                if error is counted.raised:
                    raise
                raise InputError(f"attack {label}", f"{type(error).__name__}: {error}", "a function that returns x_adv") from error
        x_adv = _as_tensor(result)
        if x_adv is None or x_adv.shape != problem.x.shape:
            got = f"{result.dtype} of shape {tuple(result.shape)}" if isinstance(result, Tensor | np.ndarray) else type(result).__name__
            raise InputError(f"attack {label}", got, f"one tensor x_adv of shape {tuple(problem.x.shape)}")
        problem.charge(forwards=-(-counted.forwards // problem.n), backwards=-(-counted.backwards // problem.n))
        return x_adv.detach().to(problem.x)

    def _function(self) -> Function:
        if self.function is not None:
            return self.function
        loaded = load_target("target", self.target)
        if not callable(loaded):
            raise InputError("target", self.target, "the name of a function (model, x, y) -> x_adv")
        function: Function = loaded
        return function


class _Counted(nn.Module):
    """The model as a peer sees it: a module that counts the rows of its forward and backward passes."""

    def __init__(self, model: Model, like: Tensor) -> None:
        super().__init__()
        self.model = model
        self.kind = like.shape[1:], like.dtype, like.device
        self.forwards = self.backwards = 0
        self.raised: Exception | None = None  # by the model itself, on samples of its kind: that is not the peer's doing

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        try:
            z: Tensor = self.model(x)
        except Exception as error:
            self.raised = error if isinstance(x, Tensor) and (x.shape[1:], x.dtype, x.device) == self.kind else None
            raise
        if z.requires_grad:
            z.register_hook(self._note)  # type: ignore[no-untyped-call]
        return z

    def _note(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


def _as_tensor(result: object) -> Tensor | None:
    """A tensor or array, of whatever layout, as a tensor of real numbers; None for anything else."""
    if isinstance(result, np.ndarray):
        try:
            result = torch.from_numpy(np.array(result, order="C"))  # a copy: no negative strides, nothing read-only
        except TypeError:  # no numbers
            return None
    return result if isinstance(result, Tensor) and not result.is_complex() else None


def _copied(model: Model) -> Model:
    """The model made anew, so that nothing a peer does to it reaches the one that judges; itself where it cannot be copied."""
    try:
        return copy.deepcopy(model)
    except Exception:  # a user's module may hold what cannot be copied, and says so in any way it likes
        return model


@contextlib.contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Modes, flags, gradients and the values of parameters and buffers are as before after: for a model that could not be copied, or that
    a peer knows from elsewhere."""
    tensors = [*model.parameters(), *model.buffers()]
    before = [(tensor, tensor.detach().clone(), tensor.grad) for tensor in tensors]
    try:
        with frozen(model):
            yield
    finally:
        with torch.no_grad():
            for tensor, value, gradient in before:
                if not torch.equal(tensor, value):
                    tensor.copy_(value)
                tensor.grad = gradient


@contextlib.contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """The global random states of torch, numpy and Python seeded inside, since foreign code draws from them; restored after, and with them
    whatever it sets for the whole process."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    with settings_kept(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)


def _takes_eps(function: Function) -> bool:
    try:
        return "eps" in inspect.signature(function).parameters
    except (TypeError, ValueError):  # a built-in without a signature
        return False


def _source_digest(function: Function) -> str:
    """The digest of the file that defines `function` and of what it imports of the user's own; "" where there is no file."""
    try:
        path = inspect.getsourcefile(inspect.unwrap(function))
    except TypeError:  # an instance or a built-in
        path = None
    source = None if path is None else of_file(Path(path))
    return "" if source is None else source.digest()


__all__ = ["Wrapped"]
