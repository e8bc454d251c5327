"""The Trainer's callback with the real library: what it trains is, bit for bit, what a plain loop trains; skipped where it is missing."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from isogrid.core.errors import InputError
from isogrid.sparsity import Cubic, Lottery, Masks, Progressive, Surgery, prune_during
from tests.sparsity.bench import network, samples

with warnings.catch_warnings():  # the library's own
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from isogrid.integrations.huggingface import Prune

pytestmark = pytest.mark.filterwarnings("ignore")
BATCH, EPOCHS = 16, 3


class Net(nn.Module):
    """Outputs as the library's classifiers have them, and how often a forward pass saw a dead weight that is not zero."""

    def __init__(self):
        super().__init__()
        self.net, self.revived, self.passes, self.callback = network(), 0, 0, None

    def forward(self, x, labels=None):
        self.passes += 1
        masks = self.callback._steps.dynamics.masks if self.callback is not None and self.callback._steps else {}
        weights = dict(self.named_parameters())
        self.revived += sum(bool(weights[name][~mask].any()) for name, mask in masks.items())
        z = self.net(x)
        loss = None if labels is None else cross_entropy(z, labels)
        return transformers.modeling_outputs.SequenceClassifierOutput(loss=loss, logits=z)


def rows():
    return [{"x": x, "labels": int(y)} for x, y in zip(*samples(), strict=True)]


def trainer(callback, tmp_path, model=None, **settings):
    model = Net() if model is None else model
    model.callback = callback
    given = {
        "output_dir": str(tmp_path),
        "num_train_epochs": EPOCHS,
        "per_device_train_batch_size": BATCH,
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        "max_grad_norm": 0.0,
        "logging_strategy": "no",
    }
    made = transformers.Trainer(
        model=model,
        args=transformers.TrainingArguments(**given | settings),
        train_dataset=rows(),
        eval_dataset=rows(),
        callbacks=[callback],
        optimizers=(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), None),
    )
    made.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(made.optimizer, lambda _: 1.0)
    made._get_train_sampler = lambda *_: None  # in the order of the samples, as the plain loop
    return made


@pytest.mark.parametrize("pruner", [Cubic(sparsity=0.8, every=1), Surgery(c=1.0), Progressive(rate=0.5), Lottery(rate=0.4)])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_it_trains_what_a_plain_loop_trains(pruner, accumulate, tmp_path):
    model, plain = Net(), Net()
    initial = {name: value + 0.01 for name, value in plain.state_dict().items()}
    callback = Prune(pruner, samples=samples(32), initial=initial)
    made = trainer(callback, tmp_path, model, gradient_accumulation_steps=accumulate, eval_strategy="epoch")
    made.train()

    class Logits(nn.Module):
        def __init__(self):
            super().__init__()
            self._orig_mod = plain

        def forward(self, x):
            return self._orig_mod(x).logits

    view = Logits()
    x, y = samples()
    batches = list(zip(x.split(BATCH), y.split(BATCH), strict=True)) * EPOCHS
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
    given = {f"_orig_mod.{name}": value for name, value in initial.items()}
    steps = len(batches) // accumulate
    with prune_during(pruner, view, optimizer, steps=steps, samples=samples(32), initial=given) as pruning:
        for i, (xb, yb) in enumerate(batches):
            if i % accumulate == 0:
                optimizer.zero_grad()
            (cross_entropy(view(xb), yb) / accumulate).backward()
            if i % accumulate == accumulate - 1:
                optimizer.step()
    masks, state = pruning.finish()
    assert model.passes > len(batches)
    assert model.revived == 0
    assert callback.masks.digest() == masks.digest()
    assert 0 < masks.sparsity < 1
    assert set(callback.masks) <= set(dict(model.named_parameters()))
    assert all(torch.equal(callback.state[key], value) for key, value in state.items())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))
    assert not any(bool(dict(model.named_parameters())[name][~mask].any()) for name, mask in callback.masks.items())


def test_given_masks_are_kept_also_in_checkpoints_and_through_a_resume(tmp_path):
    net = Net()
    masks = Progressive(rate=0.7).prune(net.net, Masks.dense(net.net))
    masks = Masks({f"net.{name}": mask for name, mask in masks.items()})
    straight = trainer(Prune(masks=masks), tmp_path / "a", save_strategy="epoch")
    straight.train()
    stored = transformers.trainer.safetensors.torch.load_file(tmp_path / "a" / "checkpoint-4" / "model.safetensors")
    assert list(stored) == sorted(net.state_dict())
    assert not any(bool(stored[name][~mask].any()) for name, mask in masks.items())
    resumed = trainer(Prune(masks=masks), tmp_path / "b")
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-4"))
    assert resumed.model.revived == 0
    assert all(torch.equal(a, b) for a, b in zip(resumed.model.parameters(), straight.model.parameters(), strict=True))


def test_a_model_of_the_library_is_pruned(tmp_path):
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, max_position_embeddings=12
    )
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(config)
    ids = torch.randint(0, 30, (48, 8))
    y = (ids[:, 0] > 14).long()
    callback = Prune(Cubic(sparsity=0.8, every=2, allocation="global", criterion="taylor"), samples=(ids[:16], y[:16]))
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), num_train_epochs=2, per_device_train_batch_size=8, use_cpu=True, report_to=[], disable_tqdm=True
    )
    data = [{"input_ids": x, "labels": int(c)} for x, c in zip(ids, y, strict=True)]
    transformers.Trainer(model=model, args=arguments, train_dataset=data, callbacks=[callback]).train()
    assert callback.masks.sparsity == pytest.approx(0.8, abs=1e-3)
    assert "classifier.weight" in callback.masks
    assert bool(callback.masks["classifier.weight"].any(1).all())
    weights = dict(model.named_parameters())
    assert not any(bool(weights[name][~mask].any()) for name, mask in callback.masks.items())


def test_what_cannot_be_pruned_is_one_line(tmp_path):
    with pytest.raises(InputError, match="a pruner with samples"):
        Prune()
    with pytest.raises(InputError, match="samples"):
        Prune(Cubic())
    first = trainer(Prune(Cubic(), samples=samples(8)), tmp_path, save_strategy="epoch")
    first.train()
    with pytest.raises(InputError, match="resume_from_checkpoint: got step 4"):
        trainer(Prune(Cubic(), samples=samples(8)), tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    best = {"load_best_model_at_end": True, "save_strategy": "epoch", "eval_strategy": "epoch"}
    with pytest.raises(InputError, match="load_best_model_at_end"):
        trainer(Prune(Cubic(), samples=samples(8)), tmp_path, **best).train()


def test_the_recipe_prunes(recipe, tmp_path):
    given: dict = {}
    exec(recipe("Hugging Face Trainer"), given)
    made = trainer(given["callback"](*samples(32)), tmp_path)
    made.train()
    assert Masks.of_zeros(made.model).sparsity == pytest.approx(0.9, abs=0.01)
