"""Studies: what they run, how they go on, what they make of what runs left."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest

from npnet.errors import NpnetError
from npnet.parallel.hosts import machinefile
from npnet.parallel.launch import Launcher, Ranks
from npnet.study import scale, sweep
from npnet.study.cases import Case, Finished, Study, difference, medians
from npnet.training.run_folder import RunFolder
from tests.cifar_files import write_cifar
from tests.launch import SOURCES, clean_environment, npnet_run
from tests.summaries import SUMMARY


def finished(log=(), config=None, **values):
    texts = [{name: str(value) for name, value in row.items()} for row in log]
    return Finished(replace(SUMMARY, **values), config or {}, list(log), texts)


def test_the_median_of_repeats():
    rows = [{"a": 3.0, "b": "x", "c": None}, {"a": 1.0, "b": "x", "c": None}, {"a": 2.0, "b": "x"}]
    rows[2]["c"] = 7.0
    assert medians(rows) == {"a": 2.0, "b": "x", "c": None}
    rows[1]["c"] = 5.0
    assert medians(rows)["c"] == 6.0


def test_what_repeats_have_in_common_stays_as_it_is():
    row = medians([{"batch_per_node": 8, "images": 1.0}, {"batch_per_node": 8, "images": 2.0}])
    assert isinstance(row["batch_per_node"], int)
    assert row["images"] == 1.5


def test_a_run_that_is_tested_at_its_end_reaches_an_accuracy_there():
    log = [
        {"epoch": epoch, "test_acc": accuracy, "elapsed_seconds": 10.0 * epoch}
        for epoch, accuracy in ((1, None), (2, None), (3, 0.5))
    ]
    assert scale.time_to(0.5, finished(log)) == 30


def test_the_time_to_an_accuracy_is_that_of_the_first_test_that_reached_it():
    log = [
        {"epoch": epoch, "rank": rank, "test_acc": accuracy, "elapsed_seconds": seconds + rank}
        for epoch, accuracy, seconds in ((1, 0.2, 10), (2, 0.5, 20), (3, 0.4, 30), (4, 0.6, 40))
        for rank in (0, 1)
    ]
    run = finished(log)
    assert scale.time_to(0.5, run) == 21
    assert scale.time_to(0.55, run) == 41
    assert scale.time_to(0.7, run) is None


@pytest.mark.parametrize(
    ("scaling", "speedups", "efficiencies"),
    [("strong", [1, 1.6, 4], [100, 80, 50]), ("weak", [1, 1.5, 6], [100, 75, 75])],
)
def test_speedup_and_efficiency_are_over_two_processes(scaling, speedups, efficiencies):
    times = {2: (100, 60), 4: (62.5, 90), 16: (25, 360)}
    rows = [
        scale._row(finished(world=np, wall_seconds=wall, images_per_second=speed), scaling, None)
        for np, (wall, speed) in times.items()
    ]
    found = scale._with_speedup(rows, scaling)
    assert [row["speedup"] for row in found] == pytest.approx(speedups)
    assert [row["efficiency_pct"] for row in found] == pytest.approx(efficiencies)
    assert found[0]["test_acc_pct"] == 45


def test_steps_of_strong_and_weak_scaling():
    values = {
        "images": 50_000,
        "epochs": 3,
        "batch_per_rank": 12,
        "ranks_per_node": 2,
        "repeats": 1,
    }

    def steps(scaling, max_steps):
        cases = scale.cases(scaling, (2, 4, 48), (), max_steps=max_steps, **values)
        words = [case.arguments for case in cases]
        return [int(w[w.index("--max-steps") + 1]) if "--max-steps" in w else None for w in words]

    assert steps("strong", None) == [None] * 3  # every image, whoever takes it
    assert steps("strong", 96) == [96, 48, 4]  # the same images
    assert steps("weak", None) == [86] * 3  # as many as 48 ranks have images for
    assert steps("weak", 20) == [20] * 3


def point(batch, speed, **values):
    sound = {
        "node_memory_pct": 20.0,
        "swap_mb": 0.0,
        "throttled": "no",
        "process_cpu_pct": 99.0,
        "peak_rss_mb": 300.0,
    }
    return {
        "batch_per_node": batch,
        "ranks_per_node": 2,
        "batch_per_rank": batch // 2,
        "throughput_img_s": speed,
        **sound,
        **values,
    }


def test_the_best_batch_is_the_fastest():
    row, why = sweep.best([point(8, 8.8), point(24, 9.7), point(32, 9.0)])
    assert row["batch_per_node"] == 24
    assert "the fastest; 20 % of the node's memory" in why


def test_of_equals_the_smaller_is_taken():
    rows = [point(16, 9.66), point(24, 9.7, node_memory_pct=30.0)]
    row, why = sweep.best(rows)
    assert row["batch_per_node"] == 16
    assert "within 1 % of the fastest and with less memory" in why


@pytest.mark.parametrize(
    ("objection", "words"),
    [
        ({"node_memory_pct": 91.0}, "it takes 91 % of the node's memory"),
        ({"process_cpu_pct": 41.0}, "its ranks had 41 % of a core: the host was busy"),
        ({"swap_mb": 40.0}, "it swapped 40 MB out"),
        ({"throttled": "frequency capped now"}, "throttled (frequency capped now)"),
    ],
)
def test_a_fast_batch_that_harms_the_node_is_not_the_best(objection, words):
    row, why = sweep.best([point(16, 9.0), point(32, 9.9, **objection)])
    assert row["batch_per_node"] == 16
    assert "not batch032-ranks2, which is faster" in why
    assert words in why


def test_a_throttled_repeat_is_told(tmp_path):
    study = Study("sweep", tmp_path, [])
    names = ("no", "", "throttled now")
    row = {"epoch": 1.0, "seconds": 1.0, "cpu_percent": 90.0}
    runs = [finished([row | {"throttled": words}]) for words in names]
    study.finished = lambda group: runs
    assert sweep.table(study, [sweep.Point(24, 2)])[0]["throttled"] == "throttled now"


@pytest.mark.parametrize(
    ("batch", "ranks", "speed", "memory"),
    [(24, 2, 9.67, 717.7), (12, 2, None, None), (24, 4, None, None)],
)
def test_the_papers_figures_stand_beside_those_of_its_batch_on_two_ranks(
    tmp_path, batch, ranks, speed, memory
):
    study = Study("sweep", tmp_path, [])
    log = [{"epoch": 1.0, "seconds": 1.0, "cpu_percent": 90.0}]
    study.finished = lambda group: [
        finished(log, batch_per_node=batch, batch_per_rank=batch // ranks)
    ]
    (row,) = sweep.table(study, [sweep.Point(batch, ranks)])
    assert (row["paper_throughput_img_s"], row["paper_peak_rss_mb"]) == (speed, memory)
    assert row["peak_rss_mb"] != memory


def test_a_batch_that_no_ranks_can_share_is_left_out():
    assert [tuple(each) for each in sweep.points([8, 9], [1, 2])] == [(8, 1), (9, 1), (8, 2)]
    with pytest.raises(NpnetError, match=r"no batch of .* can be shared"):
        sweep.points([3], [2])


def test_how_each_mpi_wants_its_words():
    program = ["python", "-m", "npnet"]
    hosts = Path("hosts")
    mpich, openmpi = Launcher("/bin/mpiexec", "mpich"), Launcher("/bin/mpiexec", "openmpi")
    assert mpich.command(program, Ranks(4)) == ["/bin/mpiexec", "-n", "4", *program]
    assert mpich.command(program, Ranks(4, hosts, 2))[3:-3] == (
        ["-machinefile", "hosts", "-bind-to", "core", "-ppn", "2"]
    )
    assert openmpi.command(program, Ranks(4, hosts, 2))[3:-3] == (
        ["--hostfile", "hosts", "--bind-to", "core", "--map-by", "ppr:2:node"]
    )


def test_what_tells_two_command_lines_apart():
    assert difference(["--seed", "1", "--flip"], ["--flip", "--seed", "2"]) == (
        "--seed 1 instead of --seed 2"
    )
    assert difference(["--flip"], ["--flip", "--lr", "1"]) == "nothing instead of --lr 1"


def case(name, *arguments):
    return Case(name, name, 1, arguments, 1, 1.0)


def test_a_folder_holds_one_study(tmp_path):
    study = Study("sweep", tmp_path, [case("a", "--lr", "1")], ["--flip"])
    study.known = {"a": ["--lr", "1"]}
    study.save([])
    Study("sweep", tmp_path, [case("a", "--lr", "1"), case("b")], ["--flip"])
    for kind, name, value, shared, words in (
        ("scale", "a", "1", ["--flip"], "study of another kind, sweep"),
        ("sweep", "a", "2", ["--flip"], "--lr 1 instead of --lr 2"),
        ("sweep", "b", "2", ["--no-flip"], "--flip instead of --no-flip"),
    ):
        with pytest.raises(NpnetError, match=words):
            Study(kind, tmp_path, [case(name, "--lr", value)], shared)


def test_a_folder_of_other_runs_is_left_alone(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(NpnetError, match="runs of no study"):
        Study("sweep", tmp_path, [case("a")])


def test_a_study_of_nothing_readable_is_refused(tmp_path):
    (tmp_path / "study.json").write_text("[1, 2")
    with pytest.raises(NpnetError, match=r"cannot read .*study\.json"):
        Study("sweep", tmp_path, [case("a")])


TINY = ("--input-size", "32", "--width", "0.1", "--backend", "reference")


@pytest.fixture
def place(tmp_path):
    """A folder to run in: its data/ holds a tiny CIFAR-10."""
    write_cifar(tmp_path / "data")
    return tmp_path


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.mpi
def test_a_sweep_from_start_to_table(place):
    pytest.importorskip("matplotlib", reason="pictures need the plots extra")
    command = ("study", "sweep", *TINY, "--batch-per-node", "4,6", "--ranks-per-node", "1,2")
    outcome = npnet_run(*command, "--max-steps", 2, "--out", "s", cwd=place, timeout=200)
    assert outcome.status == 0, outcome
    rows = rows_of(place / "s/sweep.csv")
    assert [(row["batch_per_node"], row["world"]) for row in rows] == [
        *(("4", "1"), ("6", "1"), ("4", "2"), ("6", "2"))
    ]
    for row in rows:
        images = 2 * int(row["batch_per_rank"]) * int(row["world"])
        seconds = float(row["avg_epoch_s"])
        assert float(row["throughput_img_s"]) == pytest.approx(images / seconds, rel=1e-3)
        assert float(row["mean_step_s"]) == pytest.approx(seconds / 2, rel=1e-3)
        summary = json.loads(
            (
                place / f"s/batch00{row['batch_per_node']}-ranks{row['world']}-1/summary.json"
            ).read_text()
        )
        assert float(row["peak_rss_mb"]) == pytest.approx(summary["peak_rss_bytes"] / 1e6, rel=1e-3)
        assert summary["test_acc"] is None
    assert "CPU% Process (epoch-avg): local=" in outcome.stdout
    assert "[STUDY] Best: " in outcome.stdout
    assert (place / "s/sweep.png").read_bytes().startswith(b"\x89PNG")
    assert len(json.loads((place / "s/study.json").read_text())["rows"]) == 4


@pytest.mark.mpi
def test_an_interrupted_study_goes_on_where_it_was(place):
    """Ctrl-C in the second run's second epoch, as a terminal sends it: to all processes."""
    command = (
        *("study", "scale", *TINY, "--np", "1,2", "--epochs", "4"),
        *("--batch-per-rank", "1", "--evaluate", "never", "--out", "s"),
    )
    environment = clean_environment() | {"PYTHONPATH": str(SOURCES)}
    process = subprocess.Popen(
        [sys.executable, "-m", "npnet", *command],
        cwd=place,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    log = place / "s/strong-np02-1/log.csv"
    deadline = time.monotonic() + 120
    while not log.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "1 of 2 runs are finished in s; the same command goes on" in said
    assert len(rows_of(place / "s/scale.csv")) == 1
    first = (place / "s/strong-np01-1/summary.json").read_bytes()

    outcome = npnet_run(*command, cwd=place, timeout=200)
    assert outcome.status == 0, outcome
    assert "[STUDY] 1 of 2 runs are finished in s" in outcome.stdout
    assert "strong-np02-1, 2 ranks, goes on after " in outcome.stdout  # an epoch, or a step
    assert (place / "s/strong-np01-1/summary.json").read_bytes() == first
    rows = rows_of(place / "s/scale.csv")
    assert [row["np"] for row in rows] == ["1", "2"]
    assert [row["epochs"] for row in rows] == ["4", "4"]
    epochs = [row["epoch"] for row in rows_of(log) if row["rank"] == "0"]
    assert epochs == ["1", "2", "3", "4"]
    last = rows_of(log)[-1]
    assert float(rows[1]["wall_s"]) >= float(last["elapsed_seconds"]) - 0.01  # of both starts


def test_nodes_and_ranks_a_node_are_the_study_s(place):
    """Runs on one node are no results of two, though `npnet train` gets the same options."""
    for kind, option in (("sweep", "--nodes"), ("scale", "--ranks-per-node")):
        command = ("study", kind, *TINY, "--max-steps", 1, "--epochs", 1, "--out", kind)
        command += ("--batch-per-node", 2) if kind == "sweep" else ("--np", 1)
        command += ("--ranks-per-node", 1) if kind == "sweep" else ("--evaluate", "never")
        assert npnet_run(*command, cwd=place).status == 0
        outcome = npnet_run(*command, option, 3, cwd=place)
        assert f"instead of {option} 3" in outcome.error


def test_a_run_that_goes_on_is_not_finished_until_it_is_again(tmp_path):
    """Killed on its way, it must not be taken for finished by the summary that it had before."""
    study = Study("sweep", tmp_path, [case("a")])
    run = study.run_of(study.cases[0])
    run.create()
    run.write_summary({})
    assert study.unfinished() == []
    RunFolder(run.path, continued=True).create()
    assert study.unfinished() == study.cases


def test_an_accuracy_that_is_never_tested_cannot_be_a_target(place):
    command = ("study", "scale", *TINY, "--np", "1", "--target-acc", 50, "--evaluate", "never")
    assert "--target-acc needs tests" in npnet_run(*command, cwd=place).error
    assert not (place / "studies").exists()


def test_a_folder_that_cannot_be_written_is_told_in_a_line(tmp_path):
    study = Study("sweep", tmp_path, [case("a")])
    study.known = {"a": []}
    study.save([])
    (tmp_path / "a.txt").mkdir()  # where the run's output should be
    with pytest.raises(NpnetError, match=r"cannot write in .*: Is a directory \(.*a\.txt\)"):
        study.run(Mock(), list)


def test_a_refused_run_ends_a_study_with_its_reason(place):
    command = ("study", "scale", *TINY, "--np", "1", "--epochs", 1, "--lr", "1e30", "--out", "s")
    outcome = npnet_run(*command, "--crop-padding", 3, "--sync-steps", 2, cwd=place)
    assert "strong-np01-1 was refused: --sync-steps is for --sync weights" in outcome.error


@pytest.mark.mpi
def test_hosts_that_hold_too_few_ranks_are_refused_before_the_first_run(place):
    maker = Launcher.find().maker
    (place / "hosts").write_text(machinefile(["a", "b"], 2, maker))
    command = ("study", "scale", *TINY, "--np", "2,4,6", "--machinefile", "hosts", "--out", "s")
    outcome = npnet_run(*command, cwd=place)
    assert "hosts holds 4 ranks (2 hosts), 6 are too many" in outcome.error
    assert not list((place / "s").glob("strong-*"))


@pytest.mark.mpi
def test_a_study_is_not_started_under_mpiexec(place):
    outcome = npnet_run("study", "sweep", *TINY, "--out", "s", cwd=place, ranks=2)
    assert "a study starts its ranks by itself: start it without mpiexec" in outcome.error
    assert not (place / "s").exists()
