"""A callback for PyTorch Lightning. Not here: what a pruner does (`isogrid.sparsity`), or when a step is one (`sparsity.own_loop`)."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer

from isogrid.core.errors import InputError
from isogrid.integrations.plan import Plan
from isogrid.sparsity import Masks, Pruner
from isogrid.sparsity.criteria import Batch
from isogrid.sparsity.own_loop import Steps
from isogrid.sparsity.pruner import Dynamics

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError as error:
    raise ImportError("isogrid.integrations.lightning needs the extra lightning: pip install 'isogrid[lightning]'") from error


class Prune(Callback):
    """Prune during `Trainer.fit`, or keep given masks: `Prune(Cubic(sparsity=0.9), samples=(x, y))`, `Prune(masks=masks)`.

    Dead weights of the LightningModule are exactly zero in every forward pass (validation and checkpoints, too) and after the training,
    whatever the optimizer, gradient accumulation and precision. Masks are named as the module's parameters (`net.0.weight`). `samples` and
    the settings behind them (`loss`, `masks`, `initial`, `seed`) are those of `isogrid.sparsity.own_loop.prune_during`; the number of steps
    is the trainer's. Afterwards `masks` and `state` are what the pruner finished with. A checkpoint is the plain module's.

    Raises InputError where the module optimizes by hand or with several optimizers, where the trainer knows no number of steps, and where a
    fit under a pruner is resumed in the middle: a schedule would start over. Continue with `masks=Masks.of_zeros(module)` there.
    """

    def __init__(self, pruner: Pruner | None = None, *, samples: Batch | None = None, masks: Masks | None = None, **rest: Any) -> None:
        self._plan = Plan(pruner, samples, masks, rest)
        self.masks = masks
        self.state: dict[str, Any] = {}
        self._steps: Steps | None = None
        self._handles: list[Any] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin, with the optimizer that the trainer made."""
        if not pl_module.automatic_optimization or len(trainer.optimizers) != 1:
            raise InputError(
                "pl_module", "manual or several optimizers", "automatic optimization with one (or prune_during in your own loop)"
            )
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            raise InputError(
                "precision", trainer.precision, "32-true, bf16-mixed or 64-true: a scaler skips steps after they are announced"
            )
        (optimizer,) = trainer.optimizers
        self._steps = Steps(self._begin(trainer, pl_module, optimizer))
        self._handles = [optimizer.register_step_post_hook(lambda *_: self._at_step())]

    def _begin(self, trainer: Trainer, module: LightningModule, optimizer: Optimizer) -> Dynamics:
        self._plan.resumes("ckpt_path", trainer.global_step)
        total = trainer.estimated_stepping_batches if self._plan.pruner is not None else 0
        if total == float("inf"):
            raise InputError("max_steps", total, "a trainer that knows how many steps it takes: max_epochs or max_steps")
        return self._plan.begin(module, optimizer, int(total), module.device, self.masks)

    def _at_step(self) -> None:
        assert self._steps is not None
        self._steps.stepped()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """A forward pass follows."""
        assert self._steps is not None
        self._steps.forward()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """The gradients are there: Lightning calls `optimizer.step` with the backward pass inside."""
        assert self._steps is not None
        self._steps.backward()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finish; the masks are fixed from now on."""
        if self._steps is not None:
            self.masks, self.state = self._steps.dynamics.finish()
            self.masks.apply(pl_module)
        self.teardown(trainer, pl_module, "fit")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """The training broke off: leave nothing behind."""
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the hook off the optimizer."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._steps = [], None
