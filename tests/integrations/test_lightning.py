"""The Lightning callback with the real library: what it trains is, bit for bit, what a plain loop trains; skipped where it is missing."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch.nn.functional import cross_entropy

from isogrid.core.errors import InputError
from isogrid.sparsity import Cubic, Masks, Progressive, Surgery, prune_during
from tests.sparsity.bench import network, samples

with warnings.catch_warnings():  # the library's own
    warnings.simplefilter("ignore")
    lightning = pytest.importorskip("lightning.pytorch")
    from isogrid.integrations.lightning import Prune

pytestmark = pytest.mark.filterwarnings("ignore")
BATCH, EPOCHS = 16, 3


class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net, self.revived, self.passes = network(), 0, 0
        self.pruning = None

    def forward(self, x):
        return self.net(x)

    def _look(self):
        self.passes += 1
        masks = self.pruning._steps.dynamics.masks if self.pruning is not None and self.pruning._steps else {}
        weights = dict(self.named_parameters())
        self.revived += sum(bool(weights[name][~mask].any()) for name, mask in masks.items())

    def training_step(self, batch, _):
        self._look()
        x, y = batch
        return cross_entropy(self(x), y)

    def validation_step(self, batch, _):
        self._look()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def loader():
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*samples()), batch_size=BATCH)


def trainer(callback, tmp_path, **settings):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", "num_sanity_val_steps": 0}
    return lightning.Trainer(callbacks=[callback], default_root_dir=tmp_path, **quiet | {"max_epochs": EPOCHS} | settings)


def fitted(callback, tmp_path, *, ckpt_path=None, **settings):
    module = Module()
    module.pruning = callback
    made = trainer(callback, tmp_path, **settings)
    made.fit(module, loader(), loader(), ckpt_path=ckpt_path)
    return module, made


@pytest.mark.parametrize("pruner", [Cubic(sparsity=0.8, every=1), Surgery(c=1.0), Progressive(rate=0.5)])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_it_trains_what_a_plain_loop_trains(pruner, accumulate, tmp_path):
    callback = Prune(pruner, samples=samples(32))
    module, _ = fitted(callback, tmp_path, accumulate_grad_batches=accumulate)
    plain = Module()
    optimizer = plain.configure_optimizers()
    batches = list(loader()) * EPOCHS
    with prune_during(pruner, plain, optimizer, steps=len(batches) // accumulate, samples=samples(32)) as pruning:
        for i, (x, y) in enumerate(batches):
            if i % accumulate == 0:
                optimizer.zero_grad()
            (cross_entropy(plain(x), y) / accumulate).backward()
            if i % accumulate == accumulate - 1:
                optimizer.step()
    masks, state = pruning.finish()
    assert module.passes == 2 * len(batches)
    assert module.revived == 0
    assert callback.masks.digest() == masks.digest()
    assert all(torch.equal(callback.state[key], value) for key, value in state.items())
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), plain.parameters(), strict=True))
    assert not any(bool(dict(module.named_parameters())[name][~mask].any()) for name, mask in callback.masks.items())


def test_given_masks_are_kept_also_through_a_resume(tmp_path):
    net = Module()
    masks = Progressive(rate=0.7).prune(net, Masks.dense(net))
    module, made = fitted(Prune(masks=masks), tmp_path, max_epochs=2)
    path = tmp_path / "two.ckpt"
    made.save_checkpoint(path)
    saved = torch.load(path, weights_only=True)["state_dict"]
    assert list(saved) == list(module.state_dict())
    assert not any(bool(saved[name][~mask].any()) for name, mask in masks.items())
    resumed, _ = fitted(Prune(masks=masks), tmp_path, max_epochs=4, ckpt_path=path)
    straight, _ = fitted(Prune(masks=masks), tmp_path, max_epochs=4)
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), straight.parameters(), strict=True))
    assert resumed.revived == 0


def test_a_schedule_does_not_start_over_at_a_resume(tmp_path):
    _, made = fitted(Prune(Cubic(), samples=samples(32)), tmp_path, max_epochs=1)
    made.save_checkpoint(tmp_path / "one.ckpt")
    with pytest.raises(InputError, match="ckpt_path: got step 4"):
        fitted(Prune(Cubic(), samples=samples(32)), tmp_path, ckpt_path=tmp_path / "one.ckpt")


class Breaking(Module):
    def training_step(self, batch, index):
        if index == 2:
            raise ZeroDivisionError
        return super().training_step(batch, index)


def test_nothing_is_left_behind_where_the_training_breaks_off(tmp_path):
    callback, module = Prune(Cubic(), samples=samples(32)), Breaking()
    made = trainer(callback, tmp_path)
    with pytest.raises(ZeroDivisionError):
        made.fit(module, loader())
    assert callback._handles == []
    assert not made.optimizers[0]._optimizer_step_post_hooks


class Two(Module):
    def configure_optimizers(self):
        return [torch.optim.SGD(self.net[0].parameters(), lr=0.1), torch.optim.SGD(self.net[2].parameters(), lr=0.1)]

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, _):
        return None


def test_the_recipe_prunes(recipe, tmp_path):
    given: dict = {}
    exec(recipe("PyTorch Lightning"), given)
    module, _ = fitted(given["callback"](*samples(32)), tmp_path)
    assert Masks.of_zeros(module).sparsity == pytest.approx(0.9, abs=0.01)


def test_what_cannot_be_pruned_is_one_line(tmp_path):
    with pytest.raises(InputError, match="a pruner with samples"):
        Prune()
    with pytest.raises(InputError, match="samples"):
        Prune(Cubic())
    with pytest.raises(InputError, match="prune_during"):
        trainer(Prune(Cubic(), samples=samples(8)), tmp_path).fit(Two(), loader())
    with pytest.raises(InputError, match="max_steps"):
        trainer(Prune(Cubic(), samples=samples(8)), tmp_path, max_epochs=-1).fit(Module(), loader())
