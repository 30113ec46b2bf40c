"""Bad input: one clear line, a non-zero status of every rank, and nothing half-written."""

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from npnet.cli import options
from npnet.data import DATASETS
from npnet.kernels import BACKENDS
from npnet.parallel.strategies import STRATEGIES
from npnet.training.checkpoint import load
from npnet.training.recipe import RECIPES
from npnet.training.run_folder import RunFolder
from npnet.training.warmup import DTYPES
from tests.cifar_files import IMAGES, change, write, write_cifar
from tests.launch import SERIAL_AND_MPI, TINY, killed_in, npnet_run

ROWS = IMAGES // 5  # of each file of CIFAR-10

# A disk that is full from epoch 2 on: no file may grow beyond a few bytes.
FULL_DISK = """
import resource
train_epoch = Trainer.train_epoch
def fill_then_train(self, epoch):
    if epoch == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    return train_epoch(self, epoch)
Trainer.train_epoch = fill_then_train
"""

# All ranks' weights, after epoch 2.
DIVERGE_LATER = """
train_epoch = Trainer.train_epoch
def spoil(self, epoch):
    results = train_epoch(self, epoch)
    self.parameters.values[:] *= float("nan") if epoch == 1 else 1
    return results
Trainer.train_epoch = spoil
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a finished run of two epochs."""
    place = tmp_path_factory.mktemp("trained")
    write_cifar(place / "data")
    outcome = npnet_run("train", *TINY, "--epochs", 2, "--out", "run", cwd=place)
    assert outcome.status == 0, outcome.stderr
    return place / "run" / "final.npz"


def refusal(place: Path, *arguments: str | Path, command: str = "train", **how) -> str:
    """The one line by which npnet refuses a run, which leaves the folder just as it was."""
    before = files(place)
    given = (*TINY, "--out", "run") if command == "train" else ()
    outcome = npnet_run(command, *given, *arguments, cwd=place, **how)
    line = outcome.error
    assert set(outcome.statuses) == {2}
    assert files(place) == before
    return line


def files(place: Path) -> dict[Path, bytes | None]:
    """Everything below a folder, hidden files and empty folders too."""
    return {path: path.read_bytes() if path.is_file() else None for path in place.rglob("*")}


def test_the_choices_are_the_engines_own() -> None:
    assert options.DATASETS == DATASETS
    assert set(options.RECIPES) == set(RECIPES)
    assert set(options.STRATEGIES) == set(STRATEGIES)
    assert options.DTYPES == DTYPES
    assert set(options.BACKENDS) == set(BACKENDS)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--input-size", "31"], ["--input-size", "31", ">=32"]),
        (["--input-size", "large"], ["--input-size", "'large'", "integer"]),
        (["--dataset", "mnist"], ["'mnist'", *DATASETS]),
        (["--recipe", "best"], ["'best'", *RECIPES]),
        (["--sync", "none"], ["'none'", *STRATEGIES]),
        (["--backend", "cuda"], ["'cuda'", *BACKENDS]),
        (["--epochs", "0"], ["--epochs", ">=1"]),
        (["--threads", "0"], ["--threads", "1<=x<=1024"]),
        (["--lr", "nan"], ["--lr", "nan", "finite"]),
        (["--weight-decay", "inf"], ["--weight-decay", "inf", "finite"]),
        (["--width", "nan"], ["--width", "nan"]),
        (["--width", "1e9"], ["width", "0.5"]),
        (["--momentum", "1"], ["--momentum", "<1"]),
        (["--epocs", "3"], ["--epocs", "--epochs"]),
        (["surplus"], ["surplus"]),
        (["--ranks-per-node", "3"], ["1 ranks", "nodes of 3"]),
        (["--batch-per-node", "5", "--batch-per-rank", "2"], ["--batch-per-node 5", "one of"]),
        (["--sync-bn", "--sync", "weights"], ["--sync-bn", "weights", "--sync gradients"]),
        (
            ["--sync-bn", "--workers-per-rank", "2"],
            ["--workers-per-rank", "--batch-per-rank of 24"],
        ),
        (["--sync-bn", "--batch-per-rank", "1"], ["--sync-bn", "2 or more"]),
        (["--workers-per-rank", "0"], ["--workers-per-rank", ">=1"]),
        (["--workers-per-rank", "3", "--ranks-per-node", "2"], ["3 ranks", "nodes of 2"]),
        (["--bn-eval", "none"], ["'none'", "moving", "recalibrated", "both"]),
        (["--sync-steps", "0"], ["--sync-steps", ">=1"]),
        (["--sync-steps", "3", "--sync", "gradients"], ["--sync-steps", "--sync weights"]),
        (["--independent-init"], ["--independent-init", "--sync gradients", "--sync weights"]),
        (["--batch-per-rank", f"{IMAGES + 1}"], [f"batch of {IMAGES + 1}", f"shard of {IMAGES}"]),
    ],
    ids=" ".join,
)
def test_options(place: Path, arguments: list[str], words: list[str]) -> None:
    line = refusal(place, *arguments)
    assert not [word for word in words if word not in line], line


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--input-size", "31"], ["--input-size", ">=32"]),
        (["--ranks-per-node", "3"], ["2 ranks", "nodes of 3"]),
        (["--batch-per-node", "3"], ["--batch-per-node 3", "2 ranks a node", "multiple of 2"]),
        (["--batch-per-rank", "16"], ["batch of 16", f"shard of {IMAGES // 2}", "2 ranks"]),
    ],
    ids=" ".join,
)
def test_options_of_ranks(place: Path, arguments: list[str], words: list[str]) -> None:
    line = refusal(place, *arguments, ranks=2)
    assert not [word for word in words if word not in line], line


