"""The learning rate of every step, as in the papers."""

import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from resnet_repro.runs.options import Warmup
from resnet_repro.training.hardware import settle
from resnet_repro.training.schedule import Plateau, eval_every, learning_rate, log_every, scaled, steps_at_once
from tests.helpers.runs import resolved

RECIPE = resolved("data=cifar10").schedule
V2 = resolved("arch=resnet_v2").schedule
V1_110 = resolved("arch=resnet_v1", "depth=110").schedule


@pytest.mark.parametrize(
    ("step", "rate"), [(0, 0.1), (31_999, 0.1), (32_000, 0.01), (47_999, 0.01), (48_000, 0.001), (63_999, 0.001)]
)
def test_rate_is_divided_by_10_after_32k_and_48k_finished_steps(step: int, rate: float) -> None:
    assert learning_rate(step, RECIPE) == pytest.approx(rate, rel=1e-12)


def test_warmup_of_v2_lasts_400_steps() -> None:
    assert [learning_rate(step, V2) for step in range(400)] == [0.01] * 400
    after = [*range(400, 64_000, 100), 31_999, 32_000, 47_999, 48_000, 63_999]
    assert [learning_rate(step, V2) for step in after] == [learning_rate(step, RECIPE) for step in after]
    assert learning_rate(400, V2) == learning_rate(31_999, V2) == 0.1


def test_warmup_of_v1_lasts_until_the_error_is_low() -> None:
    assert learning_rate(5_000, V1_110, warmup_ended_at=None) == 0.01
    assert learning_rate(399, V1_110, warmup_ended_at=400) == 0.01
    assert learning_rate(400, V1_110, warmup_ended_at=400) == 0.1
    assert learning_rate(32_000, V1_110, warmup_ended_at=400) == pytest.approx(0.01)


def test_cosine_falls_from_the_base_rate_to_0_at_any_length() -> None:
    for steps in (400, 64_000):
        cosine = RECIPE.but(shape="cosine", steps=steps)
        assert learning_rate(0, cosine) == 0.1
        assert learning_rate(steps // 2, cosine) == pytest.approx(0.05)
        assert learning_rate(steps - 1, cosine) == pytest.approx(0, abs=1e-5)


def test_a_shorter_run_has_the_same_shape() -> None:
    short = V2.but(steps=640)
    assert [learning_rate(step, short) for step in range(640)] == pytest.approx(
        [learning_rate(step * 100, V2) for step in range(640)]
    )
    assert scaled(400, steps=640, protocol_steps=64_000) == 4


def test_a_short_run_has_enough_rows_for_a_curve() -> None:
    recipe = RECIPE.but(log_every=100, eval_every=400)
    assert (log_every(recipe), eval_every(recipe)) == (100, 400)
    short = recipe.but(steps=400)
    assert (log_every(short), eval_every(short)) == (20, 80)
    assert (log_every(recipe.but(steps=1)), eval_every(recipe.but(steps=1))) == (1, 1)


def test_plateaus_equal_pytorchs() -> None:
    generator = torch.Generator().manual_seed(0)
    for patience, threshold in ((0, 0.0), (2, 0.01), (5, 0.1)):
        optimiser = torch.optim.SGD([torch.zeros(1)], lr=0.1)
        reference = ReduceLROnPlateau(optimiser, factor=0.1, patience=patience, threshold=threshold, eps=0)
        plateau = Plateau()
        for step in range(60):
            error = 50.0 / (1 + step) + float(torch.rand((), generator=generator))
            reference.step(error)
            plateau = plateau.after(error, patience=patience, threshold=threshold)
            rate = learning_rate(step, RECIPE.but(shape="plateau"), num_drops=plateau.num_drops)
            assert rate == pytest.approx(optimiser.param_groups[0]["lr"])
        assert plateau.num_drops > 0


@pytest.mark.parametrize(
    ("steps", "warmup", "checkpoint_steps", "expected"),
    [
        (64_000, None, None, 100),
        (64_000, V1_110.warmup, None, 100),
        (64_000, None, 250, 50),
        (1_000, None, None, 50),  # rows come every 50 steps
        (400, V1_110.warmup, None, 20),
        (390, None, None, 1),  # rows come every 19 steps
        (1, None, None, 1),
    ],
)
def test_nothing_is_due_between_steps_taken_at_once(
    steps: int, warmup: Warmup | None, checkpoint_steps: int | None, expected: int
) -> None:
    schedule = RECIPE.but(steps=steps, warmup=warmup, log_every=100, eval_every=400)
    hardware = settle(resolved().hardware.but(checkpoint_steps=checkpoint_steps)).but(graph=True)
    assert steps_at_once(schedule, hardware) == expected
    assert steps_at_once(schedule, hardware.but(graph=False)) == 1
    rows = range(steps, 0, -log_every(schedule))
    evaluations, checkpoints = (range(0, steps, every) for every in (eval_every(schedule), checkpoint_steps or steps))
    assert not any(step % expected for step in (*rows, *evaluations, *checkpoints))
