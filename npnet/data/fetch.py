"""Download a dataset's archive, check it, and unpack the files that npnet reads.

The archive grows in `DESTINATION/ARCHIVE.part`, which is kept when the network fails, so that a
further call goes on where this one stopped, and is removed once its files are in place.
"""

import gzip
import hashlib
import os
import re
import shutil
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import NoReturn
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from npnet.data.cifar import Variant, variant
from npnet.errors import NpnetError

Progress = Callable[[int, int | None], None]  # bytes so far, bytes in all if the server says

_TRIES = 5
_PAUSE = 1.0  # between tries, seconds
_BLOCK = 1 << 18  # bytes
_LEAST_RATE = 1000  # bytes/s, below which a try is given up
_RATED_SECONDS = 60.0  # over which it is measured
_MOST_UNPACKED = 2  # times the archive, which CIFAR's files are not


class _Interrupted(Exception):
    """The network failed in a way that a further try may mend."""


def is_complete(name: str, destination: Path) -> bool:
    """Whether `destination` has a folder with every file of the dataset; they are not opened."""
    expected = variant(name)
    return all(os.path.isfile(destination / expected.folder / file) for file in expected.files)


def fetch(
    name: str,
    destination: Path,
    url: str | None = None,
    progress: Progress | None = None,
    timeout: float = 30.0,
    md5: str | None = None,
) -> Path:
    """Download a dataset into a folder of `destination`, and return that folder.

    A complete folder is returned as it is. `url` and `md5`, a hex digest, stand in for the official
    address and sum; another address must serve the same archive unless `md5` is given too.
    `timeout`: seconds without a byte before a try is given up; so is one that is slower than
    _LEAST_RATE. Raises NpnetError if the download, the check or the unpacking fails; then no folder
    appears. `.part` is kept only where network or disk failed, and never grows beyond the archive.
    """
    expected = variant(name)
    folder = destination / expected.folder
    if is_complete(name, destination):
        return folder
    if os.path.lexists(folder):
        raise NpnetError(f"{folder} is there but lacks files of {name}; move it away, then repeat")
    part = destination / f"{expected.url.rpartition('/')[2]}.part"
    try:
        _download(url or expected.url, part, expected.size, progress, timeout)
        _check_md5(part, md5 or expected.md5)
        try:
            _unpack(part, expected, folder)
        except NpnetError:  # it is whole, but the wrong one
            part.unlink()
            raise
        part.unlink()
    except OSError as error:  # those of the network have become _Interrupted
        raise NpnetError(
            f"cannot write in {destination}: {error.strerror or error}; "
            "make room there or choose another folder"
        ) from error
    return folder


def _download(url: str, part: Path, most: int, progress: Progress | None, timeout: float) -> None:
    for attempt in range(1, _TRIES + 1):
        try:
            _receive(url, part, most, progress, timeout)
            return
        except _Interrupted as error:
            if attempt == _TRIES:
                kept = part.exists() and part.stat().st_size > 0
                if not kept:
                    part.unlink(missing_ok=True)
                raise NpnetError(
                    f"{url}: {error}, at the last of {_TRIES} tries; check the network and repeat"
                    + f": what came is kept in {part}" * kept
                ) from error
        time.sleep(_PAUSE)


def _receive(url: str, part: Path, most: int, progress: Progress | None, timeout: float) -> None:
    """One try: append to `part` what it lacks. Raises _Interrupted if that is not all of it.

    More than `most` bytes in all are not taken: NpnetError, and `part` is removed.
    """
    start = part.stat().st_size if part.exists() else 0
    response = _open(url, start, timeout)
    if response is None:
        return
    with response:
        resumed = response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        if not resumed:  # the server sends all of it, from the first byte
            start = 0
        length = response.headers.get("Content-Length", "")
        total = start + int(length) if length.isdecimal() else None
        if total is not None and total > most:
            _refuse_size(url, part, most)
        part.parent.mkdir(parents=True, exist_ok=True)
        received = start
        with open(part, "ab" if resumed else "wb") as file:
            for block in _blocks(response):
                received += len(block)
                if received > most:
                    _refuse_size(url, part, most)
                file.write(block)
                if progress:
                    progress(received, total)
    if total is not None and received < total:
        raise _Interrupted(f"the connection closed after {received} of {total} bytes")