@pytest.mark.mpi
def test_a_slow_root_still_speaks(place: Path) -> None:
    """The other rank, done long before, must not end the run and the message with it."""
    slow = "import time; time.sleep(2 * (rank == 0))"
    assert "--input-size" in refusal(place, "--input-size", "31", ranks=2, patches=slow)


def test_no_command_shows_the_help(tmp_path: Path) -> None:
    outcome = npnet_run(cwd=tmp_path)
    assert outcome.status == 2
    assert not outcome.errors
    assert "mpiexec -n 2 npnet train" in outcome.stdout + outcome.stderr


# --- datasets


@SERIAL_AND_MPI
def test_no_dataset(tmp_path: Path, ranks: int | None) -> None:
    environment = {"NPNET_DATA": str(tmp_path / "one"), "HOME": str(tmp_path / "home")}
    line = refusal(tmp_path, ranks=ranks, environment=environment)
    for looked_in in ("one", "data", "home/.keras/datasets"):
        assert str(tmp_path / looked_in) in line
    assert line.endswith("npnet data fetch cifar10")


def test_no_dataset_in_the_given_folder(tmp_path: Path) -> None:
    line = refusal(tmp_path, "--dataset", "cifar100", "--data-dir", "else where")
    assert "cifar100 is not in else where" in line
    assert line.endswith("npnet data fetch cifar100 --data-dir 'else where'")


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def remove(file: Path) -> None:
    file.unlink()


def wrong_shape(file: Path) -> None:
    change(file, data=np.zeros((ROWS, 3071), np.uint8))


def wrong_dtype(file: Path) -> None:
    change(file, data=np.zeros((ROWS, 3072), np.float32))


def wrong_label(file: Path) -> None:
    change(file, labels=[0] * (ROWS - 1) + [10])


def too_few_labels(file: Path) -> None:
    change(file, labels=[0])


def hostile(file: Path) -> None:
    class Call:
        def __reduce__(self):
            return print, ("called",)

    write(file, {"data": Call()})


ANY_FILE = [(cut, "not a whole pickle"), (empty, "not a whole pickle"), (remove, "No such file")]


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch"])
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        *ANY_FILE,
        (wrong_shape, f"({ROWS}, 3071)"),
        (wrong_dtype, "float32"),
        (wrong_label, f"labels[{ROWS - 1}] is 10, outside of 0 <= label < 10"),
        (too_few_labels, f"{ROWS} images but 1 labels"),
        (hostile, "not a plain pickle"),
    ],
)
def test_a_damaged_dataset(place: Path, name: str, damage, words: str) -> None:
    """Also of the test split, which is not needed before the first epoch has ended."""
    damage(place / "data" / "cifar-10-batches-py" / name)
    line = refusal(place)
    assert name in line
    assert words in line
    assert "fetch it again" in line


@pytest.mark.parametrize(("damage", "words"), ANY_FILE)
def test_damaged_class_names(place: Path, damage, words: str) -> None:
    test_a_damaged_dataset(place, "batches.meta", damage, words)


