"""Which channels and neurons of a network go together, and the network without those that nothing reads. Not here: which of them go.

Torch-Pruning finds what is coupled (Fang et al. 2023, DepGraph); what it says is believed only where the network shows it.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from isogrid.core.errors import InputError, ModelError
from isogrid.core.modules import check_input, check_module
from isogrid.core.random import generator, isolated
from isogrid.sparsity.layers import LAYERS, Weight, layer_weights, unwrapped

PROBES = 2
"""How many samples, beside as many made from them, show whether a network is the same without a structure."""
SAME, ROUNDING = 1e-4, 1e-5
"""Logits that differ by less than a share of their spread over samples, or by less than one of their size, differ by rounding alone."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where C coupled structures lie in one weight: structure c is the slices index[c] along `axis`. index: int64 [C, k].

    reads: whether these slices multiply what the structure gives (the inputs of the next layer), and not what it is made of.
    """

    name: str
    axis: int
    index: Tensor
    reads: bool


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Structures:
    """C channels or neurons, each of which is there or not in all `places` at once; `root`: the module that gives them."""

    root: str
    places: tuple[Place, ...]

    def __len__(self) -> int:
        return len(self.places[0].index)

    def cut(self, masks: Mapping[str, Tensor], gone: Tensor) -> None:
        """Write False into `masks` wherever a structure lies that is `gone`, bool [C]."""
        for place in self.places:
            mask = masks[place.name]
            mask.index_fill_(place.axis, place.index[gone].flatten().to(mask.device), False)

    def sums(self, values: Mapping[str, Tensor]) -> Iterator[Tensor]:
        """[C]: the sum of what `values` says of each structure's weights, place by place."""
        for place in self.places:
            slices = values[place.name].movedim(place.axis, 0).flatten(1).sum(1)
            yield slices[place.index.to(slices.device)].sum(1)


def structures(model: nn.Module, x: Tensor) -> list[Structures]:
    """The channels and neurons that can be removed from a network, coupled ones together; `x` [N, *S] are samples, a few are enough.

    That is a matter of the model's code, and tried with weights drawn anew. A layer is left whole where the network without half of its
    structures fails to run, or gives other logits than with the weights that read them zero: at the outputs, before a normalisation over
    channels (layer norm, group norm), where code has sizes written out (shortcuts padded with zero channels, `view(-1, 400)`), at
    k-winners. Weights of recurrent, attention and grouped layers (depthwise ones are fine) and those under weight norm are left whole, too.
    `model` stays as it is.

    Raises InputError without the extra `structured`, and ModelError where Torch-Pruning cannot follow the model.

    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 4, 2))
    >>> [(group.root, len(group), [p.name for p in group.places]) for group in structures(net, torch.rand(2, 1, 4, 4))]
    [('0', 4, ['0.weight', '3.weight'])]
    """
    check_module(model)
    tp = _torch_pruning()
    with isolated(0, "structures"), torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        probes = _probes(x)
        net = _drawn(model, probes)
        owners = {(id(weight.module), weight.attribute): (name, weight) for name, weight in layer_weights(net).items()}
        graph = _graph(tp, net, probes)
        groups = [_read(graph, group, owners) for group in graph.get_all_groups()]
        return [group for group in groups if group is not None and _removable(tp, net, group, probes)]


def compact(model: nn.Module, x: Tensor) -> nn.Module:
    """A copy of a network without the channels and neurons that nothing reads: really smaller layers, the same logits.

    One is not read where every weight that multiplies what it gives is exactly zero (`channels` leaves such; other methods may): what it
    gives then, a bias or a batch-norm's shift through a ReLU, plays no part. One whose own weights are all zero and that is read gives a
    constant, and stays. A layer keeps one at least. `x` [N, *S]: samples, a few are enough. The copy is in the mode of `model`, whose class
    it has, with parameters of other shapes: its state_dict does not fit into a new instance, so store the whole of it (torch.export).

    Raises InputError without the extra `structured`, and ModelError where the logits of the two on `x` differ by more than rounding.

    >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> _ = net[2].weight.data[:, 1:].zero_()
    >>> compact(net, torch.rand(8, 3))
    Sequential(
      (0): Linear(in_features=3, out_features=1, bias=True)
      (1): ReLU()
      (2): Linear(in_features=1, out_features=2, bias=True)
    )
    """
    small, probes = copy.deepcopy(unwrapped(model)), _probes(x)
    modes = [module.training for module in small.modules()]
    learn = [parameter.requires_grad for parameter in small.parameters()]
    with isolated(0, "structures"), torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = small.requires_grad_(True).eval()(probes).detach()
        while unread := _unread(small, x):  # what only they read is not read either
            _remove(_torch_pruning(), small, unread, probes)
        if not _same(before, small(probes).detach()):
            raise ModelError("model: it is not the same network without what nothing reads; accepted: sizes that follow from the layers")
    for module, training in zip(small.modules(), modes, strict=True):
        module.training = training
    for parameter, learns in zip(small.parameters(), learn, strict=True):
        parameter.requires_grad_(learns)
    return small


