"""The training loop, on Lightning Fabric: one or several processes and machines, killed and resumed at any
step."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from edgemtl.balancing import Balancer
from edgemtl.core.errors import DataError
from edgemtl.core.malloc import keep_freed_memory
from edgemtl.core.report import Observer, Progress, Scores
from edgemtl.data.augment import Augment
from edgemtl.data.base import Batch, Dataset
from edgemtl.data.loader import eval_batches, steps_per_epoch, train_batches
from edgemtl.kernels import composed
from edgemtl.model import MultitaskModel
from edgemtl.tensors import write_tensors
from edgemtl.training.aggregation import weighing
from edgemtl.training.average import Average
from edgemtl.training.checkpoint import STATE, Checkpoint
from edgemtl.training.distill import Distiller
from edgemtl.training.divergence import check_finite
from edgemtl.training.evaluate import Evaluation, evaluate
from edgemtl.training.fabric import add_up, average_gradients, gather
from edgemtl.training.log import Epoch, MetricsLog
from edgemtl.training.objective import Objective
from edgemtl.training.spec import Training
from edgemtl.training.steps import UPDATES, check_update
from edgemtl.training.syncnorm import synchronize_norms

METRICS, LAST, BEST = "metrics.jsonl", "weights/last.safetensors", "weights/best.safetensors"


class Splits(NamedTuple):
    """What to train on, and what to measure on meanwhile. ``select``: whether the best weights on
    ``validation`` may be kept, which is honest only when it is not the split that results are reported on.
    """

    train: Dataset
    validation: Dataset
    augment: Augment
    select: bool


class Trainer:
    """Trains a model into a run's folder.

    Writes ``state.pt`` (to resume), ``weights/last.safetensors`` (averaged, where the recipe averages),
    ``weights/best.safetensors`` where ``splits.select``, and a line of ``metrics.jsonl`` an epoch.
    """

    def __init__(
        self,
        fabric: Fabric,
        model: MultitaskModel,
        balancer: Balancer,
        spec: Training,
        splits: Splits,
        *,
        seed: int,
        folder: Path,
        distiller: Distiller | None = None,
    ) -> None:
        self.fabric, self.spec, self.splits, self.seed, self.folder = fabric, spec, splits, seed, folder
        self.log = MetricsLog(folder / METRICS)
        self.observer: Observer | None = None
        if fabric.device.type == "cpu":
            keep_freed_memory()
        self.model: MultitaskModel = model.to(fabric.device)
        if spec.channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if fabric.world_size > 1:
            synchronize_norms(self.model)
        self._add_up = partial(add_up, fabric)
        self.balancer = balancer.to(fabric.device)
        self.distiller = None if distiller is None else distiller.to(fabric.device)
        self.scaler = torch.amp.GradScaler(fabric.device.type, enabled=spec.precision == "fp16")
        self.objective = Objective(
            self.model,
            self.balancer,
            self.distiller,
            run=torch.compile(self.model.run) if spec.compile else None,
            autocast=fabric.autocast,
            scaled=self.scaler.scale,
            add_up=self._add_up,
            processes=fabric.world_size,
            weigh=weighing(spec.aggregation, len(self.model.tasks), self._add_up),
        )
        check_update(spec.update, self.objective)
        self.optimizer = self.objective.optimizer(spec.optimizer, spec.factor_optimizer)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.average = Average(self.model, spec.ema) if spec.ema else None
        self.epoch_steps = steps_per_epoch(splits.train, spec.batch)
        self.steps = self.epoch_steps * spec.epochs
        self.step, self.elapsed_s, self.best = 0, 0.0, math.inf
        self._epoch = Epoch()
        self._last: Evaluation | None = None

    def fit(self, observer: Observer | None = None) -> Evaluation:
        """Train from ``self.step`` to the end; gives the evaluation of the final weights. What metrics.jsonl
        says of later epochs, from before a kill, is dropped. The ``observer`` is told of every step.

        Raises:
            TrainingError: a loss is not finite. The last checkpoint stays.
            SetupError: the run's folder cannot be written.
        """
        self.observer = observer
        if self.fabric.global_rank == 0:
            self.log.keep_until(self.step)
        before, saved = self.elapsed_s, time.monotonic()
        started = asked = time.monotonic()
        for batch in self._batches():
            waited_s = time.monotonic() - asked
            losses = self._learn(batch.to(self.fabric.device))
            self.step += 1
            self.elapsed_s = before + time.monotonic() - started
            self._epoch.add(losses, waited_s, time.monotonic() - asked)
            self._tell(losses)
            if self.step % self.epoch_steps == 0:
                self._end_epoch()
            if self.step % self.epoch_steps == 0 or time.monotonic() - saved > self.spec.checkpoint_every_s:
                self._check_weights(batch)
                self.save()
                saved = time.monotonic()
            asked = time.monotonic()
        return self._last or self._evaluate()  # a run resumed at its end has not been evaluated here

    def save(self) -> None:
        """Write the weights and the checkpoint; each file is replaced as a whole."""
        if self.fabric.global_rank != 0:
            return
        self._save_weights(LAST)  # first: a run whose checkpoint is of the last step does not come here again
        Checkpoint(
            step=self.step,
            elapsed_s=self.elapsed_s,
            best=self.best,
            model=self.model.state_dict(),
            optimizer=self.optimizer.state_dict(),
            balancer=self.balancer.state_dict(),
            adaptors=self.distiller.adaptors.state_dict() if self.distiller else {},
            scaler=self.scaler.state_dict(),
            average=self.average.state if self.average else None,
            random=torch.get_rng_state(),
            random_cuda=torch.cuda.get_rng_state() if self.fabric.device.type == "cuda" else None,
            epoch=msgspec.structs.asdict(self._epoch),
        ).save(self.folder / STATE)

    def restore(self) -> None:
        """Go back to the last checkpoint.

        Raises:
            DataError: there is no checkpoint, or it is not of this run.
        """
        state = Checkpoint.load(self.folder / STATE)
        try:
            self.model.load_state_dict(state.model)
            self.optimizer.load_state_dict(state.optimizer)
            self.balancer.load_state_dict(state.balancer)
            if self.distiller:
                self.distiller.adaptors.load_state_dict(state.adaptors)
            self.scaler.load_state_dict(state.scaler)
        except (RuntimeError, ValueError, KeyError) as error:
            raise DataError(
                self.folder / STATE,
                expected="the state of the model that recipe.yaml describes",
                found=str(error).splitlines()[0],
                fix="Resume with the recipe that the run was started with.",
            ) from error
        if self.average and state.average:
            self.average.state = {key: value.to(self.fabric.device) for key, value in state.average.items()}
        torch.set_rng_state(state.random)
        if state.random_cuda is not None and self.fabric.device.type == "cuda":
            torch.cuda.set_rng_state(state.random_cuda)
        self.step, self.elapsed_s, self.best = state.step, state.elapsed_s, state.best
        self._epoch = msgspec.convert(state.epoch, Epoch)

    def _batches(self) -> Iterator[Batch]:
        return train_batches(
            self.splits.train,
            self.splits.augment,
            batch=self.spec.batch,
            epochs=self.spec.epochs,
            seed=self.seed,
            start_step=self.step,
            rank=self.fabric.global_rank,
            world=self.fabric.world_size,
            workers=self.spec.workers,
        )

    def _learn(self, batch: Batch) -> dict[str, float]:
        """One batch through the update strategy, an optimizer step for each of its gradients. Gives the
        losses of the tasks that had labels.
        """
        self.model.train()
        scale = self.spec.schedule.factor(self.step, self.steps, self.epoch_steps)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * scale
        values: dict[str, float] = {}
        for losses in UPDATES[self.spec.update](self.objective, batch):
            average_gradients(self.fabric, self.objective.trained)
            if self.spec.clip_norm is not None:
                self.scaler.unscale_(self.optimizer)
                clip_grad_norm_(self.objective.trained, self.spec.clip_norm)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.optimizer.zero_grad()
            # Read last, so that a GPU does not wait in the middle; of a bad step nothing is ever saved.
            found, unlabeled = self._finite(losses, batch), self.objective.unlabeled
            values |= {task: value for task, value in found.items() if task not in unlabeled}
        if self.average:
            self.average.update(self.model, self.step)
        return values

    def _finite(self, losses: Mapping[str, Tensor], batch: Batch) -> dict[str, float]:
        """The losses of the global batch as numbers; all processes see the same, so all stop together."""
        shared = (
            self._add_up(torch.stack([loss.detach() for loss in losses.values()])) / self.fabric.world_size
        )
        values = dict(zip(losses, shared.tolist(), strict=True))
        if not all(map(math.isfinite, values.values())):
            ids = gather(self.fabric, batch.ids)
            check_finite(values, f"step {self.step}, batch {', '.join(ids)}", self.folder)
        return values

    def _check_weights(self, batch: Batch) -> None:
        """Refuse weights that the last step spoiled: its loss was of those before. One process suffices, for
        all have the same."""
        if self.fabric.global_rank == 0:
            self.model.eval()
            with composed():
                found = evaluate(self.model, self.model.tasks, [batch], self.fabric.device, losses=True)
            check_finite(found.losses, f"step {self.step}, after its update", self.folder)

    def _end_epoch(self) -> None:
        epoch = self.step // self.epoch_steps
        record: dict[str, object] = {
            "step": self.step,
            "epoch": epoch,
            "lr": self.optimizer.param_groups[0]["lr"],
            "elapsed_s": round(self.elapsed_s, 3),
            "wait_share": round(self._epoch.waited_s / self._epoch.spent_s, 4),
            "losses": self._epoch.means(),
        }
        if epoch % self.spec.evaluate_every == 0 or self.step == self.steps:
            self._last = found = self._evaluate()
            check_finite(found.losses, f"step {self.step}, validation", self.folder)
            record |= {"validation_losses": found.losses, "validation": found.scores}
            self._tell(self._epoch.means(), found.scores)
            total = sum(found.losses.values())
            if self.splits.select and total < self.best:
                self.best = total
                self._save_weights(BEST)
        if self.fabric.global_rank == 0:
            self.log.append(record)
        self.balancer.end_epoch(self._epoch.means())
        self._epoch = Epoch()

    def _evaluate(self) -> Evaluation:
        rank, world = self.fabric.global_rank, self.fabric.world_size
        self.model.eval()
        with self._averaged(), torch.no_grad(), composed():
            return evaluate(
                self.model,
                self.model.tasks,
                eval_batches(self.splits.validation, batch=self.spec.batch, rank=rank, world=world),
                self.fabric.device,
                self._add_up,
                losses=True,
            )

    def _save_weights(self, name: str) -> None:
        """The weights that count: averaged, where the recipe averages."""
        if self.fabric.global_rank == 0:
            state = self.average.state if self.average else self.model.state_dict()
            write_tensors(state, self.folder / name)

    def _averaged(self) -> AbstractContextManager[None]:
        return self.average.applied(self.model) if self.average else nullcontext()

    def _tell(self, losses: Mapping[str, float], scores: Scores | None = None) -> None:
        if self.observer:
            rate = self.optimizer.param_groups[0]["lr"]
            epoch = -(-self.step // self.epoch_steps)
            self.observer(
                Progress(self.step, self.steps, epoch, self.spec.epochs, self.elapsed_s, rate, losses, scores)
            )
