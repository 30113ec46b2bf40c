"""What each command prints and leaves behind when all is well."""

import csv
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from tests.cifar_files import write_cifar
from tests.launch import npnet_run

TINY = ("--width", "0.1", "--input-size", "32", "--max-steps", 2)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a run of two epochs on `shapes` lies in `run`."""
    place = tmp_path_factory.mktemp("trained")
    run = ("train", "--dataset", "shapes", *TINY, "--epochs", 2, "--out", "run")
    outcome = npnet_run(*run, cwd=place, timeout=300, started=True)  # and may have to compile
    assert outcome.status == 0, outcome.stderr
    (place / "output").write_text(outcome.stdout)
    return place


def test_train_prints_the_paper_s_lines(trained: Path) -> None:
    lines = (trained / "output").read_text().splitlines()
    starts = [
        "[INFO] Dataset: drawn from seed 0",
        "[Rank 0] world=1 batch/rank=12 shard=10000 samples (uint8, NHWC)",
        "[Rank 0] Epoch 1/2 loss=",
        "[Rank 0] Epoch 2/2 loss=",
        "[Root] Global wall time: ",
        "[Root] Mean train acc (epoch 2): ",
        "[Root] Test acc: 0.",
        "[SUMMARY] world=1 epochs=2 batch/node=12 loss=",
    ]
    found = [line for line in lines if any(line.startswith(start) for start in starts)]
    assert len(found) == len(starts)
    assert all(line.startswith(start) for line, start in zip(found, starts, strict=True))


def test_train_prints_its_recipe_in_lines_that_fit(trained: Path) -> None:
    lines = (trained / "output").read_text().splitlines()
    first = next(n for n, line in enumerate(lines) if line.startswith("[INFO] Recipe name=modern"))
    last = next(n for n, line in enumerate(lines) if line.endswith(" batch_per_rank=12"))
    assert last > first + 2
    for line in lines[first : last + 1]:
        assert line.startswith("[INFO] ")
        assert len(line) <= 100


def test_train_leaves_a_run_folder(trained: Path) -> None:
    run = trained / "run"
    names = {"config.json", "log.csv", "summary.json", "final.npz", "best.npz"}
    assert {path.name for path in run.iterdir()} == names | {"epoch-001.npz", "epoch-002.npz"}
    summary = json.loads((run / "summary.json").read_text())
    assert summary["world"] == 1
    assert summary["epochs"] == 2
    with (run / "log.csv").open() as file:
        first, last = csv.DictReader(file)
    for name, column in {"train_acc": "acc", "train_loss": "loss"}.items():
        assert summary[name] == pytest.approx(float(last[column]))
    assert last["loss"] != first["loss"]
    for name in ("test_acc", "test_loss"):
        assert summary[name] == pytest.approx(float(last[name]))
    hits = summary["test_acc"] * 2000  # of as many images, ten of each hundred by chance
    assert hits == pytest.approx(round(hits))
    assert 100 < hits < 400
    assert abs(summary["test_loss"] - np.log(10)) < 0.1  # nats; after four steps, still a guess
    assert summary["images_per_second"] > 0
    assert summary["wall_seconds"] > 0
    assert 20e6 < summary["peak_rss_bytes"] < 2e9
    config = json.loads((run / "config.json").read_text())
    assert config["recipe"]["momentum"] == 0.95
    assert config["model"]["width"] == 0.1
    assert config["settings"]["batch_per_rank"] == 12


def test_scaling_results_have_the_paper_s_columns(trained: Path) -> None:
    """And behind them what else a table of runs needs; it is a trial, having few steps."""
    assert not (trained / "scaling_results.csv").exists()
    header, row = (trained / "trial_results.csv").read_text().splitlines()
    assert header.startswith(
        "world,epochs,batch_per_node,batch_per_rank,mean_train_loss,mean_train_acc_pct,"
        "global_time_sec,cifar_dir,test_loss,test_acc_pct,"
    )
    assert row.startswith("1,2,12,12,")
    summary = json.loads((trained / "run" / "summary.json").read_text())
    cells = dict(zip(header.split(","), row.split(","), strict=True))
    assert float(cells["test_acc_pct"]) == pytest.approx(100 * summary["test_acc"], abs=0.01)
    assert (cells["model"], cells["recipe"], cells["run"]) == ("mobilenet_v2", "modern", "run")
    assert float(cells["train_sec"]) + float(cells["test_sec"]) <= float(cells["global_time_sec"])


def test_evaluate_repeats_the_summary_s_score(trained: Path) -> None:
    outcome = npnet_run("evaluate", "run/final.npz", "--json", cwd=trained, started=True)
    summary = json.loads((trained / "run" / "summary.json").read_text())
    score = json.loads(outcome.stdout)
    assert score["test_acc"] == pytest.approx(summary["test_acc"], abs=1e-3)
    assert score["test_loss"] == pytest.approx(summary["test_loss"], rel=1e-5)


def test_plot_and_preview_write_pictures(trained: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need the plots extra")
    assert npnet_run("plot", "run", cwd=trained, started=True).status == 0
    assert (trained / "run" / "curves.png").read_bytes().startswith(b"\x89PNG")
    outcome = npnet_run("plot", ".", cwd=trained)  # all runs that lie there
    assert (outcome.status, outcome.stdout) == (0, "wrote curves.png\n")
    preview = ("data", "preview", "--dataset", "shapes")
    assert npnet_run(*preview, cwd=trained, started=True).status == 0
    augmented = (*preview, "--crop-scale", 0.3, "--input-size", 16)
    assert "these options are of --augmented" in npnet_run(*augmented, cwd=trained).error
    assert npnet_run(*augmented, "--augmented", "--out", "crops.png", cwd=trained).status == 0
    for name in ("shapes.png", "crops.png"):
        assert (trained / name).read_bytes().startswith(b"\x89PNG")


def test_info_adds_up(tmp_path: Path) -> None:
    outcome = npnet_run("info", "--width", "1", "--classes", "1000", cwd=tmp_path, started=True)
    (total,) = (line for line in outcome.stdout.splitlines() if line.startswith("total"))
    assert "3,504,872" in total
    assert "dataset shapes" in outcome.stdout


@pytest.mark.parametrize("model", ["mobilenet_v2", "squeezenet1_0"])
def test_info_fits_a_page(tmp_path: Path, model: str) -> None:
    """Whatever the processor can do: some have a hundred features."""
    patches = (
        "import npnet.kernels.jit.options as o; o.target = lambda: 'x y,' + ','.join(['z9'] * 99)"
    )
    outcome = npnet_run("info", "--model", model, cwd=tmp_path, patches=patches)
    assert "z9 and 75 more" in " ".join(outcome.stdout.split())
    lines = outcome.stdout.splitlines()
    assert all(len(line) <= 80 for line in lines if "/" not in line)  # paths are not cut
    assert len(lines) < 50


@pytest.mark.parametrize("flags", [[], ["--operations"]])
def test_info_s_lines_add_up_to_its_total(tmp_path: Path, flags: list[str]) -> None:
    stdout = npnet_run("info", *flags, cwd=tmp_path).stdout
    table = stdout.split("\n\n")[1].splitlines()
    *rows, total = [line for line in table[1:] if not line.startswith("each of")]
    assert total.startswith("total")
    counts = [[int(word.replace(",", "")) for word in line.split()[-3:]] for line in rows]
    assert [f"{sum(column):,}" for column in zip(*counts, strict=True)] == total.split()[-3:]
    assert ("block3.add" in stdout) is bool(flags)


def test_info_runs_no_file_of_the_current_folder(tmp_path: Path) -> None:
    """It looks for mpi4py, and a user's file may bear that name."""
    for name in ("mpi4py.py", "mpi4py/__init__.py"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text("open('was-run', 'w').close()")
        assert npnet_run("info", cwd=tmp_path).status == 0
        assert not (tmp_path / "was-run").exists()


@pytest.mark.mpi
def test_info_under_mpiexec_is_said_once(tmp_path: Path) -> None:
    """And as by a process of its own: the one that it starts is no rank."""
    alone = npnet_run("info", cwd=tmp_path)
    outcome = npnet_run("info", cwd=tmp_path, ranks=2)
    assert outcome.statuses == (0, 0)
    (line,) = [line for line in alone.stdout.splitlines() if line.startswith("MPI ")]
    assert "no library found" not in line
    assert outcome.stdout.splitlines().count(line) == 1
    assert outcome.stdout.count("dataset shapes") == 1
    assert outcome.stderr == ""


@pytest.mark.mpi
def test_info_under_mpiexec_refuses_once(tmp_path: Path) -> None:
    outcome = npnet_run("info", "--width", "1e9", cwd=tmp_path, ranks=2)
    assert "width" in outcome.error


def test_gradcheck_passes(tmp_path: Path) -> None:
    """Of one model; tests/measure/test_gradients.py checks all of them."""
    of_one = ("--model", "squeezenet1_1", "--backend", "reference")
    outcome = npnet_run("gradcheck", *of_one, cwd=tmp_path, started=True)
    assert outcome.status == 0
    assert " 0 failed" in outcome.stdout


TINY_STEP = ("--batch", 2, "--input-size", 32, "--width", "0.1", "--steps", 4, "--json")
FEW_KERNELS = ("--batch", 1, "--input-size", 32, "--repeats", 3, "--json")
FORWARD = ("--op", "activation_depthwise3x3_stats_forward")


@pytest.mark.parametrize("flags", [(), ("--inference",), ("--train", "head")])
def test_bench_step_prints_one_object(flags: tuple[str, ...], tmp_path: Path) -> None:
    bench = ("bench", "step", *TINY_STEP, *flags)
    timing = json.loads(npnet_run(*bench, cwd=tmp_path, started=True).stdout)
    keys = ("cpu_ms_median", "wall_ms_median", "images_per_second", "peak_rss_bytes")
    assert all(timing[key] > 0 for key in keys)
    assert timing["inference"] is (flags == ("--inference",))
    assert timing["train"] == {(): "all", ("--inference",): None}.get(flags, "head")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--inference", "--train", "head"), "--inference trains nothing: leave out --train"),
        (("--train", "last:99"), "last:99 is more than there is"),
        (("--train", "middle"), "middle"),
        (("--report",), "--report is one line about a whole step"),  # and no --json
    ],
)
def test_bench_step_refuses_parts_that_are_none(
    flags: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    outcome = npnet_run("bench", "step", *TINY_STEP, *flags, cwd=tmp_path)
    assert outcome.status == 2
    assert says in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_bench_step_reports_a_board_in_one_line(tmp_path: Path) -> None:
    bench = ("bench", "step", *TINY_STEP[:-1])
    line = npnet_run(*bench, "--report", cwd=tmp_path, ranks=2).stdout
    assert line.count("\n") == 1
    parts = line.split(" | ")
    assert parts[2:4] == ["mobilenet_v2 0.1, 32x32, batch 2", "ranks: 2"]
    rates = [float(rate) for rate in re.findall(r"([0-9.]+) (?:images|GFLOP|GB)/s", line)]
    assert len(rates) == 3
    assert min(rates) > 0


def test_bench_step_reports_no_ranks_that_share_a_core(tmp_path: Path) -> None:
    bench = ("bench", "step", *TINY_STEP[:-1], "--report")
    number = (os.cpu_count() or 1) + 1
    outcome = npnet_run(*bench, cwd=tmp_path, ranks=number)
    assert outcome.status != 0
    assert f"{number} ranks on " in outcome.stderr
    outcome = npnet_run(*bench, "--backend", "reference", cwd=tmp_path)
    assert outcome.status == 2
    assert "leave out other options" in outcome.stderr


def test_bench_kernels_measures_the_model_s_shapes(tmp_path: Path) -> None:
    outcome = npnet_run("bench", "kernels", "--op", "depthwise", *FEW_KERNELS, cwd=tmp_path)
    timings = [json.loads(line) for line in outcome.stdout.splitlines()]
    assert sum(timing["uses"] for timing in timings) == 2 * 17  # forward, backward
    assert all(timing["gflops"] > 0 and timing["roof_percent"] > 0 for timing in timings)


def test_bench_kernels_knows_those_of_inference(tmp_path: Path) -> None:
    bench = ("bench", "kernels", "--op", "separable", *FEW_KERNELS)
    outcome = npnet_run(*bench, cwd=tmp_path, started=True)
    assert json.loads(outcome.stdout)["kernel"] == "separable_inference"


def test_bench_roofline_adds_up(tmp_path: Path) -> None:
    outcome = npnet_run("bench", "roofline", "--op", "depthwise", *FEW_KERNELS, cwd=tmp_path)
    roof, *timings = (json.loads(line) for line in outcome.stdout.splitlines())
    assert len(timings) >= 10
    for timing in timings:
        assert timing["uses"] > 0
        seconds = timing["ms_median"] / 1e3
        assert timing["gflops"] == pytest.approx(timing["flops"] / seconds / 1e9)
        assert timing["gbytes"] == pytest.approx(timing["bytes"] / seconds / 1e9)
        bound = min(roof["peak_gflops"], timing["intensity"] * roof["copy_gbytes"])
        assert timing["intensity"] == pytest.approx(timing["flops"] / timing["bytes"])
        assert timing["roof_gflops"] == pytest.approx(bound)
        assert timing["roof_percent"] == pytest.approx(100 * timing["gflops"] / bound)


def test_bench_roofline_draws(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need the plots extra")
    options = (*FORWARD, *FEW_KERNELS[:-1], "--picture", "roof.png")
    outcome = npnet_run("bench", "roofline", *options, cwd=tmp_path, started=True)
    assert outcome.status == 0, outcome.stderr
    assert "this core multiplies" in outcome.stdout
    assert (tmp_path / "roof.png").read_bytes().startswith(b"\x89PNG")


def test_a_batch_norm_that_will_not_forget_is_told(place: Path) -> None:
    """Keras' momentum: after 2 steps 0.998 of the initial statistics are left."""
    slow = ("train", *TINY, "--epochs", 1, "--bn-momentum", 0.999)
    outcome = npnet_run(*slow, "--out", "moving", cwd=place, timeout=300)
    (warning,) = [line for line in outcome.stdout.splitlines() if "[WARNING]" in line]
    assert "99.8 % of batch norm's running statistics" in warning
    assert "--bn-eval recalibrated" in warning
    for other in (("--bn-eval", "recalibrated"), ("--bn-momentum", 0.05)):
        outcome = npnet_run(*slow, *other, "--out", other[0], cwd=place, timeout=300)
        assert "[WARNING]" not in outcome.stdout


def test_both_kinds_of_statistics(tmp_path: Path) -> None:
    write_cifar(tmp_path / "data", images=1500)
    outcome = npnet_run(
        *("train", *TINY, "--epochs", 2, "--bn-eval", "both", "--workers-per-rank", 2),
        *("--out", "run"),
        cwd=tmp_path,
        timeout=300,
    )
    assert "[Rank 0] world=2 workers=0-1 batch/rank=12 shard=750 samples" in outcome.stdout
    assert "[Rank 0, 2 workers] Epoch 2/2 loss=" in outcome.stdout
    assert "[Root] The same weights with recalibrated statistics: test acc: 0." in outcome.stdout
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    again = npnet_run(
        *("evaluate", "run/final.npz", "--bn-eval", "both", "--batch", 12, "--json"), cwd=tmp_path
    )
    found = json.loads(again.stdout)
    for name in ("test_loss", "test_acc", "recalibrated_test_loss", "recalibrated_test_acc"):
        assert found[name] == pytest.approx(summary[name], abs=0.05)  # cut into other batches
    assert summary["world"] == 2
    assert summary["recalibrated_test_loss"] != summary["test_loss"]
    rows = (tmp_path / "run" / "log.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 2  # a row for each worker and epoch


def test_the_final_checkpoint_holds_the_statistics_that_gave_the_score(place: Path) -> None:
    npnet_run(
        *("train", *TINY, "--epochs", 1, "--bn-eval", "recalibrated", "--out", "run"),
        cwd=place,
        timeout=300,
    )
    outcome = npnet_run("evaluate", "run/final.npz", "--json", cwd=place)
    summary = json.loads((place / "run" / "summary.json").read_text())
    assert json.loads(outcome.stdout)["test_loss"] == pytest.approx(summary["test_loss"], rel=1e-5)


@pytest.mark.mpi
def test_bench_sync_times_each_exchange(tmp_path: Path) -> None:
    outcome = npnet_run("bench", "sync", "--repeats", 3, "--json", cwd=tmp_path, ranks=2)
    found = [json.loads(line) for line in outcome.stdout.splitlines()]
    assert [each["name"] for each in found] == [
        "gradients, weights",
        "gradients as bfloat16",
        "the same, deterministic",
        "the same by MPI's Allreduce",
        "gather-bcast",
    ]
    assert all(each["ms_median"] > 0 and each["bytes"] > 2e6 for each in found)


STUDY = ("study", "collapse", "--budget", "--width", "0.1", "--input-size", "32", "--epochs", 1)
OF_CIFAR = (*STUDY, "--dataset", "cifar10", "--backend", "reference", "--out", "study")


def test_study_collapse_makes_table_and_picture_and_goes_on_where_it_was(tmp_path: Path) -> None:
    write_cifar(tmp_path / "data", images=60)  # a batch for each of five workers
    few = (*OF_CIFAR, "--recipe", "paper")
    assert npnet_run(*few, "--np", "2", cwd=tmp_path, timeout=300, started=True).status == 0
    outcome = npnet_run(*few, "--np", "2,4", cwd=tmp_path, timeout=300)
    assert "Run 1 of 2" not in outcome.stdout  # it lay there already
    assert "Run 2 of 2: paper-np04" in outcome.stdout
    header, *rows = (tmp_path / "study" / "collapse.csv").read_text().splitlines()
    assert header == "np,published,train,moving,recalibrated,modern"
    assert [row.split(",")[0] for row in rows] == ["2", "4"]
    for row, count in zip(rows, (2, 4), strict=True):
        summary = json.loads((tmp_path / f"study/paper-np0{count}/summary.json").read_text())
        assert summary["world"] == count
        assert float(row.split(",")[3]) == pytest.approx(100 * summary["test_acc"], abs=0.01)
        assert row.split(",")[5] == ""
    pytest.importorskip("matplotlib", reason="pictures need the plots extra")
    assert (tmp_path / "study" / "collapse.png").read_bytes().startswith(b"\x89PNG")


def test_a_study_is_not_mixed_with_another(place: Path) -> None:
    """Nor are its two recipes; and nothing is run before all of it was looked at."""
    few = (*OF_CIFAR, "--np", "2")
    assert npnet_run(*few, "--recipe", "paper", cwd=place, timeout=300).status == 0
    outcome = npnet_run(*few, "--recipe", "modern", "--seed", 7, cwd=place)
    assert "study was run with other options, nothing instead of --seed 7" in outcome.error
    assert "[STUDY] Run" not in outcome.stdout
    assert "2,x is not a list" in npnet_run(*STUDY, "--np", "2,x", cwd=place).error
    assert "give at most 833 to --np" in npnet_run(*STUDY, "--np", "2,900", cwd=place).error


def test_frozen_statistics_are_no_cause_for_a_warning(place: Path) -> None:
    frozen = ("train", *TINY, "--epochs", 1, "--bn-momentum", 0.999, "--freeze-bn", "--out", "run")
    outcome = npnet_run(*frozen, cwd=place, timeout=300)
    assert outcome.status == 0, outcome.stderr
    assert "[WARNING]" not in outcome.stdout


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--batch-per-rank", 1), True),
        (("--batch-per-rank", 2), False),
        (("--batch-per-rank", 1, "--freeze-bn"), False),
    ],
)
def test_a_batch_norm_that_sees_one_number_is_told(
    place: Path, options: tuple[object, ...], told: bool
) -> None:
    """At 32 pixels the last maps have one pixel."""
    more = ("--backend", "reference", "--epochs", 1, "--evaluate", "never", "--out", "run")
    outcome = npnet_run("train", *TINY, *map(str, (*options, *more)), cwd=place)
    assert outcome.status == 0, outcome.stderr
    assert ("sees a single number for each channel" in " ".join(outcome.stdout.split())) == told
