"""A server on this machine that speaks S3: moto's, in a process of its own, checking who asks. And a bad line to it."""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

MAY_ALL = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
OPEN_ACTIONS = 3  # that moto lets pass, for somebody to be made who may ask for more


class S3Server:
    """Serves from the moment it is made until `stop`; `variables` are the environment that leads boto3 here."""

    def __init__(self) -> None:
        import boto3  # not above: `pytest -m gpu` does without the packages that only these tests need

        with tempfile.TemporaryFile("w+") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "moto.server", "-p", "0"],
                env=os.environ | {"INITIAL_NO_AUTH_ACTION_COUNT": str(OPEN_ACTIONS)},
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
            self.url = self._said(log.fileno())
        iam = boto3.client("iam", endpoint_url=self.url, region_name="us-east-1", **_login("nobody", "nothing"))
        iam.create_user(UserName="somebody")
        iam.put_user_policy(UserName="somebody", PolicyName="all", PolicyDocument=json.dumps(MAY_ALL))
        key = iam.create_access_key(UserName="somebody")["AccessKey"]
        login = _login(key["AccessKeyId"], key["SecretAccessKey"])
        self.client = boto3.client("s3", endpoint_url=self.url, region_name="us-east-1", **login)
        self.client.create_bucket(Bucket="photos")
        self.variables = {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            **{name.upper(): value for name, value in login.items()},
        }

    def _said(self, log: int) -> str:
        """The address, once it is on the log."""
        for _ in range(600):
            if found := re.search(rb"http://127\.0\.0\.1:\d+", os.pread(log, 10_000, 0)):
                return found[0].decode()
            assert self.process.poll() is None
            time.sleep(0.05)
        raise AssertionError("no server within half a minute")

    def put(self, folder: Path, prefix: str) -> str:
        """Copy a folder there; its address."""
        for path in folder.rglob("*"):
            if path.is_file():
                self.client.upload_file(str(path), "photos", f"{prefix}/{path.relative_to(folder).as_posix()}")
        return f"s3://photos/{prefix}"

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=20)


def _login(key: str, secret: str) -> dict[str, str]:
    return {"aws_access_key_id": key, "aws_secret_access_key": secret}


class BadLine:
    """Passes on what goes to a server and back; `num_cuts` answers break off after so many bytes.

    `is_down`: it takes no connection any more, and ends those that there are.
    """

    def __init__(self, url: str, *, num_cuts: int = 0, after: int = 0) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self.server, self.num_cuts, self.after, self.is_down = (host, int(port)), num_cuts, after, False
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            ours, _ = self.socket.accept()
            theirs = socket.create_connection(self.server)
            for arguments in ((ours, theirs, False), (theirs, ours, True)):
                threading.Thread(target=self._pass_on, args=arguments, daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, is_answer: bool) -> None:
        passed = 0
        with suppress(OSError):  # the other direction was first to end
            while (data := source.recv(2**16)) and not self.is_down:
                passed += len(data)
                if is_answer and self.num_cuts and passed > self.after:
                    self.num_cuts -= 1
                    break
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
