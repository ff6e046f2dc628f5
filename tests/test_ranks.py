"""The processes of one run: how the one that started them learns that they have ended."""

import os
from multiprocessing.process import BaseProcess

import pytest

from resnet_repro import worker
from resnet_repro.worker import IN_USE


class Ending(BaseProcess):
    """A process as multiprocessing has them, whose exit code is there some looks after its sentinel says it ends."""

    def __init__(self, *, exitcode: int | None, looks: int = 0) -> None:
        self._ready, self._end = os.pipe()
        self._code, self._looks = exitcode, looks
        if exitcode is not None:
            os.close(self._end)

    @property
    def sentinel(self) -> int:
        return self._ready

    @property
    def exitcode(self) -> int | None:
        self._looks -= 1
        return None if self._looks >= 0 else self._code

    def kill(self) -> None:
        if self._code is None:
            self._code = -9
            os.close(self._end)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("looks", range(5))
def test_a_rank_whose_exit_code_comes_late_ends_the_others_all_the_same(
    looks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "GRACE_S", 0.1)
    processes: list[BaseProcess] = [Ending(exitcode=IN_USE, looks=looks), Ending(exitcode=None)]
    assert worker._wait_for(processes) == (0, IN_USE)
    assert processes[1].exitcode == -9


@pytest.mark.timeout(20)
@pytest.mark.parametrize("looks", range(3))
def test_the_rank_that_was_killed_is_the_one_that_is_told(looks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "GRACE_S", 0.1)
    processes: list[BaseProcess] = [Ending(exitcode=1), Ending(exitcode=-9)]
    assert worker._wait_for(processes) == (1, -9)
    done: list[BaseProcess] = [Ending(exitcode=0, looks=looks), Ending(exitcode=0)]
    assert worker._wait_for(done) == (0, 0)