def _unread(model: nn.Module, x: Tensor) -> dict[str, list[int]]:
    """{root: structures}, those that only weights of zero read; not all of a layer's."""
    used = {name: weight.parameter.detach() != 0 for name, weight in layer_weights(model).items()}
    found: dict[str, list[int]] = {}
    for group in structures(model, x):
        readers = Structures(root=group.root, places=tuple(place for place in group.places if place.reads))
        silent = torch.stack([total == 0 for total in readers.sums(used)]).all(0)
        silent[0] &= not bool(silent.all())
        if bool(silent.any()):
            found[group.root] = silent.nonzero().flatten().tolist()
    return found


def _torch_pruning() -> Any:
    try:
        import torch_pruning
    except ImportError:
        raise InputError("method channels", "no Torch-Pruning", "the extra structured: pip install 'isogrid[structured]'") from None
    return torch_pruning


def _probes(x: Tensor) -> Tensor:
    """Some samples, and as many with their elements in another order, so that logits differ even where `x` is one sample."""
    check_input(x)
    x = x[:PROBES].detach()
    order = torch.randperm(x[0].numel(), generator=generator(0, "structures", "order")).to(x.device)
    return torch.cat([x, x.flatten(1)[:, order].view(x.shape)])


def _drawn(model: nn.Module, probes: Tensor) -> nn.Module:
    """A copy that learns, in eval mode, with weights drawn anew, so that what it shows is its code's doing: a trained or pruned network may
    hide a way behind zeros. Biases and shifts are no zeros, and batch-norm has the statistics of the probes."""
    net = copy.deepcopy(unwrapped(model)).eval().requires_grad_(True)
    draw = generator(0, "structures", "weights")
    with torch.no_grad():
        for p in net.parameters():
            scale = (2 / max(1, p[0].numel())) ** 0.5 if p.dim() > 1 else 0.0
            p.copy_(torch.randn(p.shape, generator=draw) * scale if scale else 0.25 + torch.rand(p.shape, generator=draw) / 2)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
                module.train()
                module.momentum = 1.0
        net(probes)
    return net.eval()


def _graph(tp: Any, net: nn.Module, probes: Tensor) -> Any:
    try:
        return tp.DependencyGraph().build_dependency(net, example_inputs=(probes,), verbose=False)
    except Exception as error:  # whatever the library raises at an operation that it does not know
        told = " ".join(f"{type(error).__name__}: {error}".split())
        raise ModelError(f"model: Torch-Pruning cannot follow it ({told}); accepted: another method") from error


def _read(graph: Any, group: Any, owners: Mapping[tuple[int, str], tuple[str, Weight]]) -> Structures | None:
    """A group of the graph as places of weights; None where it reaches a layer that is left whole, or nothing reads it."""
    root, count = group[0].dep.target.module, len(group[0].idxs)
    places: list[Place] = []
    for item in group:
        module = item.dep.target.module
        if not isinstance(module, LAYERS):
            continue
        name, weight = owners.get((id(module), "weight"), ("", None))
        axes = _axes(module)
        if weight is None or weight.parameter is not module.weight or axes is None:
            return None
        reads = axes[0] != axes[1] and graph.is_in_channel_pruning_fn(item.dep.handler)
        index: list[list[int]] = [[] for _ in range(count)]
        for place, structure in zip(item.idxs, item.root_idxs, strict=True):
            index[structure].append(place)
        if len({len(part) for part in index}) != 1:
            return None
        places.append(Place(name=name, axis=axes[reads], index=torch.tensor(index), reads=reads))
    found = count > 1 and any(place.reads for place in places)
    return Structures(root=graph._module2name[root], places=tuple(places)) if found else None


def _axes(layer: nn.Module) -> tuple[int, int] | None:
    """The axes of a layer's weight that are its outputs and its inputs, one and the same where it is depthwise; None: it is left whole."""
    if isinstance(layer, nn.Linear):
        return 0, 1
    if not isinstance(layer, _ConvNd) or 1 < layer.groups != layer.in_channels or 1 < layer.groups != layer.out_channels:
        return None
    if layer.groups > 1:
        return 0, 0
    return (1, 0) if layer.transposed else (0, 1)


@torch.no_grad()
def _removable(tp: Any, net: nn.Module, group: Structures, probes: Tensor) -> bool:
    """Whether the network without half of the structures is the network that does not read them."""
    half = torch.randperm(len(group), generator=generator(0, "structures", "half"))[: len(group) // 2].sort().values
    without = copy.deepcopy(net)
    weights = layer_weights(without)
    for place in group.places:
        if place.reads:
            weight = weights[place.name].parameter
            weight.index_fill_(place.axis, place.index[half].flatten().to(weight.device), 0.0)
    try:
        before = without(probes)
        _remove(tp, without, {group.root: half.tolist()}, probes)
        return _same(before, without(probes))
    except Exception:  # the user's code, at sizes that it does not expect
        return False


def _remove(tp: Any, net: nn.Module, which: Mapping[str, list[int]], probes: Tensor) -> None:
    """Take the structures of these roots out of `net`."""
    with torch.enable_grad():
        graph = _graph(tp, net, probes)
    for name, structure in which.items():
        if structure:
            root: Any = net.get_submodule(name)
            graph.get_pruning_group(root, graph.get_pruner_of_module(root).prune_out_channels, structure).prune()


def _same(a: Tensor, b: Tensor) -> bool:
    allowed = torch.maximum(SAME * (a - a.mean(0)).abs().max(), ROUNDING * a.abs().max())
    return a.shape == b.shape and bool((a - b).abs().max() <= allowed)