@pytest.mark.mpi
def test_a_dataset_damaged_on_one_node(place: Path) -> None:
    """Each rank has its own copy; the one with a wrong label is named, by rank and file."""
    other = write_cifar(place / "other")
    wrong_label(other / "data_batch_2")
    copies = [{"NPNET_DATA": str(place / copy)} for copy in ("data", "other")]
    line = refusal(place, ranks=2, of_rank=copies)
    assert line.startswith("rank 1 (")
    assert str(other / "data_batch_2") in line
    assert "outside of 0 <= label < 10" in line


@pytest.mark.mpi
def test_another_dataset_on_one_node(place: Path) -> None:
    """As many images, but one of them is another: nothing else would ever tell."""
    other = write_cifar(place / "other", seed=1)
    copies = [{"NPNET_DATA": str(place / copy)} for copy in ("data", "other")]
    line = refusal(place, ranks=2, of_rank=copies)
    assert line.startswith("rank 1 (")
    assert "has dataset digest = " in line
    assert other.exists()


# --- the run folder


@SERIAL_AND_MPI
def test_an_output_folder_that_cannot_be(place: Path, ranks: int | None) -> None:
    (place / "file").write_text("")
    assert "file/run: Not a directory" in refusal(place, "--out", "file/run", ranks=ranks)


@pytest.mark.parametrize("out", ["/proc/run", "/dev/null", "n" * 300])
def test_other_output_folders_that_cannot_be(place: Path, out: str) -> None:
    line = refusal(place, "--out", out)
    assert out in line
    assert "another --out" in line


def test_a_run_is_not_written_over(place: Path, trained: Path) -> None:
    shutil.copytree(trained.parent, place / "run")
    line = refusal(place)
    assert "holds a run already" in line
    assert "--resume" in line


@SERIAL_AND_MPI
def test_a_folder_that_another_run_holds(place: Path, ranks: int | None) -> None:
    """From its start on, long before it leaves a first epoch."""
    other = RunFolder(place / "run")
    other.create()
    line = refusal(place, ranks=ranks)
    assert f"run is held by another run (process {os.getpid()} on " in line
    assert line.endswith("choose another --out, or wait for its end")
    del other
    outcome = npnet_run("train", *TINY, "--out", "run", cwd=place, ranks=ranks)
    assert outcome.status == 0, outcome.stderr


@SERIAL_AND_MPI
def test_two_runs_that_start_in_one_second(place: Path, ranks: int | None) -> None:
    """Each rank of the second knows its new name, which stands in what it says of a divergence."""
    clock = "import npnet.cli.train as t; t.default_folder = lambda *a: t.Path('runs/now')"
    first = npnet_run("train", *TINY, cwd=place, patches=clock)
    assert first.status == 0, first.stderr
    before = files(place / "runs" / "now")
    more = ("--epochs", 2, "--recipe", "paper", "--sync", "gradients")
    second = npnet_run(
        "train", *TINY, *more, cwd=place, ranks=ranks, patches=clock + "\n" + DIVERGE_LATER
    )
    assert "the weights of epoch 1 are kept in runs/now-2/epoch-001.npz" in second.error
    assert not second.error.startswith("rank")
    assert files(place / "runs" / "now") == before
    left = {path.name for path in (place / "runs" / "now-2").iterdir()}
    assert left == {"config.json", "log.csv", "epoch-001.npz"}


def test_what_cannot_be_replaced_in_the_output_folder(place: Path) -> None:
    """The row for the figures comes last, but that it cannot be written is found out first."""
    (place / "scaling_results.csv").mkdir()
    outcome = npnet_run("train", *TINY, "--out", "run", cwd=place)
    assert "cannot add a row to scaling_results.csv" in outcome.error
    assert not list((place / "run").iterdir())


def test_a_full_disk_at_the_start(place: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))"
    outcome = npnet_run("train", *TINY, "--out", "run", cwd=place, patches=limit)
    assert "cannot write run/config.json" in outcome.error
    assert "free some space" in outcome.error
    assert not list((place / "run").iterdir())


@SERIAL_AND_MPI
def test_a_disk_that_fills(place: Path, ranks: int | None) -> None:
    """The first epoch stays, whole; of the others there is nothing, but for how far they came."""
    outcome = npnet_run(
        *("train", *TINY, "--epochs", 3, "--out", "run"),
        cwd=place,
        ranks=ranks,
        patches=FULL_DISK,
    )
    assert "warning: cannot write run/epoch-002.npz" in outcome.stderr
    assert "cannot write run/epoch-003.npz" in outcome.error
    assert "run/epoch-001.npz is kept" in outcome.error
    assert set(outcome.statuses) == {2}
    left = {path.name for path in (place / "run").iterdir()}
    files = {"config.json", "log.csv", "epoch-001.npz", "best.npz"}
    assert left - {".npnet-reached"} == files
    assert load(place / "run" / "epoch-001.npz").header.epoch == 1


