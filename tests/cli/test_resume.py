"""`--resume` takes all from the run, says what it changes, and refuses what cannot change."""

import json
import shutil
from pathlib import Path

import pytest

from npnet.errors import NpnetError
from npnet.training.checkpoint import load
from npnet.training.recipe import BATCH_PER_RANK
from npnet.training.resume import find
from npnet.training.run_folder import RunFolder
from tests.cifar_files import write_cifar
from tests.launch import TINY, killed_in, npnet_run

# None of them the default.
OPTIONS = (
    *(*TINY, "--data-dir", "images", "--epochs", "3", "--batch-per-rank", "3", "--lr", "0.1"),
    *("--recipe", "paper", "--workers-per-rank", "2", "--bn-eval", "both", "--freeze", "stem"),
    *("--seed", "7", "--nesterov", "--evaluate", "each-epoch", "--dropout", "0.1", "--flip"),
)
FIXTURES = Path(__file__).parents[1] / "training" / "checkpoints"


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `whole` is a run of three epochs, and `run` the same, killed in its third."""
    place = tmp_path_factory.mktemp("left")
    write_cifar(place / "images")
    assert npnet_run("train", *OPTIONS, "--out", "whole", cwd=place).status == 0
    more = ("--out", "run")
    assert npnet_run("train", *OPTIONS, *more, cwd=place, patches=killed_in(2)).status == -9
    return place


@pytest.fixture
def place(left: Path, tmp_path: Path) -> Path:
    shutil.copytree(left, tmp_path, dirs_exist_ok=True)
    return tmp_path


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def info(stdout: str) -> list[str]:
    lines = [line for line in stdout.splitlines() if line.startswith("[INFO] ")]
    return [line.removeprefix("[INFO] ") for line in lines[1 : 1 + len(lines)]]


def test_the_folder_alone_is_enough(place: Path) -> None:
    outcome = npnet_run("train", "--resume", "run", "--no-progress", cwd=place)
    assert outcome.status == 0, outcome.stderr
    first, second = info(outcome.stdout)[:2]
    assert first == "Goes on from run/epoch-002.npz with epoch 3 of 3"
    assert second.startswith("mobilenet_v2 width=0.1")  # nothing is changed
    assert load(place / "run/final.npz").digest() == load(place / "whole/final.npz").digest()
    assert load(place / "run/final.npz").header == load(place / "whole/final.npz").header


def test_a_run_that_went_on_since_it_was_read_is_left_alone(place: Path) -> None:
    """As when it is started twice, and the first start ends before the second has the lock."""
    origin = find(place / "run")
    folder = RunFolder(place / "run", continued=True)
    folder.expected = origin.stamp
    outcome = npnet_run("train", "--resume", "run", "--no-progress", cwd=place)
    assert outcome.status == 0, outcome.stderr
    before = content(place / "run")
    with pytest.raises(NpnetError, match="has gone on meanwhile, in another process"):
        folder.create(origin.checkpoint)
    assert content(place / "run") == before


def test_from_within_its_folder_it_keeps_its_row_in_the_table_beside(place: Path) -> None:
    more = ("--data-dir", "../images", "--no-progress")
    outcome = npnet_run("train", "--resume", ".", *more, cwd=place / "run")
    assert outcome.status == 0, outcome.stderr
    assert not list((place / "run").glob("*_results.csv"))
    (table,) = place.glob("*_results.csv")
    assert ",run\n" in table.read_text()


def test_what_a_run_began_from_is_found_from_any_folder_or_missed_by_name(place: Path) -> None:
    """One that has no checkpoint of its own yet, as it was killed in its first epoch."""
    branch = ("--resume", "run/epoch-001.npz", "--out", "branch", "--no-progress")
    assert npnet_run("train", *branch, cwd=place, patches=killed_in(1)).status == -9
    assert find(place / "branch").checkpoint is not None
    (place / "run").rename(place / "elsewhere")
    with pytest.raises(NpnetError, match="has no checkpoint of its own yet and began from another"):
        find(place / "branch")


def test_a_trace_does_not_replace_another_file(place: Path) -> None:
    before = (place / "run/log.csv").read_bytes()
    more = ("--trace", "run/log.csv", "--no-progress")
    outcome = npnet_run("train", "--resume", "run", *more, cwd=place)
    assert outcome.status == 2
    assert "run/log.csv is no trace but another file: give another to --trace" in outcome.stderr
    assert (place / "run/log.csv").read_bytes() == before


def test_what_the_command_line_changes_is_told_and_kept_apart(place: Path) -> None:
    before = (place / "run/config.json").read_bytes()
    more = ("--lr", "0.05", "--no-nesterov", "--epochs", "4", "--no-progress")
    outcome = npnet_run("train", "--resume", "run", *more, cwd=place)
    assert outcome.status == 0, outcome.stderr
    changed = "Changed: lr 0.1 -> 0.05, nesterov True -> False, epochs 3 -> 4"
    assert info(outcome.stdout)[1] == changed
    assert (place / "run/config.json").read_bytes() == before
    config = json.loads((place / "run/config-2.json").read_text())
    assert (config["recipe"]["lr"], config["resumed_from"]) == (
        0.05,
        str(place / "run/epoch-002.npz"),
    )
    again = npnet_run("train", "--resume", "run", "--epochs", 5, "--no-progress", cwd=place)
    assert info(again.stdout)[1] == "Changed: epochs 4 -> 5"  # since the last start


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (("--width", "0.2"), "--width 0.1"),
        (("--model", "squeezenet1_1"), "--model mobilenet_v2"),
        (("--recipe", "modern"), "--recipe paper"),
        (("--dataset", "shapes"), "--dataset cifar10"),
        (("--padding", "tf_same"), "--padding symmetric"),
    ],
)
def test_what_cannot_change_is_refused(place: Path, option: tuple[str, str], words: str) -> None:
    before = content(place / "run")
    error = npnet_run("train", "--resume", "run", *option, cwd=place).error
    assert f" {words} " in error
    assert error.endswith(": give the same to continue it, or nothing")
    assert content(place / "run") == before


def test_other_images_under_the_same_name_are_refused(place: Path) -> None:
    before = content(place / "run")
    write_cifar(place / "others", seed=1)
    error = npnet_run("train", "--resume", "run", "--data-dir", "others", cwd=place).error
    assert "holds other images than run/epoch-002.npz was trained on" in error
    assert content(place / "run") == before


def test_a_damaged_checkpoint_is_told_and_the_one_before_is_taken(place: Path) -> None:
    newest = place / "run/epoch-002.npz"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 255
    newest.write_bytes(data)
    outcome = npnet_run("train", "--resume", "run", "--no-progress", cwd=place)
    assert outcome.status == 0, outcome.stderr
    first, second = info(outcome.stdout)[:2]
    assert first.startswith("run/epoch-002.npz is damaged")
    assert first.endswith("; the one before it is taken")
    assert second == "Goes on from run/epoch-001.npz with epoch 2 of 3"
    assert load(place / "run/final.npz").digest() == load(place / "whole/final.npz").digest()
    (place / "run/epoch-003.npz").write_bytes(b"")
    for name in ("epoch-001.npz", "epoch-002.npz"):
        (place / "run" / name).unlink()
    error = npnet_run("train", "--resume", "run", "--epochs", "4", cwd=place).error
    assert "epoch-003.npz is not a checkpoint, or was cut short" in error  # nothing is left


def test_a_run_that_was_killed_in_its_first_epoch_begins_once_more(place: Path) -> None:
    more = ("--out", "young")
    assert npnet_run("train", *OPTIONS, *more, cwd=place, patches=killed_in(0)).status == -9
    outcome = npnet_run("train", "--resume", "young", "--no-progress", cwd=place)
    assert outcome.status == 0, outcome.stderr
    assert info(outcome.stdout)[0] == "young has no checkpoint yet: it begins once more"
    assert load(place / "young/final.npz").digest() == load(place / "whole/final.npz").digest()


@pytest.mark.mpi
def test_ranks_finish_a_run_that_was_killed_after_its_last_epoch(place: Path) -> None:
    options = (*TINY, "--data-dir", "images", "--epochs", "2", "--bn-eval", "recalibrated")
    assert npnet_run("train", *options, "--out", "end", cwd=place, ranks=2).status == 0
    before = content(place / "end")
    for name in ("final.npz", "summary.json"):
        (place / "end" / name).unlink()
    outcome = npnet_run("train", "--resume", "end", "--no-progress", cwd=place, ranks=2)
    assert outcome.status == 0, outcome.stderr
    words = "Goes on from end/epoch-002.npz: all 2 epochs are done, its end is left"
    assert info(outcome.stdout)[0] == words
    after = content(place / "end")
    names = {name for name in before if before[name] != after[name]}
    assert names <= {"summary.json", "final.npz"}  # which may write 2 as 2.0
    (place / "first.npz").write_bytes(before["final.npz"])
    first, second = load(place / "first.npz"), load(place / "end/final.npz")
    assert (first.header, first.digest()) == (second.header, second.digest())
    summaries = [json.loads(each["summary.json"]) for each in (before, after)]
    for name in ("train_loss", "train_acc", "test_loss", "test_acc", "recalibrated_test_acc"):
        assert summaries[0][name] == summaries[1][name]
    error = npnet_run("train", "--resume", "end", cwd=place, ranks=2).error
    assert "nothing is left to train" in error


def test_a_run_that_goes_on_elsewhere_leaves_its_folder_as_it_is(place: Path) -> None:
    before = content(place / "run")
    more = ("--out", "other", "--no-progress")
    killed = npnet_run("train", "--resume", "run", *more, cwd=place, patches=killed_in(2))
    assert killed.status == -9  # before a checkpoint of its own
    outcome = npnet_run("train", "--resume", "other", "--no-progress", cwd=place)
    assert outcome.status == 0, outcome.stderr
    begin = f"Goes on from {place / 'run/epoch-002.npz'} with epoch 3 of 3"
    assert info(outcome.stdout)[0] == begin
    assert content(place / "run") == before
    assert load(place / "other/final.npz").digest() == load(place / "whole/final.npz").digest()


def test_later_epochs_are_not_forgotten_without_a_word(place: Path) -> None:
    before = content(place / "whole")
    error = npnet_run("train", "--resume", "whole/epoch-001.npz", cwd=place).error
    assert "is not the last of its run, there is epoch-003.npz: give --out whole to" in error
    assert content(place / "whole") == before


def test_what_is_no_run_is_told(place: Path) -> None:
    assert "images holds no run" in npnet_run("train", "--resume", "images", cwd=place).error
    (place / "run/config.json").write_text("{")
    assert "cannot read run/config" in npnet_run("train", "--resume", "run", cwd=place).error


def test_a_checkpoint_of_an_older_npnet_takes_what_it_lacks_from_its_run(tmp_path: Path) -> None:
    shutil.copy(FIXTURES / "version-3.npz", tmp_path)
    alone = find(tmp_path / "version-3.npz")
    assert alone.settings.batch_per_rank == BATCH_PER_RANK
    assert "does not tell its batch" in alone.said[0]
    assert (alone.settings.epochs, alone.world, alone.folder) == (10, 2, None)
    settings = {"epochs": 10, "batch_per_rank": 5, "seed": 1, "ranks_per_node": 2, "gone": 1}
    config = {"settings": settings, "dataset": {"location": str(tmp_path)}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    beside = find(tmp_path / "version-3.npz")
    assert (beside.settings.batch_per_rank, beside.said) == (5, ())
    assert (beside.folder, beside.place()) == (tmp_path, tmp_path)
