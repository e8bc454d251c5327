"""Which of a model's parameters are weights that can be pruned, and what they are called. Not here: which of them are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple, cast

from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils.parametrizations import _SpectralNorm, _WeightNorm
from torch.nn.utils.weight_norm import WeightNorm

from isogrid.core.errors import InputError, ModelError, one_of

LAYERS = (
    nn.Linear,
    nn.Bilinear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.RNNBase,
    nn.RNNCellBase,
    nn.MultiheadAttention,
)
"""The layers whose weights sparsity is counted over. Embeddings are not: a row of theirs is one input's value, and no product with it."""


class Weight(NamedTuple):
    """A prunable parameter and the place where a layer uses it: `getattr(module, attribute)` is the weight that multiplies.

    norm_axis: each slice along this axis is divided by its own norm, so that one without a weight is 0 / 0; None without weight_norm.
    """

    parameter: nn.Parameter
    module: nn.Module
    attribute: str
    norm_axis: int | None = None


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside DataParallel, DistributedDataParallel and torch.compile; raises InputError for what is none."""
    if not isinstance(model, nn.Module):
        raise InputError("model", f"a {type(model).__name__}", "a torch.nn.Module")
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = cast(nn.Module, model.module)
        elif "_orig_mod" in model._modules:
            model = cast(nn.Module, model._modules["_orig_mod"])
        else:
            return model


def plain_name(name: str) -> str:
    """A parameter's name without what torch.compile puts before those of a compiled layer.

    >>> plain_name("body._orig_mod.fc.weight")
    'body.fc.weight'
    """
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def named_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Every parameter by the name that it has in the model inside all wrappers (DataParallel, torch.compile)."""
    return {plain_name(name): parameter for name, parameter in unwrapped(model).named_parameters()}


def layer_weights(model: nn.Module) -> dict[str, Weight]:
    """The weights of layers, in module order, shared ones once.

    Raises ModelError, naming the layer, where a lazy one has no weights yet, and where one is parametrised so that a zero of
    the parameter is no zero of the weight.
    """
    found: dict[str, Weight] = {}
    seen: set[int] = set()
    for place, module in unwrapped(model).named_modules():
        if not isinstance(module, LAYERS):
            continue
        place = plain_name(place)
        if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params():
            raise ModelError(
                f"model: {place or 'it'} is a lazy {type(module).__name__} without weights yet; pass a sample through it first"
            )
        for name, weight in _own_weights(place, module):
            if id(weight.parameter) not in seen:
                seen.add(id(weight.parameter))
                found[f"{place}.{name}" if place else name] = weight
    return found


def _own_weights(place: str, module: nn.Module) -> Iterator[tuple[str, Weight]]:
    """The weights of one layer by their parameter's name in it."""
    old_style = {hook.name: hook.dim for hook in module._forward_pre_hooks.values() if isinstance(hook, WeightNorm)}
    for name, parameter in module._parameters.items():
        stem = name.removesuffix("_orig").removesuffix("_v")
        attribute = stem if hasattr(module, stem) else name
        if parameter is not None and "weight" in name and name.removesuffix("_g") not in old_style:
            yield name, Weight(parameter, module, attribute, _axis(old_style.get(attribute)))
    for attribute, chain in getattr(module, "parametrizations", {}).items():
        if "weight" not in attribute:
            continue
        kind = chain[0]
        if len(chain) > 1 or not isinstance(kind, _WeightNorm | _SpectralNorm):
            title = ", ".join(type(part).__name__ for part in chain)
            accepted = "weight_norm, spectral_norm, or none (torch.nn.utils.parametrize.remove_parametrizations)"
            raise ModelError(f"model: the {attribute} of {place or 'the model'} has the parametrization {title}; accepted: {accepted}")
        name = "original1" if isinstance(kind, _WeightNorm) else "original"
        axis = _axis(kind.dim) if isinstance(kind, _WeightNorm) else None
        yield f"parametrizations.{attribute}.{name}", Weight(cast(nn.Parameter, getattr(chain, name)), module, attribute, axis)


def _axis(dim: int | None) -> int | None:
    return None if dim is None or dim < 0 else dim


def prunable(model: nn.Module, *, include: Iterable[str] = (), exclude: Iterable[str] = ()) -> dict[str, nn.Parameter]:
    """The weights that sparsity is counted over, in the model's order, shared ones once.

    Those of linear, (transposed) convolutional, recurrent and attention layers. Biases, normalisation parameters, embeddings and parameters
    that the model holds itself are left out, unless a pattern of `include` matches their name; what matches one of `exclude` is left out.

    Raises InputError where a pattern matches no parameter, and ModelError, naming the layer, where one cannot be pruned.

    >>> net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    >>> list(prunable(net)), list(prunable(net, exclude=["2.*"], include=["1.weight"]))
    (['0.weight', '2.weight'], ['0.weight', '1.weight'])
    """
    every, layers = named_weights(model), layer_weights(model)
    for field, patterns in (("include", include), ("exclude", exclude)):
        if isinstance(patterns, str) or not isinstance(patterns, Iterable):
            raise InputError(field, patterns, "a list of patterns, each of which matches whole names: ['*.bias']")
    include, exclude = tuple(include), tuple(exclude)
    for field, patterns in (("include", include), ("exclude", exclude)):
        for pattern in patterns:
            if not isinstance(pattern, str):
                raise InputError(field, pattern, "a list of patterns, each of which matches whole names: ['*.bias']")
            if not any(fnmatchcase(name, pattern) for name in every):
                raise one_of(field, pattern, every)
    wanted = {name: p for name, p in every.items() if name in layers or any(fnmatchcase(name, pattern) for pattern in include)}
    return {name: p for name, p in wanted.items() if not any(fnmatchcase(name, pattern) for pattern in exclude)}


def effective_weights(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter as it works in the model, detached, under its own name and of its own shape: under weight_norm or spectral_norm the
    normalised weight."""
    found: dict[str, Tensor] = {name: parameter.detach() for name, parameter in named_weights(model).items()}
    for name, weight in layer_weights(model).items():
        if not isinstance(getattr(weight.module, weight.attribute), nn.Parameter):
            found[name] = getattr(weight.module, weight.attribute).detach()
    return found


def counted_share(model: nn.Module, counted: Mapping[str, Tensor]) -> float:
    """The share of all weights (parameters of two or more dimensions) that `counted`, masks or prunable parameters, is about.

    >>> net = nn.Sequential(nn.Embedding(10, 3), nn.Linear(3, 10))
    >>> counted_share(net, prunable(net))
    0.5
    """
    sizes = {name: p.numel() for name, p in named_weights(model).items() if p.dim() > 1 or name in counted}
    return sum(size for name, size in sizes.items() if name in counted) / max(1, sum(sizes.values()))
