"""The learning rate as a function of the step; no optimiser and no state inside."""

import math
from bisect import bisect_right
from typing import NamedTuple

from resnet_repro.runs.options import Hardware, Schedule


def scaled(protocol_step: float, *, steps: int, protocol_steps: int) -> int:
    """Where a step of the published recipe falls in a run of another length."""
    return round(protocol_step * steps / protocol_steps)


def in_warmup(step: int, schedule: Schedule, *, warmup_ended_at: int | None) -> bool:
    """Whether the update after `step` finished ones still belongs to the warm-up.

    A warm-up of v2 lasts a number of steps [v2 Appendix]; one of v1 lasts until the training error has fallen below a
    threshold, which `warmup_ended_at` tells: the step at which it was seen, None before. [v1 Sec. 4.2]
    """
    warmup = schedule.warmup
    if not warmup:
        return False
    if warmup.steps is not None:
        return step < scaled(warmup.steps, steps=schedule.steps, protocol_steps=schedule.protocol_steps)
    return warmup_ended_at is None or step < warmup_ended_at


class Plateau(NamedTuple):
    """How often a rate that falls when the error plateaus has fallen, and what decides when it falls next.

    [v1 Sec. 3.4: "divided by 10 when the error plateaus"; open: when it does. Here as PyTorch's ReduceLROnPlateau: when
    more than `patience` evaluations on end were no better than the best by a share of `threshold`]
    """

    best: float = math.inf
    num_worse: int = 0
    num_drops: int = 0

    def after(self, error: float, *, patience: int, threshold: float) -> "Plateau":
        """With an evaluation more."""
        if error < self.best * (1 - threshold):
            return Plateau(error, 0, self.num_drops)
        if self.num_worse < patience:
            return self._replace(num_worse=self.num_worse + 1)
        return Plateau(self.best, 0, self.num_drops + 1)


WARMUP_JUDGED_EVERY = 100
"""Steps of v1's warm-up that "the training error" is measured over. [open: v1 does not say; these are 12,800 images]"""
MOST_AT_ONCE = 100
"""Steps after which a run at least looks whether it is asked to stop."""


def steps_at_once(schedule: Schedule, hardware: Hardware) -> int:
    """Steps that are taken in a row, with nothing due between them; 1 where each is Lightning's own.

    Due are rows of numbers, evaluations, checkpoints that do not go by the clock, looks at the warm-up's error.
    """
    if not hardware.graph:
        return 1
    due = [schedule.steps, log_every(schedule), eval_every(schedule)]
    if hardware.checkpoint_steps:
        due.append(hardware.checkpoint_steps)
    if schedule.warmup and schedule.warmup.until_error is not None:
        due.append(WARMUP_JUDGED_EVERY)
    common = math.gcd(*due)
    return max(number for number in range(1, MOST_AT_ONCE + 1) if common % number == 0)


def learning_rate(step: int, schedule: Schedule, *, warmup_ended_at: int | None = None, num_drops: int = 0) -> float:
    """Rate of the update that follows `step` finished ones, 0 <= step < steps.

    The base rate, divided by 10 at every milestone [v1 Sec. 4.2], at every plateau of the error, of which there were
    `num_drops`, or falling to 0 as half a cosine; the warm-up's rate while it lasts. Milestones and cosine count from
    the start of training, warm-up included.
    [open: v1 says only "then go back to 0.1 and continue training"]
    """
    if in_warmup(step, schedule, warmup_ended_at=warmup_ended_at):
        assert schedule.warmup is not None
        return float(schedule.warmup.lr)
    if schedule.shape == "cosine":
        return float(schedule.lr * 0.5 * (1 + math.cos(math.pi * step / schedule.steps)))
    if schedule.shape == "steps":
        drops = [scaled(m, steps=schedule.steps, protocol_steps=schedule.protocol_steps) for m in schedule.milestones]
        num_drops = bisect_right(drops, step)
    return float(schedule.lr * 0.1**num_drops)


def last_rate(schedule: Schedule) -> float:
    """Rate of a run's last update: the one at which a run that begins with its weights trains on, all the time."""
    return learning_rate(schedule.steps - 1, schedule.but(warmup=None))


def log_every(schedule: Schedule) -> int:
    """Steps between two rows of numbers: as the config says, but at least 20 rows a run, to see a curve."""
    return max(1, min(schedule.log_every, schedule.steps // 20))


def eval_every(schedule: Schedule) -> int:
    """Steps between two evaluations: as the config says, but at least 5 a run."""
    return max(1, min(schedule.eval_every, schedule.steps // 5))
