"""One run a folder: who comes second is told so, or gets another name, and touches nothing."""

import csv
import errno
import fcntl
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from npnet.errors import NpnetError
from npnet.files import write_atomically
from npnet.training.run_folder import Done, RunFolder
from tests.launch import SOURCES, clean_environment
from tests.summaries import SUMMARY

# Takes the folder when told to, says which it got, and keeps it until it is told to end.
TAKE = """
import sys
from pathlib import Path
from npnet.errors import NpnetError
from npnet.training.run_folder import RunFolder
folder = RunFolder(Path(sys.argv[1]), proposed=sys.argv[2] == "proposed")
print("ready", flush=True)
sys.stdin.readline()
try:
    folder.create()
    print(folder.path, flush=True)
except NpnetError as error:
    print("refused:", error, flush=True)
sys.stdin.readline()
"""


class Others:
    """Other processes that take a folder, all at the same time."""

    def __init__(self, count: int, folder: Path, how: str) -> None:
        self.line = [sys.executable, "-c", TAKE, str(folder), how]
        self.count = count

    def __enter__(self) -> "Others":
        environment = clean_environment() | {"PYTHONPATH": str(SOURCES)}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.processes = [
            subprocess.Popen(self.line, env=environment, **pipes) for _ in range(self.count)
        ]
        return self

    def __exit__(self, *error: object) -> None:
        for process in self.processes:
            process.communicate("\n\n", timeout=60)

    def take(self) -> list[str]:
        """What each of them says to it."""
        for process in self.processes:
            assert process.stdout.readline() == "ready\n"
        for process in self.processes:
            process.stdin.write("\n")
            process.stdin.flush()
        return [process.stdout.readline().strip() for process in self.processes]

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait(60)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_proposed_name_that_is_taken_gets_a_number(tmp_path: Path) -> None:
    with Others(4, tmp_path / "runs" / "name", "proposed") as others:
        names = sorted(Path(answer).name for answer in others.take())
        assert names == ["name", "name-2", "name-3", "name-4"]
    again = RunFolder(tmp_path / "runs" / "name", proposed=True)
    again.create()
    assert again.path.name == "name-5"


def test_a_chosen_folder_is_had_by_one(tmp_path: Path) -> None:
    with Others(4, tmp_path / "run", "chosen") as others:
        refusals = [answer for answer in others.take() if answer.startswith("refused: ")]
        assert len(refusals) == 3
        for refusal in refusals:
            assert f"{tmp_path}/run is held by another run (" in refusal
            assert "choose another `out`" in refusal
        assert content(tmp_path / "run")


def test_a_run_that_ends_leaves_no_claim(tmp_path: Path) -> None:
    with Others(1, tmp_path / "run", "chosen") as others:
        assert others.take() == [str(tmp_path / "run")]
    assert content(tmp_path / "run") == {}
    RunFolder(tmp_path / "run").create()


def test_a_killed_run_holds_nothing(tmp_path: Path) -> None:
    with Others(1, tmp_path / "run", "chosen") as others:
        others.take()
        with pytest.raises(NpnetError, match="is held by another run"):
            RunFolder(tmp_path / "run").create()
        others.kill()
        assert content(tmp_path / "run")  # nobody has cleared up
        folder = RunFolder(tmp_path / "run")
        folder.create()
    folder.write_summary({})
    assert set(content(tmp_path / "run")) == {"summary.json"}


def test_a_run_in_the_same_process_is_another_run_too(tmp_path: Path) -> None:
    """As of a notebook. Who was refused has not lifted the claim either."""
    folder = RunFolder(tmp_path)
    folder.create()
    before = content(tmp_path)
    for _ in range(2):
        with pytest.raises(NpnetError, match="is held by another run"):
            RunFolder(tmp_path).create()
    assert content(tmp_path) == before
    folder.write_summary({})
    RunFolder(tmp_path, continued=True).create()


@pytest.mark.parametrize(
    "name",
    [
        *("config.json", "config-2.json", "log.csv", "summary.json", "final.npz"),
        *("best.npz", "epoch-001.npz", "step-001-000005.npz"),
    ],
)
def test_any_file_of_a_run_makes_a_folder_a_run_s(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("of a run")
    before = content(tmp_path)
    with pytest.raises(NpnetError, match=rf"holds a run already \({name}\): choose another"):
        RunFolder(tmp_path).create()
    assert content(tmp_path) == before


def test_a_disk_without_locks_lets_one_run_in_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "fcntl", lambda *_: None)  # as if each had it
    first, second = RunFolder(tmp_path), RunFolder(tmp_path)
    first.create()
    second.create()
    first.write_config({"run": 1})
    with pytest.raises(NpnetError, match="holds a run already"):
        second.write_config({"run": 2})
    assert json.loads(first.config.read_text()) == {"run": 1}


def test_each_start_has_a_config_of_its_own(tmp_path: Path) -> None:
    for number in range(1, 4):
        folder = RunFolder(tmp_path, continued=True)
        folder.create()
        folder.write_config({"start": number})
        assert json.loads(folder.newest_config.read_text()) == {"start": number}
        del folder
    assert set(content(tmp_path)) == {"config.json", "config-2.json", "config-3.json"}
    assert json.loads((tmp_path / "config.json").read_text()) == {"start": 1}


