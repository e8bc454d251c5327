"""Dynamic network surgery, step by step: thresholds, hysteresis, the dense master, and what came back."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from isogrid.core.errors import InputError
from isogrid.core.random import generator
from isogrid.sparsity import Masks, Surgery, SurgeryTarget
from isogrid.sparsity.surgery import threshold
from tests.sparsity.bench import network, run, training

TOTAL = 12 * 16 + 16 * 8 + 8 * 4


class Row(nn.Linear):
    """One layer of five weights, fed with gradients by hand; two logits so that it is a classifier, of which the second has no weights."""

    def __init__(self):
        super().__init__(6, 1, bias=False)
        self.weight.data = torch.tensor([[1.0, -2.0, 3.0, -4.0, 0.0, 10.0]])

    def forward(self, x):
        return super().forward(x[:, :6])


def by_hand(pruner, moves):
    """The weights that each forward pass sees, the masks after each step and the end: plain SGD whose step i adds `moves[i]`."""
    net = Row()
    told = training(net, len(moves), optimizer=torch.optim.SGD(net.parameters(), lr=1.0))
    dynamics, seen, masks = pruner.begin(told), [], []
    for step, move in enumerate(moves):
        dynamics.before_forward(step)
        seen.append(net.weight.detach().flatten().tolist())
        net.weight.grad = -torch.tensor([move])
        dynamics.after_backward(step)
        told.optimizer.step()
        dynamics.after_step(step)
        assert torch.equal(net.weight != 0, dynamics.masks["weight"] & (net.weight != 0))
        masks.append(dynamics.masks["weight"].flatten().int().tolist())
    return seen, masks, dynamics.finish()


def test_the_rule_on_six_weights_worked_by_hand():
    # |w| where it is not zero: 1 2 3 4 10, so mu = 4, sigma = sqrt(26 - 16); with c = -0.3 t = 3.0513, 0.9 t = 2.746, 1.1 t = 3.356
    assert threshold(Row().weight, -0.3) == pytest.approx(4 - 0.3 * 10**0.5)
    pruner = Surgery(c=-0.3, gamma=0, until=0.8)
    seen, masks, (end, state) = by_hand(
        pruner,
        [
            [0.0, -1.0, -0.2, 0.0, 0.0, 0.0],  # the second learns on while dead: -3; the third 2.8 lies between the thresholds
            [0.0, -0.4, -0.1, 0.0, 0.0, 0.0],  # -3.4 is above 1.1 t; the third 2.7 is below 0.9 t
            [0.0, 0.3, 0.5, 0.0, 0.0, 0.0],  # -3.1 stays, between; the third 3.2 is not above 1.1 t
            [0.0, 0.0, 0.6, 0.0, 0.0, 0.0],  # 3.8 would come back, but the last of 5 steps is past 0.8 of them
            [0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        ],
    )
    expected = [
        [0, 0, 3, -4, 0, 10],
        [0, 0, 2.8, -4, 0, 10],
        [0, -3.4, 0, -4, 0, 10],
        [0, -3.1, 0, -4, 0, 10],
        [0, -3.1, 0, -4, 0, 10],
    ]
    torch.testing.assert_close(torch.tensor(seen), torch.tensor(expected).float())
    assert masks[1:] == [[0, 0, 1, 1, 0, 1], *[[0, 1, 0, 1, 0, 1]] * 3]
    assert end["weight"].flatten().int().tolist() == [0, 1, 0, 1, 0, 1]
    assert state["revisions"].tolist() == [[0, 3, 0], [2, 1, 1]]


def test_masks_come_from_the_dense_master_and_not_from_masked_weights():
    _, _, (end, state) = by_hand(Surgery(c=-0.3, gamma=0), [[2.5, 0, 0, 0, 0, 0]] + [[0.0] * 6] * 3)
    assert end["weight"].flatten().tolist() == [True, False, True, True, False, True], "3.5 has come back"
    assert state["revisions"][:, 2].sum() == 1


def test_the_published_probability_and_its_end():
    net = network()
    told = training(net, 4000)
    dynamics = Surgery(gamma=1e-2, power=0.5, until=0.75).begin(told)
    revised = torch.tensor(dynamics._revised).double()
    assert revised.shape == (3000, 3)
    assert revised[0].all(), "certain at the start"
    for start in (0, 1000, 2900):
        part = (1 + 1e-2 * torch.arange(start, start + 100).double()) ** -0.5
        deviation = float((part * (1 - part)).sum() * 3) ** 0.5
        assert abs(float(revised[start : start + 100].sum() - 3 * part.sum())) < 4 * deviation + 1
    assert not torch.equal(revised[:, 0], revised[:, 1]), "one draw per layer"
    again = Surgery(gamma=1e-2, power=0.5, until=0.75).begin(training(network(), 4000))
    assert dynamics._revised == again._revised


def test_masks_are_revised_only_while_updates_are_allowed_and_thresholds_stay():
    net = network()
    told = training(net, 40)
    dynamics = Surgery(c=0.0, until=0.5).begin(told)
    before, digests = dict(dynamics._thresholds), []
    run(dynamics, told, lambda step: digests.append(dynamics.masks.digest()))
    assert len(set(digests[19:])) == 1
    assert len(set(digests[:20])) > 1
    assert dynamics._thresholds == before == {name: threshold(network().get_parameter(name), 0.0) for name in before}
    assert any(threshold(net.get_parameter(name), 0.0) != before[name] for name in before)


@pytest.mark.parametrize("pruner", [Surgery(c=0.0), SurgeryTarget(sparsity=0.7, every=1)])
def test_dead_weights_learn_as_in_a_dense_optimizer_and_no_pass_sees_them(pruner):
    """With gradients that do not depend on the weights, the master's way is that of a network that nobody prunes."""
    net, free = network(), network()
    makes = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}

    def gradient(step, parameter):
        return torch.randn(parameter.shape, generator=generator(step, tuple(parameter.shape)))

    told = training(net, 12, optimizer=torch.optim.SGD(net.parameters(), **makes))
    dynamics = pruner.begin(told)
    hidden = torch.optim.SGD(free.parameters(), **makes)
    counts = []

    def look(step):
        for parameter in free.parameters():
            parameter.grad = gradient(step, parameter)
        hidden.step()
        for name, mask in dynamics.masks.items():
            assert torch.equal(dynamics.dense[name], free.get_parameter(name))
            assert torch.equal(net.get_parameter(name), free.get_parameter(name) * mask)
        counts.append(dynamics.masks.kept)

    masks, state = run(dynamics, told, look, gradient)
    assert state["revisions"][:, 2].sum() > 0
    assert TOTAL - int((state["revisions"][:, 1] - state["revisions"][:, 2]).sum()) == masks.kept


