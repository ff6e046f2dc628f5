"""The learning rate as a function of the step, without an optimiser or state."""

import math
from bisect import bisect_right
from typing import NamedTuple

from resnet_repro.runs.options import Schedule, SettledHardware


def scaled(protocol_step: float, *, steps: int, protocol_steps: int) -> int:
    """Return the step of a run that corresponds to a step of the published recipe, which may be longer or shorter."""
    return round(protocol_step * steps / protocol_steps)


def in_warmup(step: int, schedule: Schedule, *, warmup_ended_at: int | None) -> bool:
    """Return whether the update after `step` finished updates belongs to the warm-up.

    v2's warm-up lasts a number of steps [v2 Appendix]. v1's lasts until the training error is below a threshold.
    [v1 Sec. 4.2]

    Args:
        warmup_ended_at: the step at which the error was seen below v1's threshold; None before.
    """
    warmup = schedule.warmup
    if not warmup:
        return False
    if warmup.steps is not None:
        return step < scaled(warmup.steps, steps=schedule.steps, protocol_steps=schedule.protocol_steps)
    return warmup_ended_at is None or step < warmup_ended_at


class Plateau(NamedTuple):
    """How often the rate has dropped at a plateau of the error, and the state that decides the next drop.

    [v1 Sec. 3.4: "divided by 10 when the error plateaus"; open: when it does. Here as PyTorch's ReduceLROnPlateau: when
    more than `patience` evaluations on end were no better than the best by a share of `threshold`]
    """

    best: float = math.inf
    num_worse: int = 0
    num_drops: int = 0

    def after(self, error: float, *, patience: int, threshold: float) -> "Plateau":
        """Return the state after one more evaluation."""
        if error < self.best * (1 - threshold):
            return Plateau(error, 0, self.num_drops)
        if self.num_worse < patience:
            return self._replace(num_worse=self.num_worse + 1)
        return Plateau(self.best, 0, self.num_drops + 1)


WARMUP_JUDGED_EVERY = 100
"""v1's warm-up measures "the training error" over this many steps. [open: v1 does not say; these are 12,800 images]"""
MOST_AT_ONCE = 100
"""A run looks at least this often, in steps, whether it is asked to stop."""


def steps_at_once(schedule: Schedule, hardware: SettledHardware) -> int:
    """Return how many steps to take in a row as CUDA graphs; 1 if Lightning takes every step.

    Nothing may be due in between: no row of numbers, evaluation, checkpoint by steps or look at the warm-up's error.
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
    """Return the rate of the update after `step` finished updates, 0 <= step < steps.

    During a warm-up, this is the warm-up's rate. Otherwise the base rate is divided by 10 at every milestone
    [v1 Sec. 4.2] or at every plateau of the error (`num_drops` so far), or falls to 0 as half a cosine. Milestones and
    cosine count from the start of training, warm-up included.
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
    """Return the rate of a run's last update. A run that begins with another run's weights trains at this rate only."""
    return learning_rate(schedule.steps - 1, schedule.but(warmup=None))


def log_every(schedule: Schedule) -> int:
    """Return the steps between two rows: as the config says, but at least 20 rows a run, enough for a curve."""
    return max(1, min(schedule.log_every, schedule.steps // 20))


def eval_every(schedule: Schedule) -> int:
    """Return the steps between two evaluations: as the config says, but at least 5 evaluations a run."""
    return max(1, min(schedule.eval_every, schedule.steps // 5))
