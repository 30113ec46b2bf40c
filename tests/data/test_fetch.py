"""Fetching from a server that serves as it should, or in one of the ways that servers fail."""

import contextlib
import hashlib
import io
import os
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from npnet.cli.data import data as data_command
from npnet.data import fetch as fetching
from npnet.data.cifar import VARIANTS
from npnet.errors import NpnetError

CIFAR10 = VARIANTS["cifar10"]
CONTENTS = {name: name.encode() + os.urandom(20_000) for name in CIFAR10.files}
PART = "cifar-10-python.tar.gz.part"


def tar_gz(members: dict[str, bytes | tarfile.TarInfo]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
            else:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


GOOD_MEMBERS: dict[str, bytes | tarfile.TarInfo] = {
    f"{CIFAR10.folder}/{name}": content for name, content in CONTENTS.items()
}
ARCHIVE = tar_gz({**GOOD_MEMBERS, f"{CIFAR10.folder}/readme.html": b"about"})
MD5 = hashlib.md5(ARCHIVE).hexdigest()


@dataclass
class Server:
    """What the handler serves, how it fails, and what it was asked for."""

    url: str = ""
    archive: bytes = ARCHIVE
    status: int = 200
    honours_range: bool = True
    says_length: bool = True
    chunks: bytes | None = None  # sent as they are, as Transfer-Encoding: chunked
    drips: bool = False  # a byte now and then
    failing: int = 0  # so many answers end early
    stalls: bool = False  # then the connection stays open, with nothing coming
    ranges: list[str | None] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers["Range"]
            state.ranges.append(asked)
            start = 0
            if asked and state.honours_range:
                start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if state.status != 200:
                self.send_error(state.status)
                return
            if start and start >= len(state.archive):
                self.send_error(416)
                return
            body = state.archive[start:]
            self.send_response(206 if start else 200)
            self.send_header("Connection", "close")
            if start:
                last = len(state.archive) - 1
                self.send_header("Content-Range", f"bytes {start}-{last}/{last + 1}")
            if state.chunks is not None:
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                self.wfile.write(state.chunks)
                return
            if state.says_length:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if state.drips:
                with contextlib.suppress(OSError):
                    while not state.closing.wait(0.02):
                        self.wfile.write(b"x")
                return
            if state.failing:
                state.failing -= 1
                self.wfile.write(body[: len(body) // 2])
                if state.stalls:
                    self.wfile.flush()
                    state.closing.wait(5)
            else:
                self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(fetching, "_PAUSE", 0.0)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = False  # so that closing waits for them
        state.url = f"http://127.0.0.1:{http.server_port}/{PART.removesuffix('.part')}"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield state
        finally:
            state.closing.set()
            http.shutdown()
            thread.join()


def fetch(server: Server, destination: Path, **options: Any) -> Path:
    given: dict[str, Any] = {"url": server.url, "md5": MD5, "timeout": 5.0, **options}
    return fetching.fetch("cifar10", destination, **given)


def fails(server: Server, destination: Path, **options: Any) -> str:
    with pytest.raises(NpnetError) as caught:
        fetch(server, destination, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def assert_fetched(destination: Path) -> None:
    """Every file is there as it was archived, and nothing else is left in `destination`."""
    assert [path.name for path in destination.iterdir()] == [CIFAR10.folder]
    files = {path.name: path.read_bytes() for path in (destination / CIFAR10.folder).iterdir()}
    assert files == CONTENTS
    assert fetching.is_complete("cifar10", destination)


def test_fetch(server: Server, tmp_path: Path) -> None:
    calls: list[tuple[int, int | None]] = []
    destination = tmp_path / "new" / "data"
    folder = fetch(server, destination, progress=lambda *call: calls.append(call))
    assert folder == destination / CIFAR10.folder
    assert_fetched(destination)
    assert calls[-1] == (len(ARCHIVE), len(ARCHIVE))
    assert calls == sorted(calls)
    assert server.ranges == [None]


def test_complete_folder_is_left_alone(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / CIFAR10.folder
    folder.mkdir()
    for name in CIFAR10.files:
        (folder / name).write_text("mine")
    assert fetch(server, tmp_path) == folder
    assert server.ranges == []
    assert all((folder / name).read_text() == "mine" for name in CIFAR10.files)


def test_incomplete_folder_is_not_overwritten(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / CIFAR10.folder
    folder.mkdir()
    (folder / "data_batch_1").write_text("mine")
    assert str(folder) in fails(server, tmp_path)
    assert server.ranges == []
    assert (folder / "data_batch_1").read_text() == "mine"


def test_truncated_answers_are_resumed(server: Server, tmp_path: Path) -> None:
    server.failing = 3
    calls: list[tuple[int, int | None]] = []
    fetch(server, tmp_path, progress=lambda *call: calls.append(call))
    assert_fetched(tmp_path)
    assert [int((asked or "bytes=0-")[6:-1]) for asked in server.ranges] == sorted(
        len(ARCHIVE) - -(-len(ARCHIVE) // 2**n) for n in range(4)
    )
    assert {total for _, total in calls} == {len(ARCHIVE)}


def test_truncated_for_ever_is_given_up_and_resumed_later(server: Server, tmp_path: Path) -> None:
    server.failing = 100
    message = fails(server, tmp_path)
    assert message.startswith(f"{server.url}: the connection closed after ")
    assert "5 tries" in message
    assert str(tmp_path / PART) in message
    assert len(server.ranges) == 5
    assert [path.name for path in tmp_path.iterdir()] == [PART]
    kept = (tmp_path / PART).read_bytes()
    assert ARCHIVE.startswith(kept)
    server.failing = 0
    fetch(server, tmp_path)
    assert_fetched(tmp_path)
    assert server.ranges[5:] == [f"bytes={len(kept)}-"]


def test_stalled_answers_are_resumed(server: Server, tmp_path: Path) -> None:
    server.failing, server.stalls = 1, True
    fetch(server, tmp_path, timeout=0.3)
    assert_fetched(tmp_path)
    assert len(server.ranges) == 2


def test_stalled_for_ever_is_given_up(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "_TRIES", 2)
    server.failing, server.stalls = 100, True
    assert "timed out" in fails(server, tmp_path, timeout=0.1)
    assert len(server.ranges) == 2


def test_server_that_ignores_range(server: Server, tmp_path: Path) -> None:
    server.failing, server.honours_range = 2, False
    fetch(server, tmp_path)
    assert_fetched(tmp_path)
    assert len(server.ranges) == 3


def test_server_that_does_not_say_the_length(server: Server, tmp_path: Path) -> None:
    server.says_length = False
    calls: list[tuple[int, int | None]] = []
    fetch(server, tmp_path, progress=lambda *call: calls.append(call))
    assert_fetched(tmp_path)
    assert calls[-1] == (len(ARCHIVE), None)


def test_whole_part_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / PART).write_bytes(ARCHIVE)
    fetch(server, tmp_path)
    assert_fetched(tmp_path)
    assert server.ranges == [f"bytes={len(ARCHIVE)}-"]  # answered by 416


@pytest.mark.parametrize("part", [b"", b"another archive", ARCHIVE + b"more"])
def test_wrong_bytes_are_removed(server: Server, tmp_path: Path, part: bytes) -> None:
    (tmp_path / PART).write_bytes(part)
    if not part:
        server.archive = ARCHIVE[:-1] + bytes([ARCHIVE[-1] ^ 1])
    message = fails(server, tmp_path)
    assert message.count(MD5) == 1
    wrong = part + server.archive[len(part) :]
    assert hashlib.md5(wrong).hexdigest() in message
    assert list(tmp_path.iterdir()) == []
    server.archive = ARCHIVE
    fetch(server, tmp_path)
    assert_fetched(tmp_path)


def test_official_sum_holds_for_another_address(server: Server, tmp_path: Path) -> None:
    assert CIFAR10.md5 in fails(server, tmp_path, md5=None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("status", "requests"), [(404, 1), (403, 1), (416, 1), (503, 5)])
def test_refusals(server: Server, tmp_path: Path, status: int, requests: int) -> None:
    server.status = status
    message = fails(server, tmp_path / "new")
    assert message.startswith(f"{server.url}: the server answers {status} ")
    assert len(server.ranges) == requests
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["nonsense", "http://127.0.0.1:1/a", "http://[::1", "http://a b/"])
def test_addresses_that_lead_nowhere(server: Server, tmp_path: Path, url: str) -> None:
    assert fails(server, tmp_path / "new", url=url).startswith(f"{url}: ")
    assert list(tmp_path.iterdir()) == []


def test_answer_that_is_not_http(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BaseHTTPRequestHandler, "protocol_version", "\33[2J")
    assert "no answer ([2J 200 OK)" in fails(server, tmp_path)


def test_address_of_a_file(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "archive.tar.gz"
    path.write_bytes(ARCHIVE)
    fetch(server, tmp_path / "data", url=path.as_uri())
    assert_fetched(tmp_path / "data")


def link(name: str, target: str) -> dict[str, bytes | tarfile.TarInfo]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    return {name: info}


ONE = f"{CIFAR10.folder}/data_batch_1"


@pytest.mark.parametrize(
    ("archive", "reason"),
    [
        (tar_gz({ONE: b"alone"}), "not found"),
        (tar_gz({**GOOD_MEMBERS, **link(ONE, "/etc/passwd")}), "data_batch_1 is not a file"),
        (tar_gz({**GOOD_MEMBERS, **link(ONE, "data_batch_1")}), "data_batch_1 is not a file"),
        (b"", "not a whole tar.gz"),
        (b"not an archive", "not a whole tar.gz"),
        (ARCHIVE[: len(ARCHIVE) // 2], "not a whole tar.gz"),
        (ARCHIVE[:50_000] + bytes(50_000) + ARCHIVE[100_000:], "fetch another archive"),
    ],
)
def test_archives_that_are_not_right(
    server: Server, tmp_path: Path, archive: bytes, reason: str
) -> None:
    server.archive = archive
    message = fails(server, tmp_path, md5=hashlib.md5(archive).hexdigest())
    assert reason in message
    assert str(tmp_path / PART) in message
    assert list(tmp_path.iterdir()) == []


def test_members_outside_of_the_folder_are_not_written(server: Server, tmp_path: Path) -> None:
    hostile = {"../escaped": b"", f"/{tmp_path}/escaped": b"", **link(CIFAR10.folder, "..")}
    server.archive = tar_gz({**hostile, **GOOD_MEMBERS})
    destination = tmp_path / "data"
    fetch(server, destination, md5=hashlib.md5(server.archive).hexdigest())
    assert_fetched(destination)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_full_disk(server: Server, tmp_path: Path) -> None:
    (tmp_path / PART).symlink_to("/dev/full")
    message = fails(server, tmp_path)
    assert message.startswith(f"cannot write in {tmp_path}: No space left on device; ")
    assert len(server.ranges) == 1


def test_full_disk_while_unpacking(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copy(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr("shutil.copyfileobj", copy)
        assert "No space left on device" in fails(server, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [PART]
    fetch(server, tmp_path)
    assert_fetched(tmp_path)


def test_destination_that_cannot_be_made(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for destination in (tmp_path / "file", tmp_path / "file" / "data"):
        message = fails(server, destination)
        assert message.startswith(f"cannot write in {destination}: ")


def test_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(NpnetError, match="choose cifar10 or cifar100"):
        fetching.fetch("mnist", tmp_path)


Run = Callable[..., Any]


@pytest.fixture
def run() -> Run:
    return lambda *args: CliRunner().invoke(data_command, ["fetch", *map(str, args)])


def test_command(server: Server, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    message = str(run("cifar10", "--data-dir", tmp_path, "--url", server.url).exception)
    assert CIFAR10.md5 in message
    monkeypatch.setattr(fetching, "_check_md5", lambda part, md5: None)
    first = run("cifar10", "--data-dir", tmp_path, "--url", server.url)
    assert first.exit_code == 0
    assert first.output.endswith(f"cifar10 is in {tmp_path / CIFAR10.folder}\n")
    assert_fetched(tmp_path)
    asked = len(server.ranges)
    second = run("cifar10", "--data-dir", tmp_path, "--url", server.url)
    assert second.exit_code == 0
    assert second.output == f"cifar10 is already in {tmp_path}\n"
    assert len(server.ranges) == asked


def test_command_default_folder(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    seen: list[object] = []

    def record(name: str, destination: Path, **options: object) -> Path:
        seen.extend([name, destination, options["url"]])
        return destination

    monkeypatch.setattr(fetching, "fetch", record)
    assert run("cifar100").exit_code == 0
    assert seen == ["cifar100", Path("data"), None]


# --- servers that want to keep us, or to fill the disk


def files(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*")]


@pytest.mark.parametrize(
    "chunks",
    [b"zz\r\n", b"-5\r\n", b"1" * 70_000, b"\r\n", b"", b"8\r\nabc", b"7" * 15 + b"\r\nabc"],
)
def test_chunks_that_are_none(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunks: bytes
) -> None:
    monkeypatch.setattr(BaseHTTPRequestHandler, "protocol_version", "HTTP/1.1")  # has chunks
    server.chunks = chunks
    line = fails(server, tmp_path)
    assert "at the last of 5 tries" in line or "MD5" in line
    assert len(line.splitlines()) == 1
    assert [name for name in files(tmp_path) if (tmp_path / name).stat().st_size == 0] == []


def test_a_server_that_drips(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte now and then is no reason to wait for months."""
    monkeypatch.setattr(fetching, "_RATED_SECONDS", 0.1)
    server.drips = True
    line = fails(server, tmp_path)
    assert "bytes came in 0 s, at the last of 5 tries" in line


@pytest.mark.parametrize("says_length", [True, False])
def test_more_than_the_archive_is_not_taken(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says_length: bool
) -> None:
    monkeypatch.setitem(VARIANTS, "cifar10", replace(CIFAR10, size=len(ARCHIVE) - 1))
    server.says_length = says_length
    assert "larger than the" in fails(server, tmp_path)
    assert files(tmp_path) == []
    assert len(server.ranges) == 1


def test_a_device_is_not_read_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VARIANTS, "cifar10", replace(CIFAR10, size=10**6))
    with pytest.raises(NpnetError, match="larger than the 1,000,000 bytes"):
        fetching.fetch("cifar10", tmp_path, url="file:///dev/zero")
    assert files(tmp_path) == []


def test_an_archive_of_other_files_is_not_kept(server: Server, tmp_path: Path) -> None:
    server.archive = tar_gz({"readme": b"nothing else"})
    sum_of_it = hashlib.md5(server.archive).hexdigest()
    assert "fetch another archive" in fails(server, tmp_path, md5=sum_of_it)
    assert files(tmp_path) == []