def _refuse_size(url: str, part: Path, most: int) -> NoReturn:
    part.unlink(missing_ok=True)
    raise NpnetError(f"{url}: it is larger than the {most:,} bytes of the archive; fetch another")


def _open(url: str, start: int, timeout: float) -> HTTPResponse | None:
    """The response from byte `start` on; None if the server has no bytes beyond."""
    try:
        headers = {"Range": f"bytes={start}-"} if start else {}
        response: HTTPResponse = urlopen(Request(url, headers=headers), timeout=timeout)
        return response
    except HTTPError as error:
        with error:
            if error.code == 416 and start:
                return None
            answer = f"the server answers {error.code} {_words(error.reason)}"
            if error.code >= 500:
                raise _Interrupted(answer) from error
            raise NpnetError(f"{url}: {answer}; check the address") from error
    except URLError as error:
        raise _Interrupted(f"no connection ({_words(error.reason)})") from error
    except (OSError, HTTPException) as error:
        raise _Interrupted(f"no answer ({_words(error)})") from error
    except ValueError as error:
        raise NpnetError(f"{url}: not an address to fetch from ({_words(error)})") from error


def _words(reason: object) -> str:
    """A reason on one line, for it may quote what the server sent."""
    return re.sub(r"[^ -~]+", " ", str(reason))[:200].strip() or type(reason).__name__


def _blocks(response: HTTPResponse) -> Iterator[bytes]:
    try:
        began, came = time.monotonic(), 0
        while block := response.read1(_BLOCK):  # what has come, be it a byte
            yield block
            came += len(block)
            seconds = time.monotonic() - began
            if seconds >= _RATED_SECONDS:
                if came < _LEAST_RATE * seconds:
                    raise _Interrupted(f"only {came:,} bytes came in {seconds:.0f} s")
                began, came = time.monotonic(), 0
    except (OSError, HTTPException) as error:
        raise _Interrupted(f"the connection broke ({_words(error)})") from error


def _check_md5(part: Path, expected: str) -> None:
    with open(part, "rb") as file:
        # Against damage on the way; who can choose both the archive and the sum needs no collision.
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
    if digest.hexdigest() != expected:
        part.unlink()
        raise NpnetError(
            f"{part}: its MD5 sum is {digest.hexdigest()}, not {expected}; it is removed: repeat, "
            "or fetch from another address"
        )


def _unpack(part: Path, expected: Variant, folder: Path) -> None:
    """Put the dataset's files in `folder`, all or none of them.

    Each is read by its name and written by ours, so that no path, link or mode in the archive
    matters, on Pythons whose `tarfile` has no filters too (before 3.11.4).
    """
    scratch = Path(tempfile.mkdtemp(prefix=f".{expected.folder}-", dir=folder.parent))
    try:
        unpacked = scratch / expected.folder
        unpacked.mkdir()
        with tarfile.open(part, "r:gz") as archive:
            for name in expected.files:
                member = archive.getmember(f"{expected.folder}/{name}")
                whole = member.isreg() and member.size <= _MOST_UNPACKED * expected.size
                source = archive.extractfile(member) if whole else None
                if source is None:
                    raise NpnetError(f"{part}: {name} is not a file in it; fetch another archive")
                with source, open(unpacked / name, "wb") as target:
                    shutil.copyfileobj(source, target)
        unpacked.rename(folder)
    except KeyError as error:
        raise NpnetError(f"{part}: {error.args[0]}; fetch another archive") from error
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise NpnetError(f"{part}: not a whole tar.gz ({error}); fetch another archive") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
