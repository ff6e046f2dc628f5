"""Downloads from a real server on this machine: the whole right file, or no file and a way out."""

import hashlib
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from resnet_repro.data import cifar
from resnet_repro.data.cifar import fetch
from resnet_repro.errors import UserError

CONTENT = b"the official bytes" * 1000
DIGEST = f"md5:{hashlib.md5(CONTENT).hexdigest()}"


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return the address of a server that has one file, official.tar.gz."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "official.tar.gz").write_bytes(CONTENT)
    handler = partial(QuietHandler, directory=str(tmp_path / "served"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_the_archive_arrives_where_locate_finds_it(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = cifar.File("official.tar.gz", len(CONTENT), DIGEST)
    form = cifar.DATA_SETS["cifar10"][0]._replace(archive=archive)
    monkeypatch.setitem(cifar.DATA_SETS, "small", (form,))
    root = tmp_path / "new" / "data"
    assert cifar.locate("small", root, val_size=0, download=True).needs_download
    source = cifar.download("small", root, url=url)
    assert source == cifar.locate("small", root, val_size=0, download=False)
    assert [path.name for path in root.iterdir()] == ["official.tar.gz"]
    assert source.path.read_bytes() == CONTENT


def refusal(address: str, path: Path, *, digest: str = DIGEST) -> str:
    with pytest.raises(UserError) as error:
        fetch(address, path, digest=digest)
    text = str(error.value)
    assert "\n" not in text
    assert f"fetch it by hand and put it at {path}" in text
    return text


def test_other_bytes_are_refused_and_leave_nothing(tmp_path: Path, url: str) -> None:
    other = "0" * 32
    text = refusal(f"{url}official.tar.gz", tmp_path / "new" / "official.tar.gz", digest=f"md5:{other}")
    assert other in text
    assert DIGEST.removeprefix("md5:") in text
    assert list((tmp_path / "new").iterdir()) == []


def test_a_file_that_the_server_does_not_have_is_named(tmp_path: Path, url: str) -> None:
    assert "404" in refusal(f"{url}elsewhere.tar.gz", tmp_path / "elsewhere.tar.gz")
    assert not (tmp_path / "elsewhere.tar.gz").exists()


def test_an_absent_server_is_named(tmp_path: Path, url: str) -> None:
    text = refusal("http://127.0.0.1:9/official.tar.gz", tmp_path / "official.tar.gz")  # nobody listens on port 9
    assert "Connection" in text or "refused" in text


def test_a_path_that_cannot_be_written_is_named(tmp_path: Path, url: str) -> None:
    (tmp_path / "file").touch()
    assert "file" in refusal(f"{url}official.tar.gz", tmp_path / "file" / "official.tar.gz")
