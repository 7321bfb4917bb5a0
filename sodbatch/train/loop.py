"""The training of one worker, from its first step or a checkpoint to the last; all workers run it side by side.

Mixed precision, on GPUs, is untested on hardware; the calls are those that Paddle documents.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import paddle
from numpy.typing import NDArray

from sodbatch.config import Config
from sodbatch.errors import JobError
from sodbatch.evaluate.figures import Figures, GroundTruth
from sodbatch.fetch import Fetcher
from sodbatch.model.export import read_weights
from sodbatch.model.network import SODNetwork
from sodbatch.model.spec import NetworkSpec
from sodbatch.model.weights import load_matching, load_state
from sodbatch.storage import Storage, display_uri
from sodbatch.train import checkpoint
from sodbatch.train.assign import Truth
from sodbatch.train.average import WeightAverage
from sodbatch.train.batches import Batch, Order, Reader
from sodbatch.train.checkpoint import BEST, FINAL, Checkpoint, Standing
from sodbatch.train.examples import ExampleReader, Examples
from sodbatch.train.group import Group
from sodbatch.train.journal import Journal
from sodbatch.train.losses import Losses, anchors_for, detection_losses
from sodbatch.train.schedule import learning_rate, scaled_rate
from sodbatch.train.validate import validate

MOMENTUM, WEIGHT_DECAY = 0.9, 5e-4
"""Weight decay is L2; parameters of batch normalisations are free of it."""

LEAST_READERS = 2
"""Pictures that a worker reads at a time, also where it computes with one thread."""

MIXED: dict[str, Literal["O0", "O1", "O2"]] = {"OFF": "O0", "O1": "O1", "O2": "O2"}
"""Paddle's levels of mixed precision, by ``Train.amp``."""

SHOWN_NAMES = 8
"""Names of weights that were not loaded that one line shows."""


@dataclass(frozen=True, eq=False)
class Plan:
    """All that a worker needs to know; it travels to other machines.

    Attributes:
        config: Of the job.
        spec: The network, with the data set's classes.
        train: What is learned.
        val: What is evaluated.
        truth: What there is to find in it.
        settings: Fingerprint of what must not change in a training that goes on.
        resume: Path without suffix of the checkpoint that it goes on from; None begins anew.
        batch_size: Pictures that each worker takes in a step.
        threads: That each worker computes with, and reads pictures with.
    """

    config: Config
    spec: NetworkSpec
    train: Examples
    val: Examples
    truth: GroundTruth
    settings: str
    resume: str | None
    batch_size: int
    threads: int


def train(plan: Plan, say: Callable[[str], None]) -> None:
    """Train; the worker of rank 0 evaluates, writes and says everything.

    Raises:
        JobError: The losses are no numbers any more, or a picture could no longer be read.
        UsageError: A checkpoint or weights that cannot be read.
    """
    paddle.base.core.set_num_threads(plan.threads)
    _Training(plan, Group(), say).run()


