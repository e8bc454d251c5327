"""What an output depends on, followed through every operation of one forward pass. Not here: what is concluded from it.

Each tensor of the pass gets a bool mask: this element may depend on the input. What is marked False provably does not: a rule per kind of
operation says which elements of its result can change, and an operation without a rule changes all of its result. The model is run as it
is, on its own numbers and types.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

Rule = Callable[["Trace", Any, tuple[Any, ...], dict[str, Any]], Any]


class Trace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside `with Trace(...):` every operation on tensors is followed from `x`; afterwards ask `depends` and `applied`.

    constants: tensors that hold no input (parameters, buffers); every other tensor that comes from outside is taken to depend on the
    input. names: for some of the constants, what they are called in `applied`.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports its compiler, for more than a second, to keep it out of a pass that nobody compiles

    def __init__(self, x: Tensor, constants: Iterable[Tensor], names: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._marks: dict[int, Tensor] = {}
        self._alive: list[Tensor] = [x, *constants]  # an id belongs to one tensor for as long as that is alive
        self._known = {_storage(t) for t in self._alive}
        self._fed = {_storage(x)}
        self._names: dict[int, frozenset[str]] = {_storage(t): frozenset([name]) for name, t in names.items()}
        self._out: dict[str, tuple[int, int]] = {}
        self._marks[id(x)] = torch.ones_like(x, dtype=torch.bool)
        self.lost = False
        """Whether something could not be followed (a value that was read out by `.item()` or a condition): then nothing can be shown."""

    def depends(self, tensor: Tensor) -> Tensor:
        """bool, of the tensor's shape: this element may depend on the input."""
        if id(tensor) not in self._marks:
            value = torch.tensor(_storage(tensor) not in self._known, device=tensor.device)
            self._remember(tensor, value.expand(tensor.shape))
        return self._marks[id(tensor)]

    def applied(self, tensor: Tensor) -> frozenset[str]:
        """The names of the constants that were last multiplied with what depends on the input, on the ways to this tensor."""
        return self._names.get(_storage(tensor), frozenset())

    def out_axis(self, name: str, constant: Tensor) -> int | None:
        """The axis of this constant, called `name`, that became one of the result where it was last multiplied; None where none is known.

        Found by its place in memory, so that transposed, expanded and converted ones are known, too.
        """
        axes = list(zip(constant.shape, constant.stride(), strict=True))
        return axes.index(self._out[name]) if self._out.get(name) in axes else None

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        try:
            self._follow(func, args, kwargs, out)
        except Exception:  # a tensor without a plain place in memory, a view that marks cannot have
            self.lost = True
        return out

    def _follow(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        outs = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        reached = any(bool(self.depends(t).any()) for t in given)
        if not outs:  # a number or a truth
            self.lost |= reached
            return
        self._note_axes(func, args)
        self._name(func, given, outs)
        if func.is_view:
            marks = [m for m in tree_leaves(func(*tree_map(self._mark_or_value, args), **kwargs)) if isinstance(m, Tensor)]
            self._alive += outs
            self._marks.update((id(t), mark) for t, mark in zip(outs, marks, strict=True))
        elif reached:
            self._write(outs, self._result(func, args, kwargs, outs))
        else:
            self._write(outs, [torch.zeros(t.shape, dtype=torch.bool, device=t.device) for t in outs])

    def _write(self, outs: list[Tensor], marks: list[Tensor]) -> None:
        for tensor, mark in zip(outs, marks, strict=True):
            old = self._marks.get(id(tensor))
            if old is not None and old.stride() == tensor.stride() and old.shape == tensor.shape:
                old.copy_(mark)  # written in place: what looks at the same memory sees it, too
            else:
                self._remember(tensor, mark)

    def _remember(self, tensor: Tensor, mark: Tensor) -> None:
        """Keep a mark in the order in memory that its tensor has, so that every view of the one is a view of the other."""
        self._alive.append(tensor)
        self._marks[id(tensor)] = torch.empty_strided(tensor.shape, tensor.stride(), dtype=torch.bool, device=tensor.device).copy_(mark)

    def _result(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outs: list[Tensor]) -> list[Tensor]:
        """The marks of what an operation gave that is no view."""
        name = func.overloadpacket.__name__
        rule = RULES.get(name) or RULES.get(name.removesuffix("_")) or (_pointwise if torch.Tag.pointwise in func.tags else None)
        marks: list[Tensor] = []
        if rule is not None:
            try:
                marks = [m for m in tree_leaves(rule(self, func, args, kwargs)) if isinstance(m, Tensor)]
            except Exception:  # an unusual form of the operation
                marks = []
        if [m.shape for m in marks] != [t.shape for t in outs]:
            marks = [torch.ones(t.shape, dtype=torch.bool, device=t.device) for t in outs]
        return marks

    def _mark_or_value(self, part: Any) -> Any:
        return self.depends(part) if isinstance(part, Tensor) else part

    def _note_axes(self, func: Any, args: tuple[Any, ...]) -> None:
        name = func.overloadpacket.__name__
        for position, axis in OUT_AXES.get(name, ()):
            axis = 1 if name == "convolution" and args[6] else axis  # transposed
            for called in self._names.get(_storage(args[position]), ()):
                self._out[called] = args[position].shape[axis], args[position].stride(axis)

    def _name(self, func: Any, given: list[Tensor], outs: list[Tensor]) -> None:
        places = {_storage(t) for t in given}
        fed = {place for place in places if place in self._fed or place not in self._known}
        new: frozenset[str] = frozenset().union(*(self._names.get(place, frozenset()) for place in places - fed))
        if fed and (torch.Tag.pointwise in func.tags or not new):
            new = new.union(*(self._names.get(place, frozenset()) for place in fed))
        for tensor in outs:
            place = _storage(tensor)
            self._names[place] = (self._names.get(place, frozenset()) if place in places else frozenset()) | new
            self._known.add(place)
            if fed:
                self._fed.add(place)


def _storage(tensor: Tensor) -> int:
    place: int = tensor.untyped_storage()._cdata
    return place


def _pointwise(trace: Trace, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    marks = [trace.depends(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    found = marks[0]
    for mark in marks[1:]:
        found = found | mark
    return found if len(marks) > 1 else found.clone()


def _same(trace: Trace, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return trace.depends(args[0]).clone()


def _copied(trace: Trace, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return trace.depends(args[1]).expand(args[0].shape)


def _moved(trace: Trace, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Elements change places only; where the places depend on the input, everything does."""
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    if any(bool(trace.depends(t).any()) for t in tensors if not t.is_floating_point()):
        return None

    def mark(part: Any) -> Any:
        return trace.depends(part) if isinstance(part, Tensor) and part.is_floating_point() else part

    return func(*tree_map(mark, args), **tree_map(mark, kwargs))


def _pooled(trace: Trace, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """Sums, means and maxima over some elements: of marks (0 or 1) they are positive where one of these is."""
    found = func(trace.depends(args[0]).float(), *args[1:], **{k: v for k, v in kwargs.items() if k != "dtype"})
    first = tree_leaves(found)[0] > 0
    return [first for part in tree_leaves(found) if isinstance(part, Tensor)]


def _softmax(trace: Trace, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return trace.depends(args[0]).any(args[1], keepdim=True).expand(args[0].shape)


def _product(trace: Trace, a: Tensor, b: Tensor) -> Tensor:
    """Of a @ b: an element depends where something that depends meets what is not zero, or depends itself."""
    da, db = trace.depends(a), trace.depends(b)
    ways = torch.matmul(da.float(), ((b != 0) | db).float()) + torch.matmul(((a != 0) | da).float(), db.float())
    return ways > 0


def _matmul(trace: Trace, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return _product(trace, args[0], args[1])


def _addmm(trace: Trace, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return _product(trace, args[1], args[2]) | trace.depends(args[0])


def _convolution(trace: Trace, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    x, weight, bias, *how = args
    if any(bool(trace.depends(t).any()) for t in (weight, bias) if t is not None):
        return None
    return func(trace.depends(x).float(), (weight != 0).float(), None, *how) > 0  # type: ignore[no-any-return]


def _batch_norm(trace: Trace, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor] | None:
    if args[5] is not False or any(bool(trace.depends(t).any()) for t in args[1:5] if t is not None):
        return None  # the statistics are those of the batch
    empty = torch.zeros(0, dtype=torch.bool)
    return [trace.depends(args[0]).clone(), empty, empty]


OUT_AXES: dict[str, tuple[tuple[int, int], ...]] = {
    **dict.fromkeys(("mm", "bmm"), ((0, -2), (1, -1))),
    **dict.fromkeys(("addmm", "baddbmm"), ((1, -2), (2, -1))),
    "mv": ((0, -2),),
    "addmv": ((1, -2),),
    "convolution": ((1, 0),),
}
"""By the operation's name: of which arguments which axis becomes one of the result."""
RULES: dict[str, Rule] = {
    "mm": _matmul,
    "bmm": _matmul,
    "mv": _matmul,
    "addmm": _addmm,
    "baddbmm": _addmm,
    "addmv": _addmm,
    "convolution": _convolution,
    "native_batch_norm": _batch_norm,
    "_softmax": _softmax,
    "_log_softmax": _softmax,
    "_to_copy": _same,
    "copy_": _copied,
    **dict.fromkeys(
        ("cat", "stack", "_unsafe_view", "unsafe_split", "constant_pad_nd", "repeat", "roll", "flip", "index_select", "index", "gather"),
        _moved,
    ),
    **dict.fromkeys(
        ("sum", "mean", "max", "amax", "cumsum", "max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool2d", "avg_pool3d"), _pooled
    ),
    **dict.fromkeys(("_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "upsample_nearest1d", "upsample_nearest2d"), _pooled),
}
"""By the operation's name; what is not here is pointwise by its tag, a view, or changes all of its result."""