# --- checkpoints


def resume(place: Path, checkpoint: Path, *arguments: str, **how) -> str:
    return refusal(place, "--epochs", "4", "--resume", checkpoint, *arguments, **how)


@pytest.mark.parametrize("command", ["train", "evaluate"])
@pytest.mark.parametrize("part", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_checkpoint(place: Path, trained: Path, command: str, part: float) -> None:
    data = trained.read_bytes()
    cut_short = place / "cut.npz"
    cut_short.write_bytes(data[: int(part * len(data))])
    options = [cut_short] if command == "evaluate" else ["--epochs", "4", "--resume", cut_short]
    line = refusal(place, *options, command=command)
    assert "cut.npz is not a checkpoint, or was cut short" in line


@pytest.mark.parametrize("part", [0.0, 0.01, 0.3, 0.6, 0.9, 1.0])
def test_a_flipped_bit(place: Path, trained: Path, part: float) -> None:
    data = bytearray(trained.read_bytes())
    data[int(part * (len(data) - 1))] ^= 16
    (place / "flipped.npz").write_bytes(data)
    line = resume(place, place / "flipped.npz")
    assert "flipped.npz" in line
    assert "use another" in line


@SERIAL_AND_MPI
def test_a_flipped_byte(place: Path, trained: Path, ranks: int | None) -> None:
    data = bytearray(trained.read_bytes())
    data[len(data) // 2] ^= 255
    (place / "flipped.npz").write_bytes(data)
    assert "flipped.npz is damaged" in resume(place, place / "flipped.npz", ranks=ranks)


@pytest.mark.parametrize("other", [("--width", "0.2"), ("--input-size", "64")], ids=" ".join)
def test_a_checkpoint_of_another_architecture(
    place: Path, trained: Path, other: tuple[str, str]
) -> None:
    assert "--width 0.1 --input-size 32" in resume(place, trained, *other)


@SERIAL_AND_MPI
def test_a_checkpoint_of_other_classes(place: Path, trained: Path, ranks: int | None) -> None:
    write_cifar(place / "data", "cifar100")
    line = resume(place, trained, "--dataset", "cifar100", ranks=ranks)
    assert "was trained with --dataset cifar10" in line


def test_evaluating_on_a_dataset_of_other_classes(place: Path, trained: Path) -> None:
    write_cifar(place / "data", "cifar100")
    line = refusal(place, trained, "--dataset", "cifar100", command="evaluate")
    assert "10 classes" in line
    assert "100" in line


def test_resuming_what_is_no_checkpoint(place: Path, trained: Path) -> None:
    assert "No such file" in resume(place, Path("missing.npz"))
    assert "data holds no run" in resume(place, place / "data")
    np.savez(place / "arrays.npz", values=np.zeros(3))
    assert "arrays.npz" in resume(place, place / "arrays.npz")


def test_resuming_a_finished_run(place: Path, trained: Path) -> None:
    line = refusal(place, "--epochs", "2", "--resume", trained)
    assert "2 of 2 epochs" in line
    assert "more --epochs" in line


# --- a file of options


@SERIAL_AND_MPI
def test_a_missing_options_file(place: Path, ranks: int | None) -> None:
    assert "missing.toml: No such file" in refusal(place, "--config", "missing.toml", ranks=ranks)


@pytest.mark.mpi
def test_an_options_file_missing_on_one_node(place: Path) -> None:
    """The rank that cannot read it is not the one that prints."""
    (place / "options.toml").write_text("seed = 1\n")
    elsewhere = "import os; os.chdir('/' if rank else '.')"
    line = refusal(place, "--config", "options.toml", ranks=2, patches=elsewhere)
    assert line.startswith("rank 1 (")
    assert "options.toml: No such file" in line


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("bath-per-rank = 2", "'bath-per-rank', which is no option"),
        ("[run]\nseed = 2", "'run', which is no option"),
        ("seed 2", "not TOML"),
        ("seed = 1\nseed = 2", "not TOML"),
        ("seed = 'x'", "'x' is not a valid integer"),
        ("seed = 1.5", "'1.5' is not a valid integer"),
        ("seed = 2020-02-02", "2020-02-02"),
        ("seed = [1, 2]", "seed to several values"),
        ("freeze = [['stem']]", "freeze to several values"),
        ("flip = 7", "'7' is not a valid boolean"),
        ("lr = nan", "nan is not a finite number"),
        ("recipe = 'best'", "'best' is not one of 'modern', 'paper'"),
        ("\N{SNOWMAN}", "not TOML"),
    ],
)
def test_options_files(place: Path, text: str, words: str) -> None:
    (place / "options.toml").write_text(text, encoding="utf-8")
    assert words in refusal(place, "--config", "options.toml")


