"""A run from a bucket equals the run from a folder, on little disk, over a bad line, or is refused in one line."""

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from resnet_repro.data import shards
from resnet_repro.data.bucket import open_storage
from resnet_repro.errors import UserError
from resnet_repro.runs.folder import read_json
from resnet_repro.training.checkpoints import Checkpoint
from resnet_repro.training.run import run
from tests.helpers import commands
from tests.helpers.photo_files import MINI, needs_mini
from tests.helpers.photo_runs import assert_resumes, refused_at_once
from tests.helpers.ranks import in_ranks, run_rank
from tests.helpers.s3_server import BadLine, S3Server
from tests.helpers.shards import NUM, packed, prepared

SHORT = ("schedule.steps=9", "schedule.batch_size=4", "schedule.eval_every=3")


def smallest_cache(url: str, *options: str, outputs: Path) -> str:
    """Return the option that the refusal of a run without a cache recommends."""
    with pytest.raises(UserError, match=r"data\.cache_gb=0 holds too few of s3://") as error:
        run(prepared(outputs, url, *options, "data.cache_gb=0"))
    return "data.cache_gb=" + str(error.value).split("give at least ")[1].split(",")[0]


# --- runs -------------------------------------------------------------------------------------------------------------


def test_a_run_from_a_bucket_equals_one_from_a_folder_bitwise(
    s3_server: S3Server, packed_photos: Path, bucket: str, tmp_path: Path
) -> None:
    here, there = (
        run(prepared(tmp_path / name, where, *SHORT)) for name, where in (("here", packed_photos), ("there", bucket))
    )
    assert here["weights_sha256"] == there["weights_sha256"]
    assert here["results"] == there["results"]


@pytest.mark.slow
def test_a_bucket_resumes_a_run_that_a_folder_began(
    s3_server: S3Server, packed_photos: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = (prepared(tmp_path / name, packed_photos, *SHORT) for name in ("whole", "parts"))
    assert_resumes(whole, parts, partial(prepared, tmp_path / "parts", bucket, *SHORT), monkeypatch)


def run_rank_with(variables: dict[str, str], path: Path, job: dict[str, Any], rank: Any) -> None:
    """Set the environment first: the fork server may be older than this test and know another one."""
    os.environ.update(variables)
    run_rank(path, job, rank)


@needs_mini
@pytest.mark.slow
def test_two_ranks_train_the_same_from_a_bucket_and_a_folder(s3_server: S3Server, tmp_path: Path) -> None:
    mini = packed(MINI, tmp_path / "packed", shard_mb=0.3)
    options = ("schedule.steps=42", "hardware.devices=2", "hardware.accelerator=cpu", "data.shuffle=100")
    weights = []
    for name, where in (("here", mini), ("there", s3_server.put(mini, "mini"))):
        path = prepared(tmp_path / name, where, *options)
        in_ranks(2, partial(run_rank_with, s3_server.variables), path)
        weights.append(read_json(path / "manifest.json")["weights_sha256"])
    assert len(set(weights)) == 1


@pytest.mark.slow
def test_a_run_whose_bucket_goes_out_of_reach_resumes_bitwise(
    s3_server: S3Server, packed_photos: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = (*SHORT, "data.shuffle=2", "hardware.checkpoint_steps=2")
    options += (smallest_cache(bucket, *options, outputs=tmp_path / "refused"),)
    whole = run(prepared(tmp_path / "whole", packed_photos, *options))
    line = BadLine(s3_server.url)
    path = prepared(tmp_path / "again", bucket, *options)
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


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_a_command_counts_a_bucket_without_torch(s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
    options = ("data=imagenet_streaming", "depth=18", "logger=csv", "schedule.batch_size=4")
    status, output, modules = commands.imported_modules(*options, f"data.root={bucket}", "plan=true", home=tmp_path)
    assert status == 0, output
    assert f"num_train={NUM}__num_classes=2" in output
    assert "torch" not in modules
    line = refused_at_once(*options, "data.root=s3://nothing/there", home=tmp_path)
    assert "data.root=s3://nothing/there: there is no bucket nothing: make it, or give another" in line


@pytest.mark.parametrize(
    ("variables", "where", "reason"),
    [
        ({}, "s3://nothing/there", "there is no bucket nothing: make it, or give another"),
        (
            {},
            "s3://photos/elsewhere",
            "has no shards.json: give the complete output of `python -m resnet_repro pack SRC",
        ),
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
            "check the network, and AWS_ENDPOINT_URL if the bucket is not Amazon's",
        ),
        ({"AWS_ENDPOINT_URL": "127.0.0.1:9"}, "", "Invalid endpoint: 127.0.0.1:9: set AWS_ENDPOINT_URL to http://HOST"),
    ],
)
def test_a_bucket_that_cannot_be_read_is_refused_in_one_line(
    variables: dict[str, str | None],
    where: str,
    reason: str,
    s3_server: S3Server,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in variables.items():
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as error:
        shards.count(where or bucket)
    assert f"data.root={where or bucket}" in str(error.value)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_a_bucket_without_boto3_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(UserError) as error:
        open_storage("s3://photos/some/where")
    assert str(error.value) == (
        "data.root=s3://photos/some/where needs boto3: pip install 'resnet_repro[streaming]', or give a folder"
    )
