"""Shards in a bucket: the same run as from a folder, on little disk, over a bad line; one line where it cannot be."""

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from resnet_repro.callbacks import Checkpoint, Stopped
from resnet_repro.data import shards
from resnet_repro.data.shards import AtHand, read_index
from resnet_repro.data.storage import NUM_REQUESTS, at
from resnet_repro.data.streaming import PackedFiles, StreamedSource
from resnet_repro.errors import UserError
from resnet_repro.run import run
from resnet_repro.rundir import read_json
from tests import commands
from tests.photo_files import MINI, make_tree, needs_mini
from tests.photo_runs import run_rank
from tests.runs import interrupt_at
from tests.s3_server import BadLine, S3Server
from tests.test_ddp import in_ranks
from tests.test_pack import packed
from tests.test_streaming import NUM, batches, prepared, source

SHORT = ("schedule.steps=9", "schedule.batch_size=4", "schedule.eval_every=3")


@pytest.fixture(scope="module")
def running() -> Iterator[S3Server]:
    server = S3Server()
    yield server
    server.stop()


@pytest.fixture
def server(running: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in running.variables.items():
        monkeypatch.setenv(name, value)
    shards.count.cache_clear()
    return running


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("buckets")
    return packed(make_tree(folder / "photos", num=NUM // 2), folder / "packed")


@pytest.fixture(scope="module")
def url(running: S3Server, root: Path) -> str:
    return running.put(root, "some/where")


def smallest_cache(url: str, *options: str, outputs: Path) -> str:
    """The option that a run with none is told to use."""
    with pytest.raises(UserError, match=r"data\.cache_gb=0 holds too few of s3://") as error:
        run(prepared(outputs, url, *options, "data.cache_gb=0"))
    return "data.cache_gb=" + str(error.value).split("give at least ")[1].split(",")[0]


# --- runs -------------------------------------------------------------------------------------------------------------


def test_a_run_from_a_bucket_equals_the_one_from_a_folder_bitwise(
    server: S3Server, root: Path, url: str, tmp_path: Path
) -> None:
    here, there = (run(prepared(tmp_path / name, where, *SHORT)) for name, where in (("here", root), ("there", url)))
    assert here["weights_sha256"] == there["weights_sha256"]
    assert here["results"] == there["results"]


@pytest.mark.slow
def test_a_run_goes_on_from_a_bucket_where_it_stopped_with_a_folder(
    server: S3Server, root: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(prepared(tmp_path / "whole", root, *SHORT))
    path = prepared(tmp_path / "again", root, *SHORT)
    with monkeypatch.context() as patch:
        interrupt_at(7, patch)
        with pytest.raises(Stopped, match="stopped at step 7"):
            run(path)
    again = run(prepared(tmp_path / "again", url, *SHORT))
    assert again["weights_sha256"] == whole["weights_sha256"]


@needs_mini
@pytest.mark.slow
def test_two_ranks_train_from_a_bucket_what_they_train_from_a_folder(server: S3Server, tmp_path: Path) -> None:
    mini = packed(MINI, tmp_path / "packed", shard_mb=0.3)
    options = ("schedule.steps=42", "hardware.devices=2", "hardware.accelerator=cpu", "data.shuffle=100")
    weights = []
    for name, where in (("here", mini), ("there", server.put(mini, "mini"))):
        path = prepared(tmp_path / name, where, *options)
        in_ranks(2, run_rank, path)
        weights.append(read_json(path / "manifest.json")["weights_sha256"])
    assert len(set(weights)) == 1


def test_a_run_whose_bucket_goes_out_of_reach_ends_in_one_line_and_goes_on_bit_for_bit(
    server: S3Server, root: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = (*SHORT, "data.shuffle=2", "hardware.checkpoint_steps=2")
    options += (smallest_cache(url, *options, outputs=tmp_path / "refused"),)
    whole = run(prepared(tmp_path / "whole", root, *options))
    line = BadLine(server.url)
    path = prepared(tmp_path / "again", url, *options)
    on_batch_end = Checkpoint.on_train_batch_end

    def cut(self: Checkpoint, trainer, *arguments) -> None:
        on_batch_end(self, trainer, *arguments)
        line.is_down = trainer.global_step >= 4

    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", line.url)
        patch.setenv("AWS_MAX_ATTEMPTS", "1")
        patch.setattr(Checkpoint, "on_train_batch_end", cut)
        with pytest.raises(UserError, match="out of reach"):
            run(path)
    again = run(path)
    assert again["weights_sha256"] == whole["weights_sha256"]


# --- copies -----------------------------------------------------------------------------------------------------------


def epoch(found: StreamedSource) -> list[torch.Tensor]:
    return [y for _, y in batches(found, num_steps=5)]


def test_an_epoch_copies_each_shard_once_and_keeps_no_more_than_it_may(server: S3Server, url: str) -> None:
    """With room for two windows, which is what a run has to have."""
    found = source(url, window=2, cache_gb=1)
    files = found.photos.paths
    assert isinstance(files, PackedFiles)
    at_hand = files.shards
    at_hand.num_kept = 8
    for _ in batches(found, num_steps=5):
        assert len(at_hand._kept) <= 8
    used = {*files.of(found.epoch(0, seed=3, batch_size=4).ravel()).tolist()}
    assert len(used) > 8
    assert at_hand.num_fetched == len(used)


def test_a_cache_of_one_shard_gives_the_same_batches(server: S3Server, root: Path, url: str) -> None:
    here, there = source(root), source(url)
    files = there.photos.paths
    assert isinstance(files, PackedFiles)
    files.shards.num_kept = 1
    assert all(map(torch.equal, epoch(here), epoch(there)))


def test_copies_have_no_name_and_go_with_the_process(server: S3Server, url: str, tmp_path: Path) -> None:
    code = (
        "import os, sys; from resnet_repro.data.shards import AtHand, at, read_index; storage = at(sys.argv[1]); "
        "shards = read_index(storage).splits['train'].shards; "
        "hand = AtHand(storage, shards, cache_gb=1, folder=sys.argv[2], num_threads=1, num_needed=1); "
        "print(len(hand[0].image(0)), os.listdir(sys.argv[2])); sys.stdout.flush(); os.kill(os.getpid(), 9)"
    )
    result = subprocess.run([sys.executable, "-c", code, url, tmp_path], capture_output=True, text=True, check=False)
    assert re.fullmatch(r"\d+ \[\]\n", result.stdout), result.stderr
    assert not [*tmp_path.iterdir()]


def test_a_transfer_that_breaks_off_goes_on_where_it_did(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = np.random.default_rng(0).bytes(3 * 2**20)
    (tmp_path / "shard.bin").write_bytes(content)
    url = server.put(tmp_path, "large")
    line = BadLine(server.url, num_cuts=2, after=1_500_000)
    monkeypatch.setenv("AWS_ENDPOINT_URL", line.url)
    assert at(url).read("shard.bin") == content
    assert line.num_cuts == 0
    line.num_cuts, line.after = 99, 500_000
    with pytest.raises(UserError, match="out of reach"):
        at(url).read("shard.bin")


def test_an_outage_of_seconds_ends_no_run(server: S3Server, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    line = BadLine(server.url)
    line.is_down = True
    monkeypatch.setenv("AWS_ENDPOINT_URL", line.url)
    with pytest.raises(UserError, match="out of reach"):
        at(url).read(shards.INDEX)
    mended = threading.Timer(2, setattr, (line, "is_down", False))
    mended.start()
    assert at(url, num_requests=NUM_REQUESTS).read(shards.INDEX)
    assert mended.finished.is_set()


def test_a_shard_that_is_not_what_was_packed_is_named(server: S3Server, root: Path) -> None:
    url = server.put(root, "damaged")
    shard = read_index(at(url)).splits["train"].shards[0]
    server.client.put_object(Bucket="photos", Key=f"damaged/{shard.name}", Body=b"x" * shard.num_bytes)
    with pytest.raises(UserError, match=rf"^s3://photos/damaged/{shard.name} is not what was packed: copy it there"):
        source(url).photos.paths[0].read_bytes()


def test_copies_that_find_no_room_are_told_so(server: S3Server, url: str, tmp_path: Path) -> None:
    storage = at(url)
    shards = read_index(storage).splits["train"].shards
    at_hand = AtHand(storage, shards, cache_gb=1, folder=str(tmp_path / "nowhere"), num_threads=1, num_needed=1)
    with pytest.raises(UserError, match=r"can be kept in .*nowhere \(No such file or directory\): free some space"):
        at_hand[0]


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_a_command_reads_the_bucket_before_the_start_without_torch(server: S3Server, url: str, tmp_path: Path) -> None:
    asked = ("data=imagenet_streaming", "depth=18", "logger=csv", "schedule.batch_size=4")
    status, said, modules = commands.imported_modules(*asked, f"data.root={url}", "plan=true", home=tmp_path)
    assert status == 0, said
    assert f"num_train={NUM}__num_classes=2" in said
    assert "torch" not in modules
    status, said, modules = commands.imported_modules(*asked, "data.root=s3://nothing/there", home=tmp_path)
    assert status == 2
    assert "data.root=s3://nothing/there: there is no bucket nothing: make it, or give another" in said
    assert said.strip().count("\n") == 0
    assert "torch" not in modules


@pytest.mark.parametrize(
    ("variables", "where", "reason"),
    [
        ({}, "s3://nothing/there", "there is no bucket nothing: make it, or give another"),
        ({}, "s3://photos/elsewhere", "has no shards.json: give what `python -m resnet_repro.data.pack SRC DEST` made"),
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "", "the credentials are refused (SignatureDoesNotMatch): set AWS_ACCESS"),
        ({"AWS_ACCESS_KEY_ID": "wrong"}, "", "the credentials are refused (InvalidAccessKeyId): set AWS_ACCESS_KEY_ID"),
        ({"AWS_PROFILE": "nobody"}, "", "no credentials (The config profile (nobody) could not be found): set AWS_"),
        (
            {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None},
            "",
            "no credentials (Unable to locate credentials)",
        ),
        (
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
            "",
            "check the network, and AWS_ENDPOINT_URL where it is not Amazon",
        ),
        ({"AWS_ENDPOINT_URL": "127.0.0.1:9"}, "", "Invalid endpoint: 127.0.0.1:9: set AWS_ENDPOINT_URL to http://HOST"),
    ],
)
def test_a_bucket_that_cannot_be_read_is_refused_in_one_line(
    variables: dict[str, str | None],
    where: str,
    reason: str,
    server: S3Server,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in variables.items():
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as error:
        shards.count(where or url)
    assert f"data.root={where or url}" in str(error.value)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_a_bucket_without_boto3_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(UserError) as error:
        at("s3://photos/some/where")
    assert str(error.value) == (
        "data.root=s3://photos/some/where needs boto3: pip install 'resnet_repro[streaming]', or give a folder"
    )