def test_an_options_file_of_bytes(place: Path) -> None:
    (place / "options.toml").write_bytes(b"\xff\xfe")
    assert "not TOML" in refusal(place, "--config", "options.toml")


def test_an_options_file_counts_and_the_command_line_wins(place: Path) -> None:
    text = 'recipe = "paper"\nlr = 0.25\nflip = true\nmomentum = 0.5\nfreeze_bn = true\n'
    (place / "options.toml").write_text(text)
    more = ("--config", "options.toml", "--momentum", "0.75")
    outcome = npnet_run("train", *TINY, *more, "--out", "run", cwd=place)
    assert outcome.status == 0, outcome.stderr
    header = load(place / "run" / "final.npz").header.recipe
    assert (header.name, header.lr, header.momentum) == ("paper", 0.25, 0.75)
    assert header.flip is True


@pytest.mark.parametrize("several", ["'stem'", "['stem', 'block1.*']"])
def test_an_options_file_may_repeat_what_the_command_line_may(place: Path, several: str) -> None:
    (place / "options.toml").write_text(f"freeze = {several}")
    outcome = npnet_run("train", *TINY, "--config", "options.toml", "--out", "run", cwd=place)
    assert outcome.status == 0, outcome.stderr
    patterns = ("stem", "block1.*") if "," in several else ("stem",)
    assert load(place / "run" / "final.npz").header.recipe.freeze == patterns


def test_a_run_is_not_continued_as_another_model(place: Path) -> None:
    model = ("--model", "squeezenet1_1", "--batch-norm")
    tiny = [value for value in TINY if value not in ("--width", "0.1")]
    npnet_run("train", *tiny, *model, "--out", "other", cwd=place)
    resumed = ("--resume", "other/epoch-001.npz", "--epochs", 2, "--out", "other")
    outcome = npnet_run("train", *TINY, *resumed, cwd=place)
    assert "--model squeezenet1_1 --width 1" in outcome.error
    assert "--batch-norm" in outcome.error
    assert "give the same to continue it" in outcome.error


# --- divergence and memory


def test_a_network_too_large_for_the_memory(place: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32))"
    outcome = npnet_run(
        "train", *TINY, "--input-size", 16384, "--out", "run", cwd=place, patches=limit
    )
    assert "not enough memory" in outcome.error


def test_a_want_of_memory_without_words(place: Path) -> None:
    patch = (
        "import npnet.cli.main as main\n"
        "def fail(arguments):\n"
        "    raise MemoryError\n"
        "main._run = fail\n"
    )
    outcome = npnet_run("info", cwd=place, patches=patch)
    assert "not enough memory; give a smaller batch" in outcome.error


def test_divergence_in_the_first_epoch(place: Path) -> None:
    outcome = npnet_run("train", *TINY, "--lr", "1e30", "--out", "run", cwd=place)
    assert "the loss is nan on rank 0, epoch 1, step 2" in outcome.error
    assert "lower --lr" in outcome.error
    assert "no epoch was finished" in outcome.error
    assert [path.name for path in (place / "run").iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    ("recipe", "ranks"),
    [("modern", None), ("paper", None), pytest.param("paper", 2, marks=pytest.mark.mpi)],
)
def test_divergence_in_the_last_step_of_an_epoch(
    place: Path, recipe: str, ranks: int | None
) -> None:
    """No loss of that epoch shows it, and `paper` does not test before the end."""
    options = ("--recipe", recipe, "--max-steps", 1, "--lr", "1e38", "--warmup-epochs", 0)
    outcome = npnet_run(
        "train", *TINY, *options, "--epochs", 2, "--out", "run", cwd=place, ranks=ranks
    )
    assert "after epoch 1" in outcome.error
    assert "no epoch was finished" in outcome.error
    assert set(outcome.statuses) == {2}
    assert [path.name for path in (place / "run").iterdir()] == ["config.json"]


