"""Storage of packed photographs: a folder, or a bucket of any service that speaks S3. Imports no torch."""

import hashlib
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from resnet_repro.errors import UserError, first_words

if TYPE_CHECKING:
    from types import ModuleType

S3 = "s3://"
BLOCK = 2**20  # bytes that are read at a time
MAX_ATTEMPTS = "AWS_MAX_ATTEMPTS"  # environment variable; if set, it alone decides how often a request is repeated
NUM_ATTEMPTS = 3  # at an object whose transfer breaks off
PATIENCE = 30.0  # seconds for which a run repeats requests without an answer: a short outage should end no run of days
PAUSE = 0.5  # seconds before a request is repeated
REFUSALS = ("401", "403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken")
INSTALL = "pip install 'resnet_repro[streaming]'"


class Folder:
    """A folder of this machine, mounted folders included."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __str__(self) -> str:
        return str(self.root)

    def read(self, name: str) -> bytes:
        """Return the content of a file.

        Raises:
            UserError: as `open`.
        """
        with self.open(name) as file:
            return file.read()

    def open(self, name: str) -> IO[bytes]:
        """Open a file.

        Raises:
            UserError: if the file is missing or cannot be read.
        """
        try:
            return (self.root / name).open("rb", buffering=0)
        except FileNotFoundError:
            raise _missing(self, name) from None
        except OSError as error:
            raise UserError(f"{self.root / name} cannot be read ({error.strerror}): make it readable") from None


class Bucket:
    """A bucket, or the part of it under a prefix. boto3 reaches it as AWS_ENDPOINT_URL, AWS_PROFILE and so on say.

    Threads may share a Bucket; processes may not.

    Args:
        url: `s3://BUCKET/PREFIX`.
        patience: seconds for which to repeat a request before the bucket counts as out of reach.
    """

    def __init__(self, url: str, *, patience: float) -> None:
        self.patience = 0.0 if MAX_ATTEMPTS in os.environ else patience
        self.bucket, _, prefix = url.removeprefix(S3).rstrip("/").partition("/")
        self.prefix = prefix and f"{prefix}/"
        if not re.fullmatch(r"[\w.-]+", self.bucket, re.ASCII):
            raise UserError(f"data.root={url} names no bucket: give {S3}BUCKET/PREFIX")

    def __str__(self) -> str:
        return f"{S3}{self.bucket}/{self.prefix}".rstrip("/")

    @cached_property
    def client(self) -> Any:
        boto3 = _boto3(self)
        from botocore.config import Config

        retries = None if MAX_ATTEMPTS in os.environ else {"mode": "standard", "total_max_attempts": 2}
        config = Config(retries=retries, connect_timeout=10, read_timeout=30, max_pool_connections=32)
        with self._errors_for_people(""):
            try:
                return boto3.Session().client("s3", config=config)
            except ValueError as error:
                raise UserError(
                    f"data.root={self}: {first_words(error)}: set AWS_ENDPOINT_URL to http://HOST:PORT or so"
                ) from None

    def read(self, name: str) -> bytes:
        """Return the content of an object.

        Raises:
            UserError: if there is no such bucket or object, credentials are missing or refused, or no server answers.
        """
        return b"".join(self._blocks(name))

    def fetch(self, name: str, file: IO[bytes], *, sha256: str) -> None:
        """Copy an object into a file, replacing its content, and check it.

        Raises:
            UserError: as `read`; if the object is not what was packed.
        """
        for _ in range(NUM_ATTEMPTS):
            file.seek(0)
            file.truncate()
            digest = hashlib.sha256()
            for block in self._blocks(name):
                digest.update(block)
                file.write(block)
            file.flush()
            if digest.hexdigest() == sha256:
                return
        raise damaged(self, name)

    def _blocks(self, name: str) -> Iterator[bytes]:
        """Yield the object's blocks, each once: a transfer that breaks off goes on from there."""
        at, attempts = 0, 0
        while True:
            with self._errors_for_people(name):
                from botocore.exceptions import HTTPClientError, IncompleteReadError, ResponseStreamingError

                body = self._answer(name, {"Range": f"bytes={at}-"} if at else {})
                try:
                    for block in body.iter_chunks(BLOCK):
                        yield block
                        at += len(block)
                    return
                except (HTTPClientError, IncompleteReadError, ResponseStreamingError):
                    attempts += 1
                    if attempts == NUM_ATTEMPTS:
                        raise

    def _answer(self, name: str, part: dict[str, str]) -> Any:
        """Return the stream of an object's bytes. Repeat the request while patience lasts if no server answers or the
        server fails.

        botocore repeats requests, too, but its pauses have become shorter from version to version.
        """
        from botocore.exceptions import ClientError, HTTPClientError

        until = time.monotonic() + self.patience
        while True:
            try:
                return self.client.get_object(Bucket=self.bucket, Key=self.prefix + name, **part)["Body"]
            except (HTTPClientError, ClientError) as error:
                refused = isinstance(error, ClientError) and error.response["ResponseMetadata"]["HTTPStatusCode"] < 500
                if refused or time.monotonic() > until:
                    raise
            time.sleep(PAUSE)

    @contextmanager
    def _errors_for_people(self, name: str) -> Iterator[None]:
        from botocore import exceptions as boto

        no_login: tuple[Any, ...] = (boto.NoCredentialsError, boto.PartialCredentialsError, boto.ProfileNotFound)
        no_login += (boto.CredentialRetrievalError, boto.SSOError, boto.TokenRetrievalError)
        log_in = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        try:
            yield
        except boto.ClientError as error:
            code = str(error.response.get("Error", {}).get("Code"))
            if code == "NoSuchBucket":
                reason = f"there is no bucket {self.bucket}: make it, or give another"
            elif code in ("NoSuchKey", "404"):
                raise _missing(self, name) from None
            elif code in REFUSALS:
                reason = f"the credentials are refused ({code}): {log_in}, to credentials that may read the bucket"
            else:
                reason = f"the server says {first_words(error, at_most=200)}: try again later"
        except no_login as error:
            reason = f"no credentials ({first_words(error)}): {log_in}"
        except boto.BotoCoreError as error:
            message = first_words(error, at_most=200)
            reason = f"out of reach ({message}): check the network, and AWS_ENDPOINT_URL if the bucket is not Amazon's"
        else:
            return
        raise UserError(f"data.root={self}: {reason}") from None


Storage = Folder | Bucket


def open_storage(root: str, *, patience: float = 0.0) -> Storage:
    """Return the storage that `data.root` names; `patience` is that of `Bucket`.

    Raises:
        UserError: if the address is of another kind, or boto3 is not installed to reach a bucket.
    """
    if root.startswith(S3):
        bucket = Bucket(root, patience=patience)
        _boto3(bucket)
        return bucket
    if "://" in root:
        raise UserError(
            f"data.root={root} is neither a folder nor {S3}BUCKET/PREFIX: many other stores also have an S3 address"
        )
    return Folder(Path(root).expanduser())


def damaged(storage: Storage, name: str) -> UserError:
    """Return the refusal of a file that is not what was packed."""
    return UserError(f"{storage}/{name} is not what was packed: copy it there again, or pack again")


def _missing(storage: Storage, name: str) -> UserError:
    return UserError(
        f"data.root={storage} has no {name}: give the complete output of `python -m resnet_repro pack SRC DEST`"
    )


def _boto3(bucket: Bucket) -> "ModuleType":
    try:
        import boto3
    except ImportError:
        raise UserError(f"data.root={bucket} needs boto3: {INSTALL}, or give a folder") from None
    return boto3
