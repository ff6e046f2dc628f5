"""Configs and jobs of networks of other libraries."""

from typing import Any

from resnet_repro.runs.job import Job, make_job
from tests.helpers.runs import composed


def asked(source: str, name: str, *overrides: str) -> dict[str, Any]:
    size = ["arch.image_size=64"] if name == "alexnet" else []
    return composed(f"arch={source}", f"arch.name={name}", *size, *overrides)


def job_of(source: str, name: str, *overrides: str) -> Job:
    usual = composed(f"arch={source}", *(o for o in overrides if o.startswith(("data=", "protocol="))))
    return make_job(asked(source, name, *overrides), usual=usual)