def test_divergence_after_resuming_into_another_folder(place: Path, trained: Path) -> None:
    """The last good epoch is not in the new folder: what was resumed is named instead."""
    shutil.copy(trained, place / "good.npz")
    more = ("--resume", "good.npz", "--epochs", 4, "--lr", "1e30", "--out", "run")
    outcome = npnet_run("train", *TINY, *more, cwd=place)
    assert "the loss is nan on rank 0, epoch 3, step 2" in outcome.error
    assert "the weights of epoch 2 are kept in good.npz" in outcome.error
    assert load(place / "good.npz").header.epoch == 2


@pytest.mark.mpi
def test_ranks_that_were_told_different_things(place: Path) -> None:
    """Each node reads its own file: without a comparison they would train apart, or wait."""
    for rank, lr in enumerate((0.1, 0.01)):
        (place / f"{rank}.toml").write_text(f"lr = {lr}\n")
    outcome = npnet_run(
        *("train", *TINY, "--out", "run"),
        cwd=place,
        ranks=2,
        patches="import os, sys; from npnet.parallel.launched import launched_rank; "
        "sys.argv += ['--config', f'{launched_rank()}.toml']",
    )
    assert "has recipe lr = 0.01, rank 0 has 0.1" in outcome.error
    assert set(outcome.statuses) == {2}
    assert not (place / "run").exists()


@pytest.mark.mpi
def test_divergence_on_all_ranks_is_told_once(place: Path) -> None:
    more = ("--lr", "1e30", "--warmup-epochs", 0, "--out", "run")
    outcome = npnet_run("train", *TINY, *more, cwd=place, ranks=2)
    assert "the loss is nan on rank 0, epoch 1, step 2" in outcome.error
    assert set(outcome.statuses) == {2}


class TestResume:
    def train(self, place: Path, *options: object) -> None:
        outcome = npnet_run("train", *TINY, "--epochs", 3, *options, cwd=place)
        assert outcome.status == 0, outcome.stderr

    def epochs(self, place: Path, run: str) -> list[int]:
        rows = (place / run / "log.csv").read_text().splitlines()[1:]
        return [int(row.split(",")[0]) for row in rows]

    def test_the_log_forgets_what_is_done_anew(self, place: Path) -> None:
        self.train(place, "--out", "run")
        whole = load(place / "run" / "final.npz").digest()
        self.train(place, "--resume", "run/epoch-001.npz", "--out", "run")
        assert self.epochs(place, "run") == [1, 2, 3]
        assert load(place / "run" / "final.npz").digest() == whole
        table = (place / "trial_results.csv").read_text().splitlines()
        assert len(table) == 2  # a run has one row, however often it is resumed

    def test_a_killed_run_is_continued_in_its_folder(self, place: Path) -> None:
        more = ("--epochs", 3, "--out", "run")
        outcome = npnet_run("train", *TINY, *more, cwd=place, patches=killed_in(2))
        assert outcome.status == -9
        self.train(place, "--resume", "run/epoch-002.npz", "--out", "run")
        assert self.epochs(place, "run") == [1, 2, 3]
        header, row = (place / "trial_results.csv").read_text().splitlines()
        cells = dict(zip(header.split(","), row.split(","), strict=True))
        summary = json.loads((place / "run/summary.json").read_text())
        assert float(cells["global_time_sec"]) == pytest.approx(summary["wall_seconds"], abs=0.01)
        with (place / "run/log.csv").open(newline="") as file:
            log = list(csv.DictReader(file))
        elapsed = [float(line["elapsed_seconds"]) for line in log]
        assert elapsed == sorted(elapsed)
        trained = sum(float(line["seconds"]) for line in log)  # before the kill, and after
        assert summary["train_seconds"] == pytest.approx(trained)
        assert not [path for path in (place / "run").iterdir() if path.name.startswith(".")]

    def test_a_run_under_way_is_not_continued(self, place: Path) -> None:
        self.train(place, "--out", "run")
        checkpoint = load(place / "run" / "epoch-001.npz")
        other = RunFolder(place / "run")
        other.create(checkpoint)
        more = ("--epochs", "3", "--resume", "run/epoch-001.npz")
        assert "run is held by another run" in refusal(place, *more)

    def test_another_run_s_folder_is_left_alone(self, place: Path) -> None:
        for run in ("a", "b"):
            self.train(place, "--out", run)
        before = (place / "b" / "epoch-003.npz").read_bytes()
        outcome = npnet_run(
            "train", *TINY, "--epochs", 3, "--resume", "a/epoch-001.npz", "--out", "b", cwd=place
        )
        assert "b holds a run already" in outcome.error
        assert (place / "b" / "epoch-003.npz").read_bytes() == before
