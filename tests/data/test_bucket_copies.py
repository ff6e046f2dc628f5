"""Copies of a bucket's shards: few, exact, gone with their process, and complete over a bad line."""

import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from resnet_repro.data import shards
from resnet_repro.data.bucket import PATIENCE, open_storage
from resnet_repro.data.shard_batches import StreamedSource
from resnet_repro.data.shards import ShardCache, read_index
from resnet_repro.errors import UserError
from tests.helpers.s3_server import BadLine, S3Server
from tests.helpers.shards import batches, files_of, source


def epoch(photos: StreamedSource) -> list[torch.Tensor]:
    return [y for _, y in batches(photos, num_steps=5)]


def test_an_epoch_copies_each_shard_once_into_a_full_cache(s3_server: S3Server, bucket: str) -> None:
    """The cache has room for two windows, the least that a run accepts."""
    photos = source(bucket, window=2, cache_gb=1)
    files = files_of(photos)
    files.shards.num_kept = 8
    for _ in batches(photos, num_steps=5):
        assert len(files.shards._kept) <= 8
    used = {*files.of(photos.epoch(0, seed=3, batch_size=4).ravel()).tolist()}
    assert len(used) > 8
    assert files.shards.num_fetched == len(used)


def test_a_cache_of_one_shard_gives_the_same_batches(s3_server: S3Server, packed_photos: Path, bucket: str) -> None:
    here, there = source(packed_photos), source(bucket)
    files_of(there).shards.num_kept = 1
    assert all(map(torch.equal, epoch(here), epoch(there)))


def test_copies_have_no_name_and_go_with_their_process(s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
    code = (
        "import os, sys; from resnet_repro.data.bucket import open_storage; "
        "from resnet_repro.data.shards import ShardCache, read_index; storage = open_storage(sys.argv[1]); "
        "shards = read_index(storage).splits['train'].shards; "
        "cache = ShardCache(storage, shards, cache_gb=1, folder=sys.argv[2], num_threads=1, num_needed=1); "
        "print(len(cache[0].image(0)), os.listdir(sys.argv[2])); sys.stdout.flush(); os.kill(os.getpid(), 9)"
    )
    result = subprocess.run([sys.executable, "-c", code, bucket, tmp_path], capture_output=True, text=True, check=False)
    assert re.fullmatch(r"\d+ \[\]\n", result.stdout), result.stderr
    assert not [*tmp_path.iterdir()]


def test_a_transfer_that_breaks_off_goes_on_from_there(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = np.random.default_rng(0).bytes(3 * 2**20)
    (tmp_path / "shard.bin").write_bytes(content)
    url = s3_server.put(tmp_path, "large")
    line = BadLine(s3_server.url, num_cuts=2, after=1_500_000)
    monkeypatch.setenv("AWS_ENDPOINT_URL", line.url)
    assert open_storage(url).read("shard.bin") == content
    assert line.num_cuts == 0
    line.num_cuts, line.after = 99, 500_000
    with pytest.raises(UserError, match="out of reach"):
        open_storage(url).read("shard.bin")


@pytest.mark.slow
def test_an_outage_of_seconds_ends_no_run(s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    line = BadLine(s3_server.url)
    line.is_down = True
    monkeypatch.setenv("AWS_ENDPOINT_URL", line.url)
    with pytest.raises(UserError, match="out of reach"):
        open_storage(bucket).read(shards.INDEX)
    mended = threading.Timer(5, setattr, (line, "is_down", False))
    mended.start()
    assert open_storage(bucket, patience=PATIENCE).read(shards.INDEX)
    assert mended.finished.is_set()


def test_a_shard_that_was_changed_is_named(s3_server: S3Server, packed_photos: Path) -> None:
    url = s3_server.put(packed_photos, "damaged")
    shard = read_index(open_storage(url)).splits["train"].shards[0]
    s3_server.client.put_object(Bucket="photos", Key=f"damaged/{shard.name}", Body=b"x" * shard.num_bytes)
    with pytest.raises(UserError, match=rf"^s3://photos/damaged/{shard.name} is not what was packed: copy it there"):
        source(url).photos.paths[0].read_bytes()


def test_copies_without_a_place_are_refused(s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
    storage = open_storage(bucket)
    shards = read_index(storage).splits["train"].shards
    cache = ShardCache(storage, shards, cache_gb=1, folder=str(tmp_path / "nowhere"), num_threads=1, num_needed=1)
    with pytest.raises(UserError, match=r"can be kept in .*nowhere \(No such file or directory\): free some space"):
        cache[0]
