"""CIFAR-10 and CIFAR-100 from their official files, each checked against its published checksum.

https://www.cs.toronto.edu/~kriz/cifar.html; A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images",
2009. Both official forms (python, binary) can be read, from the unpacked folder or straight from the archive.
"""

import hashlib
import io
import pickle
import sys
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from resnet_repro.data.image_set import Images, ImageSet
from resnet_repro.data.options import InMemory
from resnet_repro.errors import UserError, first_words

URL = "https://www.cs.toronto.edu/~kriz/"
PIXELS = 3 * 32 * 32


class File(NamedTuple):
    """An official file or archive."""

    name: str
    size: int  # bytes
    digest: str  # "md5:..." or "sha1:..."


class Form(NamedTuple):
    """One of the forms in which the authors publish a data set."""

    folder: str
    archive: File
    train: tuple[File, ...]
    test: File
    decode: Callable[[str, bytes], Images]
    """Takes a path for messages and the content of a file; returns its images."""


class Source(NamedTuple):
    """Where to read a data set from. `path` is the folder, or the archive, which may still have to be downloaded."""

    path: Path
    form: Form
    has_test: bool = True
    needs_download: bool = False


def decode_binary(path: str, content: bytes, *, label_bytes: int) -> Images:
    """Read records of 1 label byte (CIFAR-100: coarse, then fine) and 1,024 red, 1,024 green, 1,024 blue bytes."""
    records = np.frombuffer(content, np.uint8).reshape(-1, label_bytes + PIXELS)
    return Images(records[:, label_bytes:].reshape(-1, 3, 32, 32), records[:, label_bytes - 1].astype(np.int64))


def decode_python(path: str, content: bytes, *, label_key: bytes) -> Images:
    """Read a pickled dict of labels, a list, and pixels, a uint8 array [n, 3072] in the order of `decode_binary`."""
    batch = ArrayUnpickler(path, content).load()
    return Images(batch[b"data"].reshape(-1, 3, 32, 32), np.array(batch[label_key], np.int64))


class ArrayUnpickler(pickle.Unpickler):
    """Reads containers and arrays, and refuses a pickle that names any other global before that global can run."""

    ALLOWED: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): str.encode,  # how Python 3 writes bytes in protocol 2
    }

    def __init__(self, path: str, content: bytes) -> None:
        super().__init__(io.BytesIO(content), encoding="bytes")  # the official files were written by Python 2
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise UserError(
                f"{self.path} names {module}.{name}, which no image file needs, and was not read: replace it"
            )
        return self.ALLOWED[module, name]


# Checksums and where they are published: torchvision.datasets.cifar (python form), the authors' page (archives),
# mxnet.gluon.data.vision (SHA-1, binary form; its five CIFAR-10 training files have the MD5s known from elsewhere).
# `download` fetches the first form of a row.
DATA_SETS: dict[str, tuple[Form, ...]] = {
    "cifar10": (
        Form(
            "cifar-10-batches-py",
            File("cifar-10-python.tar.gz", 170_498_071, "md5:c58f30108f718f92721af3b95e74349a"),
            (
                File("data_batch_1", 31_035_704, "md5:c99cafc152244af753f735de768cd75f"),
                File("data_batch_2", 31_035_320, "md5:d4bba439e000b95fd0a9bffe97cbabec"),
                File("data_batch_3", 31_035_999, "md5:54ebc095f3ab1f0389bbae665268c751"),
                File("data_batch_4", 31_035_696, "md5:634d18415352ddfa80567beed471001a"),
                File("data_batch_5", 31_035_623, "md5:482c414d41f54cd18b22e5b47cb7c3cb"),
            ),
            File("test_batch", 31_035_526, "md5:40351d587109b95175f43aff81a1287e"),
            partial(decode_python, label_key=b"labels"),
        ),
        Form(
            "cifar-10-batches-bin",
            File("cifar-10-binary.tar.gz", 170_052_171, "md5:c32a1d4ab5d03f1284b67883e8d87530"),
            (
                File("data_batch_1.bin", 30_730_000, "md5:5dd7e06a14cb22eb9f671a540d1b7c25"),
                File("data_batch_2.bin", 30_730_000, "md5:5ea93a67294ea407fff1d09f752e9692"),
                File("data_batch_3.bin", 30_730_000, "md5:942cd6a4bcdd0dd3c604fbe906cb4421"),
                File("data_batch_4.bin", 30_730_000, "md5:ae636b3ba5c66a11e91e8cb52e771fcb"),
                File("data_batch_5.bin", 30_730_000, "md5:53f37980c15c3d472c316c40844f3f0d"),
            ),
            File("test_batch.bin", 30_730_000, "sha1:67eb016db431130d61cd03c7ad570b013799c88c"),
            partial(decode_binary, label_bytes=1),
        ),
    ),
    "cifar100": (
        Form(
            "cifar-100-python",
            File("cifar-100-python.tar.gz", 169_001_437, "md5:eb9058c3a382ffc7106e4002c42a8d85"),
            (File("train", 155_249_918, "md5:16019d7e3df5f24257cddd939b257f8d"),),
            File("test", 31_049_707, "md5:f0ef6b0ae62326f3e7ffdfab6717acfc"),
            partial(decode_python, label_key=b"fine_labels"),
        ),
        Form(
            "cifar-100-binary",
            File("cifar-100-binary.tar.gz", 168_513_733, "md5:03b5dce01913d631647c71ecec9e9cb8"),
            (File("train.bin", 153_700_000, "sha1:e207cd2e05b73b1393c74c7f5e7bea451d63e08e"),),
            File("test.bin", 30_740_000, "sha1:8fb6623e830365ff53cf14adec797474f5478006"),
            partial(decode_binary, label_bytes=2),
        ),
    ),
}
NAMES = tuple(DATA_SETS)


