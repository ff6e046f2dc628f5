"""What several test files need."""

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from rich.console import Console

from docs.readme import Summary, summaries
from resnet_repro.machine import STOP_SIGNALS
from tests.helpers.browser import Browser, browser
from tests.helpers.s3_server import S3Server
from tests.helpers.wandb_server import WandbServer

UNPACK = Path(__file__).parents[2] / "shared" / "data" / "unpack_cifar10.py"


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    """A run sets handlers of its own."""
    handlers = {s: signal.getsignal(s) for s in STOP_SIGNALS}
    yield
    for signum, handler in handlers.items():
        signal.signal(signum, handler)


@pytest.fixture(scope="session")
def cifar10_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the real `cifar-10-batches-bin`, whole: five training files and the test file."""
    if not UNPACK.exists():
        pytest.skip("the real CIFAR-10 is not beside the checkout")
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    root, unfinished = shared / "cifar10", shared / "cifar10.unfinished"
    with FileLock(shared / "cifar10.lock"):  # the first worker unpacks it for all
        if not root.exists():
            subprocess.run([sys.executable, UNPACK, unfinished], check=True, stdout=subprocess.DEVNULL)
            unfinished.rename(root)
    return root


@pytest.fixture(scope="session")
def part_of_cifar10(cifar10_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the real training files and, under another name, the first 1,000 test images."""
    whole, root = cifar10_root / "cifar-10-batches-bin", tmp_path_factory.mktemp("part_of_cifar10")
    (root / whole.name).mkdir()
    for file in whole.glob("data_batch_*.bin"):
        (root / whole.name / file.name).symlink_to(file)
    first = (whole / "test_batch.bin").read_bytes()[: 1000 * (1 + 3 * 32 * 32)]
    (root / whole.name / "test_batch_first1000.bin").write_bytes(first)
    return root


@pytest.fixture
def wandb_server() -> Iterator[Callable[..., WandbServer]]:
    """Starts a stand-in for W&B's server."""
    started: list[WandbServer] = []

    def call(*, port: int = 0) -> WandbServer:
        started.append(WandbServer(port=port))
        return started[-1]

    yield call
    for server in started:
        server.stop()


@pytest.fixture(scope="session")
def s3_running() -> Iterator[S3Server]:
    """A stand-in for S3."""
    server = S3Server()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def packed_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of shards."""
    from tests.helpers.photo_files import make_tree  # not above, as in `no_compiler`
    from tests.helpers.shards import NUM, packed

    folder = tmp_path_factory.mktemp("packed")
    return packed(make_tree(folder / "photos", num=NUM // 2), folder / "packed")


@pytest.fixture(scope="session")
def bucket(s3_running: S3Server, packed_photos: Path) -> str:
    """The address of `packed_photos` in the stand-in for S3; `s3_server` logs in there."""
    return s3_running.put(packed_photos, "some/where")


@pytest.fixture
def s3_server(s3_running: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The stand-in, for whoever has this process's environment to log in with."""
    from resnet_repro.data import shards  # not above, as below

    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in s3_running.variables.items():
        monkeypatch.setenv(name, value)
    shards.count.cache_clear()
    return s3_running


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Of a real browser."""
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of runs in every state that a row of the papers may be in, and on every data set but ImageNet."""
    from resnet_repro.report import report  # not above, as in `no_compiler`
    from tests.helpers.synthetic_runs import write_every_state

    outputs = write_every_state(tmp_path_factory.mktemp("report") / "outputs")
    return report.write(outputs, Console(file=io.StringIO(), width=120))


@pytest.fixture
def opened(tab: Browser, page: Path) -> Browser:
    """The page on a wide screen, everything shown."""
    tab.size(1200)
    return tab.open("about:blank").open(page.as_uri())


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A PATH that is an empty folder, tmp_path, and nothing compiled before."""
    from resnet_repro.networks import (
        fused,  # not above: only what is imported after pytest has begun has its types checked
    )

    fused.kernels.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    yield
    fused.kernels.cache_clear()


@pytest.fixture(scope="session")
def papers() -> dict[str, Summary]:
    """Every table and figure of the papers with the jobs that it composes to, by its word: `v1_table6`."""
    return {summary.rows[0].experiment: summary for summary in summaries()}