class _Training:
    def __init__(self, plan: Plan, group: Group, say: Callable[[str], None]) -> None:
        self.plan = plan
        self.group = group
        self.section = plan.config.Train
        self.readers = max(LEAST_READERS, plan.threads)
        self.storage = Storage(plan.config.S3, plan.config.Fetch)
        self.output = plan.config.Global.output
        self.order = Order(
            pictures=len(plan.train),
            batch_size=plan.batch_size,
            workers=group.size,
            sides=plan.spec.train_sides,
            expand=plan.spec.train_expand,
            seed=self.section.seed,
        )
        self.rate = scaled_rate(self.section.learning_rate, self.order.global_batch, plan.spec.reference_batch)
        self.total_steps = self.section.epochs_iters * self.order.steps_per_epoch
        paddle.seed(self.section.seed)  # all workers begin with the same weights
        self.network = SODNetwork(plan.spec)
        old, first_lines = self._initial()
        batch, labels = self.order.global_batch, plan.spec.labels
        self.standing = old.standing if old else Standing(0, -1.0, -1.0, 0, 0, 0.0, batch, labels, plan.settings)
        if old and old.standing.global_batch != batch:
            first_lines.append(f"it had {old.standing.global_batch} pictures a step, and goes on with {batch}")
        if old and not self.storage.exists(f"{self.output}/{BEST}/{BEST}.pdstates"):  # it is of another output
            self.standing = replace(self.standing, best_metric=-1.0, best_epoch=0)
        lead = group.rank == 0
        self.journal = Journal(self.output, self.storage, say, self.standing.epoch) if lead else None
        self.average = WeightAverage(self.network)
        if old:
            self.average.restore(old.averaged, old.standing.average_steps, old.standing.average_mass)
        self.optimizer = paddle.optimizer.Momentum(
            learning_rate=self.rate,
            momentum=MOMENTUM,
            parameters=[parameter for parameter in self.network.parameters() if not parameter.stop_gradient],
            weight_decay=paddle.regularizer.L2Decay(WEIGHT_DECAY),
        )
        if old:
            self._restore_velocities(old)
        logits: paddle.nn.Layer = _Logits(self.network)
        if self.section.amp == "O2":
            logits, _ = paddle.amp.decorate(logits, self.optimizer, level="O2", save_dtype="float32")
        self.level = MIXED[self.section.amp]
        self.scaler = paddle.amp.GradScaler(enable=self.level != "O0")
        self.called = group.together(logits)
        self._say_first(first_lines)

    def _initial(self) -> tuple[Checkpoint | None, list[str]]:
        """Load the weights to begin with."""
        if self.plan.resume is not None:
            old = checkpoint.read(self.plan.resume, self.storage)
            load_state(self.network, old.live)
            return old, [f"goes on from {display_uri(self.plan.resume)}, {old.standing.epoch} epochs done"]
        path = self.section.pretrain_weight_path
        if path is None:
            return None, ["no pretrained weights: the network begins from random ones"]
        loaded = load_matching(self.network, read_weights(path, self.storage))
        lines = [f"pretrained weights from {display_uri(path)}"]
        for reason, names in (
            ("of another shape, which begin anew", loaded.misshapen),
            ("not in the file, which begin anew", loaded.missing),
            ("only in the file, which are not used", loaded.surplus),
        ):
            if names:
                more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
                lines.append(f"{len(names)} names {reason}: {', '.join(names[:SHOWN_NAMES])}{more}")
        return None, lines

    def _say_first(self, lines: list[str]) -> None:
        order, spec = self.order, self.plan.spec
        for line in (
            f"{spec.name}, {spec.num_classes} classes; {order.pictures:,} pictures, {order.global_batch} a step of "
            f"{order.workers} workers, {order.steps_per_epoch:,} steps an epoch, {self.section.epochs_iters} epochs",
            f"learning rate {self.rate:g}: Train.learning_rate {self.section.learning_rate:g} x {order.global_batch} "
            f"pictures a step / {spec.reference_batch}",
            *lines,
        ):
            self._say(line)

    def _say(self, line: str) -> None:
        if self.journal is not None:
            self.journal.say(line)

    def run(self) -> None:
        plan = self.plan
        fetcher = Fetcher(self.storage, plan.config.Fetch, plan.config.Limits)
        read = ExampleReader(plan.train, fetcher, plan.config.Limits)
        reader = Reader(read, self.order, self.group.rank, self.readers)
        try:
            for epoch in range(self.standing.epoch, self.section.epochs_iters):
                self._epoch(epoch, reader)
                self.group.lead(partial(self._close_epoch, epoch))
        finally:
            reader.close()

    def _epoch(self, epoch: int, reader: Reader) -> None:
        paddle.seed((self.section.seed + 1_000_003 * epoch + 1_009 * self.group.rank) % 2**31)  # of the dropout
        self.network.train()
        static = epoch < self.section.static_assigner_epochs
        steps = self.order.steps_per_epoch
        pending: list[tuple[int, float, Losses]] = []
        started, waited, since = time.monotonic(), reader.waited_s, 0
        for step, batch in enumerate(reader.epoch(epoch)):
            at = epoch * steps + step
            rate = learning_rate(at, self.rate, self.section.warmup_steps, self.total_steps)
            pending.append((at, rate, self._step(batch, rate, static)))
            if (step + 1) % self.section.log_interval == 0 or step == steps - 1:
                mean = self._log(epoch, pending)[-1]
                seconds = time.monotonic() - started
                done = step + 1 - since
                share = (reader.waited_s - waited) / max(seconds, 1e-9)
                self._say_progress(epoch, step, rate, mean, seconds / done, share)
                started, waited, since, pending = time.monotonic(), reader.waited_s, step + 1, []

    def _step(self, batch: Batch, rate: float, static: bool) -> Losses:
        images = paddle.to_tensor(batch.images).astype("float32") / 255.0
        truth = Truth(*(paddle.to_tensor(each) for each in (batch.labels, batch.boxes, batch.real)))
        anchors = anchors_for(*batch.images.shape[2:])
        with paddle.amp.auto_cast(enable=self.level != "O0", level=self.level):
            levels = self.called(images)
        losses = detection_losses(
            levels,
            truth,
            anchors,
            self.plan.spec.reg_range[0],
            static=static,
            total=self.group.total,
            workers=self.group.size,
        )
        self.optimizer.set_lr(rate)
        self.scaler.scale(losses.total).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.clear_grad()
        self.average.update()
        return losses

    def _log(self, epoch: int, steps: list[tuple[int, float, Losses]]) -> NDArray[np.float32]:
        """Keep the losses of some steps, as the mean of all workers; returns them [steps, 4]."""
        parts = [paddle.stack([each.total, each.classes, each.iou, each.dfl]) for _, _, each in steps]
        means = (self.group.total(paddle.stack(parts).detach()) / self.group.size).numpy()
        if not np.isfinite(means).all():
            at = steps[int(np.flatnonzero(~np.isfinite(means).all(axis=1))[0])][0]
            raise JobError(
                f"the loss of step {at} is no number any more; the last checkpoint stays. A lower Train.learning_rate "
                "or more Train.warmup_steps may help"
            )
        if self.journal is None:
            return means
        for (at, rate, _), row in zip(steps, means.tolist(), strict=True):
            names = ("loss", "loss_cls", "loss_iou", "loss_dfl")
            self.journal.add_loss(step=at, epoch=epoch, learning_rate=rate, **dict(zip(names, row, strict=True)))
        return means

    def _say_progress(
        self, epoch: int, step: int, rate: float, mean: NDArray[np.float32], seconds: float, waited: float
    ) -> None:
        done = epoch * self.order.steps_per_epoch + step + 1
        total, classes, iou, dfl = mean.tolist()
        self._say(
            f"epoch {epoch + 1}/{self.section.epochs_iters}, step {step + 1}/{self.order.steps_per_epoch}: "
            f"learning_rate {rate:.6f}, loss {total:.4f} (cls {classes:.4f}, iou {iou:.4f}, dfl {dfl:.4f}), "
            f"{self.order.global_batch / seconds:.2f} pictures/s, {waited:.0%} of the time waiting for data, "
            f"{_duration((self.total_steps - done) * seconds)} left"
        )

    def _close_epoch(self, epoch: int) -> None:
        """Evaluate, write the checkpoint and the journal; the lead alone does."""
        journal = self.journal
        if journal is None:
            raise RuntimeError("only the first worker keeps the journal")
        done = epoch + 1
        last = done == self.section.epochs_iters
        averaged = self.average.state()
        metric = -1.0
        if done % self.section.eval_interval == 0 or last:
            figures = self._evaluate(averaged)
            metric = figures.coco["AP"]
            journal.add_evaluation(
                epoch=done, step=done * self.order.steps_per_epoch, AP=metric, AP50=figures.coco["AP50"]
            )
        best = metric >= max(self.standing.best_metric, 0.0)
        self.standing = Standing(
            done,
            metric,
            metric if best else self.standing.best_metric,
            done if best else self.standing.best_epoch,
            self.average.steps,
            self.average.mass,
            self.order.global_batch,
            self.plan.spec.labels,
            self.plan.settings,
        )
        names = {id(parameter): name for name, parameter in self.network.named_parameters()}
        live = {name: value.numpy() for name, value in self.network.state_dict().items()}
        written = Checkpoint(averaged, live, self._velocities(names), self.standing)
        if metric >= 0:
            self._say(
                f"epoch {done}: AP {metric:.4f}, AP50 {figures.coco['AP50']:.4f} on val; "
                f"best {self.standing.best_metric:.4f} after epoch {self.standing.best_epoch}"
            )
        journal.write()
        if best:
            checkpoint.save(written, self.output, BEST, self.storage)
        checkpoint.save(written, self.output, FINAL if last else str(epoch), self.storage)
        checkpoint.prune(self.output, self.storage)

    def _evaluate(self, averaged: dict[str, np.ndarray]) -> Figures:
        fetcher = Fetcher(self.storage, self.plan.config.Fetch, self.plan.config.Limits)
        read = ExampleReader(self.plan.val, fetcher, self.plan.config.Limits)
        return validate(self.plan.spec, averaged, self.plan.truth, read, self.readers)

    def _velocities(self, names: dict[int, str]) -> dict[str, np.ndarray]:
        accumulated = self.optimizer._accumulators["velocity"]
        return {
            names[id(parameter)]: accumulated[parameter.name].numpy()
            for parameter in self.network.parameters()
            if parameter.name in accumulated
        }

    def _restore_velocities(self, old: Checkpoint) -> None:
        state = {f"{parameter.name}_velocity_0": old.velocities[name]
                 for name, parameter in self.network.named_parameters() if name in old.velocities}  # fmt: skip
        self.optimizer.set_state_dict({name: paddle.to_tensor(value) for name, value in state.items()})


class _Logits(paddle.nn.Layer):
    """The network called for its logits, so that what wraps it for several workers sees one call."""

    def __init__(self, network: SODNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: paddle.Tensor) -> list[tuple[paddle.Tensor, paddle.Tensor]]:
        return self.network.logits(image)


def _duration(seconds: float) -> str:
    minutes, hours = divmod(int(seconds) // 60, 60)[::-1]
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{int(seconds)} s"
