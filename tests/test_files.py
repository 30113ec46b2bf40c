"""Files as a whole or not at all, flushed, with the rights of the user; tables that are shared."""

import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from npnet.errors import NpnetError
from npnet.files import (
    LARGEST_TABLE,
    append_rows,
    locked,
    read_table,
    sweep,
    write_atomically,
    write_table,
)
from tests.launch import SOURCES, clean_environment

# Adds the rows of 50 runs to the table of all runs, each as a run does at its end.
FIFTY = """
import sys
from pathlib import Path
from npnet.training.run_folder import RunFolder
from tests.summaries import SUMMARY
print("ready", flush=True)
sys.stdin.readline()
for number in range(50):
    RunFolder(Path(sys.argv[1]) / f"{sys.argv[2]}-{number}").append_result(SUMMARY)
"""


def test_two_processes_of_fifty_rows_are_a_hundred_rows(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere" / "table.csv"
    elsewhere.parent.mkdir()
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "scaling_results.csv").symlink_to(elsewhere)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", FIFTY, str(tmp_path / "runs"), name],
            env=clean_environment() | {"PYTHONPATH": str(SOURCES)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in "ab"
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=120)
        assert process.returncode == 0
    table = tmp_path / "runs" / "scaling_results.csv"
    assert table.is_symlink()
    expected = {f"{name}-{number}" for name in "ab" for number in range(50)}
    rows = read_table(table)
    assert len(rows) == 100
    assert {row["run"] for row in rows} == expected
    assert [path.name for path in elsewhere.parent.iterdir()] == ["table.csv"]


def test_a_table_that_another_process_keeps_is_told_of_after_a_while(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    with locked(table):
        before = set(tmp_path.iterdir())
        words = rf"table\.csv: another run \(process {os.getpid()} on .* has it for 0 s"
        with pytest.raises(NpnetError, match=words), locked(table, seconds=0.1):
            pass
        assert set(tmp_path.iterdir()) == before
    with locked(table, seconds=0):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    [
        b"a,b\n1,2\n3,",
        b"a,b\n1,2\n3",
        b'a,b\n1,2\n3,"',
        b"a,b\r\n1,2\r\n3,\xc3",  # half of a letter
        b"\xef\xbb\xbfa,b\n\n1,2\n\n3,\n\n\n",
    ],
)
def test_a_last_line_that_was_cut_takes_no_other_along(tmp_path: Path, text: bytes) -> None:
    table = tmp_path / "table.csv"
    table.write_bytes(text)
    append_rows(table, ("a", "b"), [{"a": "5", "b": "6"}])
    expected = [{"a": "1", "b": "2"}, {"a": "3", "b": ""}, {"a": "5", "b": "6"}]
    assert read_table(table) == expected


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


def test_a_path_whose_bytes_are_no_text_stands_in_a_table(tmp_path: Path) -> None:
    write_table(tmp_path / "t.csv", ["run"], [{"run": os.fsdecode(b"run\xff")}])
    assert read_table(tmp_path / "t.csv") == [{"run": "run\\udcff"}]


@pytest.mark.usefixtures("umask")
def test_a_new_file_has_the_rights_that_the_umask_leaves(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.chmod(0o664)
    write_atomically(path, b"newer")
    assert stat.S_IMODE(path.stat().st_mode) == 0o664
    assert path.read_bytes() == b"newer"


def test_file_and_folder_are_flushed_around_the_renaming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = []

    def watched(name, real, what):
        def watch(*arguments):
            done.append((name, what(*arguments)))
            return real(*arguments)

        return watch

    def kind(descriptor):
        return "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"

    monkeypatch.setattr("os.fsync", watched("flush", os.fsync, kind))
    monkeypatch.setattr("os.replace", watched("rename", os.replace, lambda old, new: new.name))
    write_atomically(tmp_path / "name", b"")
    assert done == [("flush", "file"), ("rename", "name"), ("flush", "folder")]


@pytest.mark.parametrize("links", [True, False])
def test_a_file_is_made_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        monkeypatch.setattr("os.link", _refuse)
    path = tmp_path / "file"
    write_atomically(path, b"first", exclusive=True)
    with pytest.raises(FileExistsError):
        write_atomically(path, b"second", exclusive=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"file": b"first"}


def _refuse(*_: object) -> None:
    raise OSError(95, "Operation not supported")


def test_what_a_killed_write_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    mine = {".log.csv", ".log.csv.bak", ".log.csv.tmp", ".other.csv.01234567.tmp", ".bashrc12"}
    for name in mine | {".log.csv.01234567.tmp", ".log.csv.89abcdef.tmp"}:
        (tmp_path / name).touch()
    sweep(tmp_path, r"log\.csv|summary\.json")
    assert {each.name for each in tmp_path.iterdir()} == mine


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.truncate(path, LARGEST_TABLE + 1)])
def test_what_is_no_table_is_refused_before_it_is_read(
    make: Callable[[Path], None], tmp_path: Path
) -> None:
    """A pipe would keep npnet waiting; a file may say that it is larger than all memory."""
    path = tmp_path / "log.csv"
    if make is not os.mkfifo:
        path.touch()
    make(path)
    with pytest.raises(NpnetError, match=r"cannot read .*log.csv: it is (a pipe|larger than)"):
        read_table(path)