def test_a_user_s_own_files_stay(tmp_path: Path) -> None:
    for name in (".writable", ".lock", "lock", "notes.txt"):
        (tmp_path / name).write_text("mine")
    before = content(tmp_path)
    folder = RunFolder(tmp_path)
    folder.create()
    folder.write_summary({})
    assert content(tmp_path) == before | {"summary.json": b"{}\n"}


def test_a_file_where_the_folder_s_parent_should_be(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("mine")
    with pytest.raises(NpnetError, match="cannot make the run folder"):
        RunFolder(tmp_path / "runs" / "name", proposed=True).create()


def test_a_disk_that_knows_no_locks_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    with pytest.warns(UserWarning, match="No locks available.*no other run"):
        RunFolder(tmp_path).create()


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_of_runs_tells_speedup_over_two_ranks_of_the_same_work(tmp_path: Path) -> None:
    for name, world, seconds, model in (
        ("a", 2, 100.0, "mobilenet_v2"),
        ("b", 8, 40.0, "mobilenet_v2"),
        ("c", 8, 20.0, "squeezenet1_1"),
    ):
        summary = replace(SUMMARY, world=world, wall_seconds=seconds, model=model)
        RunFolder(tmp_path / name).append_result(summary)
    table = rows(tmp_path / "scaling_results.csv")
    assert [row["speedup"] for row in table] == ["", "2.500", ""]
    assert [row["run"] for row in table] == ["a", "b", "c"]


def test_trials_are_not_mixed_with_runs(tmp_path: Path) -> None:
    RunFolder(tmp_path / "a").append_result(replace(SUMMARY, max_steps=2))
    RunFolder(tmp_path / "b").append_result(replace(SUMMARY, test_acc=None, test_loss=None))
    (trial,), (run,) = rows(tmp_path / "trial_results.csv"), rows(tmp_path / "scaling_results.csv")
    assert (trial["run"], run["run"]) == ("a", "b")
    assert (trial["test_acc_pct"], run["test_acc_pct"]) == ("45.00", "")


def test_a_table_of_an_older_npnet_keeps_its_rows(tmp_path: Path) -> None:
    """Windows' line ends, a byte order mark and a blank line do no harm; a link stays one."""
    table = tmp_path / "scaling_results.csv"
    elsewhere = tmp_path / "elsewhere.csv"
    elsewhere.write_bytes(b"\xef\xbb\xbfworld,epochs,note\r\n2,10,mine\r\n\r\n")
    table.symlink_to(elsewhere)
    RunFolder(tmp_path / "a").append_result(SUMMARY)
    assert table.is_symlink()
    old, new = rows(table)
    assert (old["world"], old["note"], old["run"]) == ("2", "mine", "")
    assert (new["world"], new["note"], new["run"]) == ("2", "", "a")


def test_a_broken_table_of_runs_is_told_and_left_alone(tmp_path: Path) -> None:
    table = tmp_path / "scaling_results.csv"
    table.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(NpnetError, match=r"scaling_results\.csv is not a table in CSV"):
        RunFolder(tmp_path / "a").append_result(SUMMARY)
    assert table.read_bytes() == b"\xff\xfe\x00"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("world,note\n2,mine,more\n", "line 2 has more cells than there are columns"),
        ("world,note,note\n2,one,two\n", "two columns have the same name"),
        ("world;note\n2;mine\n", "its cells are parted by ;"),
    ],
)
def test_a_table_that_would_lose_cells_is_told_before_the_run(
    tmp_path: Path, text: str, words: str
) -> None:
    table = tmp_path / "scaling_results.csv"
    table.write_text(text)
    with pytest.raises(NpnetError, match=words):
        RunFolder(tmp_path / "a").create()
    assert table.read_text() == text


def test_a_run_goes_on_after_an_epoch_that_is_in_its_log(tmp_path: Path) -> None:
    """Killed between an epoch's checkpoint and its rows, it makes that epoch again."""
    folder = RunFolder(tmp_path)
    for number in (1, 2, 3):
        folder.epoch(number).touch()
    assert folder.newest_checkpoint() is None
    folder.append_log([{"epoch": 1, "worker": 0}, {"epoch": 2, "worker": 0}])
    assert folder.valid_checkpoints() == [folder.epoch(2), folder.epoch(1)]
    folder.step(Done(2, 5)).touch()
    folder.step(Done(1, 5)).touch()  # of an epoch that has been finished
    assert folder.newest_checkpoint() == folder.path / "step-003-000005.npz"
    assert len(folder.valid_checkpoints()) == 3


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\ufeffepoch,loss\r\n1,2.5\r\n\r\n2,2.4\r\n",
        "loss,epoch\n2.5,1\n2.4,2\n",
    ],
)
def test_a_log_that_people_have_edited_forgets_repeated_epochs(tmp_path: Path, text: str) -> None:
    folder = RunFolder(tmp_path)
    folder.log.write_text(text, newline="")
    folder._forget_epochs(1)
    assert [(row["epoch"], row["loss"]) for row in folder.read_log()] == [("1", "2.5")][: len(text)]


def test_a_log_without_epochs_is_told_and_left_alone(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.log.write_text("epoch,loss\nx,2.5\n")
    with pytest.raises(NpnetError, match=r"log\.csv has a row without an epoch"):
        folder._forget_epochs(1)
    assert folder.log.read_text() == "epoch,loss\nx,2.5\n"


def test_what_is_no_file_is_not_replaced_by_one(tmp_path: Path) -> None:
    """Such as a device: root could make a file of /dev/full."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(NpnetError, match="pipe: it is no file"):
        write_atomically(pipe, b"")
    assert pipe.is_fifo()