def locate(name: str, root: str | Path, *, val_size: int, download: bool) -> Source:
    """Return where data set `name` is under `root`, by names and sizes alone: takes milliseconds, opens no file.

    `root` holds the official folder or archive, or is that folder. A source with a test file comes before one without,
    a folder before an archive. Without the official test file a run needs validation images instead: `val_size` > 0.

    Raises:
        UserError: if nothing is there and no download is allowed, a file is missing, or has not its official size.
    """
    root = Path(root).expanduser()
    forms = DATA_SETS[name]
    sources: list[Source] = []
    problems: list[str] = []
    for form in forms:
        for folder in (root / form.folder, root):
            if not folder.is_dir() or form.folder not in (folder.name, folder.resolve().name):
                continue
            missing = [file.name for file in form.train if not (folder / file.name).is_file()]
            resized = [*filter(None, (_resized(folder, file) for file in (*form.train, form.test)))]
            if missing:
                problems.append(f"{folder} lacks {', '.join(missing)}: add the files, or remove the folder")
            problems += resized
            if not missing and not resized:
                sources.append(Source(folder, form, has_test=(folder / form.test.name).is_file()))
    for form in forms:
        if resized_archive := _resized(root, form.archive):
            problems.append(resized_archive)
        elif (root / form.archive.name).is_file():
            sources.append(Source(root / form.archive.name, form))

    for source in sorted(sources, key=lambda source: not source.has_test):
        if source.has_test or val_size > 0:
            return source
        raise UserError(
            f"{source.path} has every training file and no {source.form.test.name}: pass data.val_size=5000 to train "
            "and validate without that file, or add it"
        )
    if problems:
        raise UserError(problems[0])
    if not download:
        looked_for = ", ".join([form.folder for form in forms] + [form.archive.name for form in forms])
        raise UserError(f"no {name} in {root} ({looked_for}): pass data.root=FOLDER that has it, or data.download=true")
    return Source(root / forms[0].archive.name, forms[0], needs_download=True)


def _resized(folder: Path, file: File) -> str | None:
    """Return a refusal if the file is there in another size than the official one."""
    path = folder / file.name
    if not path.is_file() or (size := path.stat().st_size) == file.size:
        return None
    return f"{path} has {size:,} bytes, the official file has {file.size:,}: fetch it again, or remove it"


def download(name: str, root: str | Path, *, url: str = URL) -> Source:
    """Fetch the archive of the python form into `root`. It is read as an archive, never unpacked.

    Raises:
        UserError: as `fetch`.
    """
    form = DATA_SETS[name][0]
    source = Source(Path(root).expanduser() / form.archive.name, form)
    fetch(url + form.archive.name, source.path, digest=form.archive.digest)
    return source


def read(data: InMemory) -> ImageSet:
    """Return the images of `data=cifar10` or `data=cifar100`; nothing is downloaded.

    Raises:
        UserError: as `locate` and `load`.
    """
    return load(locate(data.name, data.root, val_size=data.val_size, download=False))


def load(source: Source) -> ImageSet:
    """Return the images of a source, checked: x uint8 [n, 3, 32, 32], y int64 [n], in the official order.

    Raises:
        UserError: if a checksum is not the published one, or a pickle holds more than arrays.
    """
    assert not source.needs_download
    form = source.form
    parts = {}
    for file, content in _contents(source):
        path = str(source.path / file.name)
        _check(path, file, io.BytesIO(content))
        parts[file] = form.decode(path, content)
    train = _join([parts[file] for file in form.train])
    test = _join([parts[form.test]]) if source.has_test else None
    sha256 = hashlib.sha256()
    for array in (*train, *(test or ())):
        sha256.update(array)
    return ImageSet(train, test, sha256.hexdigest())


def _contents(source: Source) -> Iterator[tuple[File, bytes]]:
    """Yield the content of every official file of a source, in any order, without unpacking an archive to disk."""
    form = source.form
    if source.path.is_dir():
        for file in (*form.train, *([form.test] if source.has_test else [])):
            yield file, (source.path / file.name).read_bytes()
        return
    with source.path.open("rb") as archive:
        _check(str(source.path), form.archive, archive)
    files = {f"{form.folder}/{file.name}": file for file in (*form.train, form.test)}
    with tarfile.open(source.path, "r|gz") as members:  # a stream: one pass through the compressed bytes
        for member in members:
            if member.name in files and (content := members.extractfile(member)):
                yield files[member.name], content.read()


def _join(parts: list[Images]) -> Images:
    return Images(np.concatenate([part.x for part in parts]), np.concatenate([part.y for part in parts]))


def _check(path: str, file: File, stream: io.BufferedReader | io.BytesIO) -> None:
    algorithm = file.digest.partition(":")[0]
    if file.digest != (digest := f"{algorithm}:{hashlib.file_digest(stream, algorithm).hexdigest()}"):
        raise UserError(f"{path} has the checksum {digest}, the official file has {file.digest}: fetch it again")


def fetch(url: str, path: Path, *, digest: str) -> None:
    """Download `url` to `path`, which appears with the right checksum ("md5:...") or not at all.

    Raises:
        UserError: if there is no connection or no such file, the checksum is wrong, or `path` cannot be written.
    """
    import pooch  # slow

    try:
        pooch.retrieve(url, digest, fname=path.name, path=path.parent, progressbar=sys.stderr.isatty())
        path.chmod(0o644)  # pooch makes it readable to its owner alone
    except (OSError, ValueError) as error:  # connection or disk; checksum
        reason = first_words(error, at_most=200)
        raise UserError(f"could not download {url} ({reason}): fetch it by hand and put it at {path}") from error
