"""Where packed photographs lie: a folder, or a bucket of anything that speaks S3. Imports no torch."""

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
MAX_ATTEMPTS = "AWS_MAX_ATTEMPTS"  # of the environment: who sets it decides how often is asked, and nothing here
NUM_ATTEMPTS = 3  # at an object whose transfer breaks off
PATIENCE = 30.0  # seconds in which a run goes on asking who does not answer: a short outage should end no run of days
PAUSE = 0.5  # seconds before asking again
REFUSALS = ("401", "403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken")
INSTALL = "pip install 'resnet_repro[streaming]'"


class Folder:
    """A folder of this machine, or one that it has mounted."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __str__(self) -> str:
        return str(self.root)

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            UserError: it is not there, or cannot be read.
        """
        with self.open(name) as file:
            return file.read()

    def open(self, name: str) -> IO[bytes]:
        try:
            return (self.root / name).open("rb", buffering=0)
        except FileNotFoundError:
            raise _missing(self, name) from None
        except OSError as error:
            raise UserError(f"{self.root / name} cannot be read ({error.strerror}): make it readable") from None


class Bucket:
    """A bucket, or what has a prefix in it, as boto3 reaches it: AWS_ENDPOINT_URL, AWS_PROFILE and so on tell how.

    Threads may share one; processes may not.
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
        """The content of an object.

        Raises:
            UserError: no such bucket or object, credentials that it refuses, or nobody there: one line each.
        """
        return b"".join(self._blocks(name))

    def fetch(self, name: str, file: IO[bytes], *, sha256: str) -> None:
        """Copy an object into an empty file, whole and as it was packed.

        Raises:
            UserError: as `read`, and where it is not what was packed.
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
        """Of the object, each once: a transfer that breaks off goes on where it did."""
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
        """An object's bytes; where nobody answers, or a server that is unwell, asked for anew while patience lasts.

        botocore asks again, too, but after pauses that have become shorter from version to version.
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
        from botocore.exceptions import (
            BotoCoreError,
            ClientError,
            CredentialRetrievalError,
            NoCredentialsError,
            PartialCredentialsError,
            ProfileNotFound,
            SSOError,
            TokenRetrievalError,
        )

        no_login: tuple[type[Exception], ...] = (NoCredentialsError, PartialCredentialsError, ProfileNotFound)
        no_login += (CredentialRetrievalError, SSOError, TokenRetrievalError)
        logging_in = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        try:
            yield
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code"))
            if code == "NoSuchBucket":
                reason = f"there is no bucket {self.bucket}: make it, or give another"
            elif code in ("NoSuchKey", "404"):
                raise _missing(self, name) from None
            elif code in REFUSALS:
                reason = f"the credentials are refused ({code}): {logging_in}, to what may read it"
            else:
                reason = f"the server says {first_words(error, at_most=200)}: try again later"
        except no_login as error:
            reason = f"no credentials ({first_words(error)}): {logging_in}"
        except BotoCoreError as error:
            said = first_words(error, at_most=200)
            reason = f"out of reach ({said}): check the network, and AWS_ENDPOINT_URL where it is not Amazon's"
        else:
            return
        raise UserError(f"data.root={self}: {reason}") from None


Storage = Folder | Bucket


def open_storage(root: str, *, patience: float = 0.0) -> Storage:
    """What `data.root` names; a bucket is asked for so many seconds before it counts as out of reach.

    Raises:
        UserError: an address of another kind, or no boto3 to reach a bucket with.
    """
    if root.startswith(S3):
        bucket = Bucket(root, patience=patience)
        _boto3(bucket)
        return bucket
    if "://" in root:
        raise UserError(
            f"data.root={root} is neither a folder nor {S3}BUCKET/PREFIX, which many other stores speak, too"
        )
    return Folder(Path(root).expanduser())


def damaged(storage: Storage, name: str) -> UserError:
    return UserError(f"{storage}/{name} is not what was packed: copy it there again, or pack again")


def _missing(storage: Storage, name: str) -> UserError:
    return UserError(
        f"data.root={storage} has no {name}: give what `python -m resnet_repro pack SRC DEST` made, and all of it"
    )


def _boto3(bucket: Bucket) -> "ModuleType":
    try:
        import boto3
    except ImportError:
        raise UserError(f"data.root={bucket} needs boto3: {INSTALL}, or give a folder") from None
    return boto3