def test_a_target_is_met_exactly_at_each_revision_with_the_rule_of_surgery():
    net = network()
    told = training(net, 48)
    dynamics, seen = SurgeryTarget(sparsity=0.9, every=4, until=0.75, allocation="global").begin(told), {}
    before = dict(dynamics.masks)

    def look(step):
        new, size = dynamics.masks, {name: dense.abs() for name, dense in dynamics.dense.items()}
        seen[step] = new.kept
        if any(not torch.equal(new[name], before[name]) for name in new):
            # some threshold t explains the masks: alive above 0.9 t stayed, dead above 1.1 t came back
            stayed = min(float(size[n][new[n] & before[n]].min()) / 0.9 for n in new if (new[n] & before[n]).any())
            came = min((float(size[n][new[n] & ~before[n]].min()) / 1.1 for n in new if (new[n] & ~before[n]).any()), default=float("inf"))
            died = max((float(size[n][~new[n] & before[n]].max()) / 0.9 for n in new if (~new[n] & before[n]).any()), default=0.0)
            out = max((float(size[n][~new[n] & ~before[n]].max()) / 1.1 for n in new if (~new[n] & ~before[n]).any()), default=0.0)
            spared = 6  # the weights that must stay are below no threshold
            assert max(died, out) <= min(stayed, came) * 1.0000001 or new.kept < 10 * spared
        before.update(new)

    masks, _ = run(dynamics, told, look)
    for step, kept in seen.items():
        t = max(((s + 1) / 36 for s in range(3, 36, 4) if s <= step), default=0)
        assert kept == pytest.approx(TOTAL * (1 - 0.9 * (1 - (1 - t) ** 3)), abs=1), step
    assert masks.kept == round(0.1 * TOTAL)
    assert not dynamics.busy


@pytest.mark.parametrize("pruner", [Surgery(c=-1.0), SurgeryTarget(sparsity=0.3, every=1)])
def test_what_was_dead_in_the_reference_stays_dead(pruner):
    net = network()
    given = Masks({n: torch.rand(w.shape, generator=generator(5, n)) < 0.8 for n, w in net.named_parameters() if w.dim() > 1})
    told = training(net, 20, masks=given)
    dynamics = pruner.begin(told)

    def look(step):
        assert all(
            not (mask & ~given[name]).any() and not net.get_parameter(name)[~given[name]].any() for name, mask in dynamics.masks.items()
        )

    run(dynamics, told, look)


def test_c_per_layer_by_name_or_pattern():
    net = network()
    told = training(net, 1)
    dynamics = Surgery(c={"4.weight": -9.0, "*": 2.0}).begin(told)
    dynamics.before_forward(0)
    shares = [float(mask.float().mean()) for mask in dynamics.masks.values()]
    assert shares[2] == 1.0
    assert max(shares[:2]) < 0.1
    with pytest.raises(InputError, match=r"c: got 3\.weight; accepted: 0\.weight, 2\.weight, 4\.weight"):
        Surgery(c={"3.weight": 1.0}).begin(told)
    with pytest.raises(InputError, match=r"a number for 2\.weight too"):
        Surgery(c={"0.weight": 1.0}).begin(told)
