"""A callback for the Trainer of Hugging Face transformers. Not here: what a pruner does (`isogrid.sparsity`)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from isogrid.core.errors import InputError
from isogrid.integrations.plan import Plan
from isogrid.sparsity import Masks, Pruner
from isogrid.sparsity.criteria import Batch
from isogrid.sparsity.own_loop import Steps

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ImportError as error:
    raise ImportError("isogrid.integrations.huggingface needs the extra huggingface: pip install 'isogrid[huggingface]'") from error


class Prune(TrainerCallback):
    """Prune during `Trainer.train`, or keep given masks: `Trainer(..., callbacks=[Prune(Cubic(sparsity=0.9), samples=(x, y))])`.

    Dead weights are exactly zero in every forward pass (evaluation and checkpoints, too) and after the training, whatever the optimizer
    and gradient accumulation. `samples`: some inputs x, as `model(x)` takes them (pixel_values, input_ids), and their classes y; they and
    the settings behind them (`loss`, `masks`, `initial`, `seed`) are those of `isogrid.sparsity.own_loop.prune_during`; `loss` is handed a
    model that gives the logits alone. The number of steps is the trainer's. Afterwards `masks` and `state` are what the pruner finished
    with.

    Raises InputError under fp16 (a scaler skips steps after they are announced), where a training under a pruner is resumed in its middle,
    and where the best checkpoint is to be loaded at its end: that is one of the schedule's middle.
    """

    def __init__(self, pruner: Pruner | None = None, *, samples: Batch | None = None, masks: Masks | None = None, **rest: Any) -> None:
        if rest.get("initial") is not None:
            rest["initial"] = {f"{_Logits.INNER}.{name}": value for name, value in rest["initial"].items()}
        self._plan = Plan(pruner, samples, masks, rest)
        self.masks = masks
        self.state: dict[str, Tensor] = {}
        self._steps: Steps | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **told: Any) -> None:
        """Begin, with the optimizer that the trainer made."""
        self._plan.resumes("resume_from_checkpoint", state.global_step)
        if args.fp16:
            raise InputError("fp16", True, "bf16 or neither: a scaler skips steps after they are announced")
        if self._plan.pruner is not None and args.load_best_model_at_end:
            raise InputError("load_best_model_at_end", True, "False under a pruner: it may be a network of the schedule's middle")
        model, optimizer = _Logits(told["model"]), told["optimizer"]
        inner = getattr(optimizer, "optimizer", optimizer)  # accelerate wraps the one that steps
        self._steps = Steps(self._plan.begin(model, inner, state.max_steps, next(model.parameters()).device, self.masks))

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **told: Any) -> None:
        """A forward pass follows."""
        assert self._steps is not None
        self._steps.forward()

    def on_pre_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **told: Any) -> None:
        """The gradients are there, clipped."""
        assert self._steps is not None
        self._steps.backward()

    def on_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **told: Any) -> None:
        """The optimizer has stepped."""
        assert self._steps is not None
        self._steps.stepped()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **told: Any) -> None:
        """Finish; the masks are fixed from now on."""
        assert self._steps is not None
        self.masks, self.state = self._steps.dynamics.finish()
        self.masks.apply(told["model"])
        self._steps = None


class _Logits(nn.Module):
    """A model that gives the logits alone; its weights are called what they are called in the one inside (`layers.unwrapped`)."""

    INNER = "_orig_mod"

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.add_module(self.INNER, model)

    def forward(self, x: Tensor) -> Tensor:
        out = self._modules[self.INNER](x)  # type: ignore[misc]
        found: Tensor = out if isinstance(out, Tensor) else out["logits"]
        return found
