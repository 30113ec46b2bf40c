"""How bench.peers.step runs and compares contestants; npnet's two backends stand in for peers."""

import sys
from pathlib import Path

import numpy as np
import pytest

from bench.peers import npnet_steps
from bench.peers.step import Peer, Worker, check_agreement, distance, measure
from bench.peers.task import Task, configure, draw_task
from npnet.measure.benchmark import TrainingStep
from npnet.model.config import ModelConfig

REFERENCE = Peer("reference", sys.executable)
# Batch and model: with fewer samples rounding moves the loss.
SMALL = (16, configure("mobilenet_v2", width=0.1, input_size=64))
PLAIN = (4, configure("squeezenet1_1", input_size=40))


@pytest.mark.compiled
@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize(("batch", "config"), [SMALL, PLAIN])
def test_contestants_take_turns(inference: bool, batch: int, config: ModelConfig) -> None:
    mine, theirs = measure(draw_task(inference, batch, config), [REFERENCE], rounds=3, steps=2)
    assert [mine.name, theirs.name] == ["npnet", "reference"]
    assert mine.steps == theirs.steps == 6
    assert mine.ratio_least == mine.ratio_median == mine.ratio_most == 1
    assert 0 < theirs.ratio_least <= theirs.ratio_median <= theirs.ratio_most
    assert theirs.apart < 1e-4
    assert all(20e6 < row.peak_rss_bytes < 2e9 and row.cpu_ms_median > 0 for row in (mine, theirs))


@pytest.mark.compiled
@pytest.mark.parametrize("train", ["head", "last:2", "norm"])
def test_contestants_train_the_same_part(train: str) -> None:
    _, theirs = measure(draw_task(False, *SMALL, train), [REFERENCE], rounds=1, steps=1)
    assert theirs.apart < 1e-4


@pytest.mark.parametrize("train", ["head", "last:2", "norm"])
def test_training_another_part_is_refused(train: str) -> None:
    task = draw_task(False, *SMALL, train)
    answers = []
    for part in (train, train, "all"):
        step = npnet_steps.reference_training(task._replace(train=part)).step
        first = step()
        answers.append(Answer("peer", [float(first)], second_loss=float(step())))
    true, same, other = answers
    check_agreement([true, same])  # type: ignore[list-item]
    with pytest.raises(SystemExit, match="peer does not compute what npnet does"):
        check_agreement([true, other])  # type: ignore[list-item]


@pytest.mark.parametrize(("batch", "config"), [SMALL, PLAIN])
def test_a_task_survives_its_file(tmp_path: Path, batch: int, config: ModelConfig) -> None:
    task = draw_task(False, batch, config, "last:1")
    task.save(tmp_path / "task.npz")
    loaded = Task.load(tmp_path / "task.npz")
    assert loaded.inference is False
    assert loaded.train == "last:1"
    assert loaded.architecture == task.architecture
    for name in ("values", "statistics", "images", "labels"):
        assert np.array_equal(getattr(loaded, name), getattr(task, name))


def test_a_worker_that_fails_ends_the_comparison(tmp_path: Path) -> None:
    draw_task(False, *SMALL).save(tmp_path / "task.npz")
    with pytest.raises(SystemExit, match="nobody ended with status 1"):
        Worker(Peer("nobody", sys.executable), tmp_path / "task.npz")


class Answer:
    """A worker as far as `check_agreement` looks at it."""

    def __init__(self, name: str, results: list[float], second_loss: float | None = None) -> None:
        self.name, self.results, self.second_loss = name, np.array(results), second_loss


@pytest.mark.parametrize("logits", [[1.0, 2.0005], [1.0, float("nan")], [1.0]])
def test_other_logits_are_refused(logits: list[float]) -> None:
    true = Answer("npnet", [1.0, 2.0])
    check_agreement([true, Answer("peer", [1.0001, 2.0])])  # type: ignore[list-item]
    with pytest.raises(SystemExit, match="peer does not compute what npnet does: first results"):
        check_agreement([true, Answer("peer", logits)])  # type: ignore[list-item]


@pytest.mark.parametrize("second_loss", [2.3, 2.15, 1.95, float("nan")])
def test_another_update_is_refused(second_loss: float) -> None:
    true = Answer("npnet", [2.3], second_loss=2.1)
    check_agreement([true, Answer("peer", [2.3], second_loss=2.11)])  # type: ignore[list-item]
    with pytest.raises(SystemExit, match="peer does not compute what npnet does: fall"):
        check_agreement([true, Answer("peer", [2.3], second_loss)])  # type: ignore[list-item]


@pytest.mark.parametrize(("batch", "config"), [SMALL, PLAIN])
def test_momentum_without_nesterov_is_refused(batch: int, config: ModelConfig) -> None:
    answers = []
    for nesterov in (True, True, False):
        step = npnet_steps.reference_training(draw_task(False, batch, config)).step
        assert isinstance(step, TrainingStep)
        step.optimiser.nesterov = nesterov
        first = step()
        answers.append(Answer("peer", [first], second_loss=step()))
    true, same, other = answers
    check_agreement([true, same])  # type: ignore[list-item]
    with pytest.raises(SystemExit, match="fall of the loss after one update"):
        check_agreement([true, other])  # type: ignore[list-item]


def test_distance_is_relative_to_the_largest() -> None:
    assert distance(np.array([0.1, 4.0]), np.array([0.0, 4.0])) == pytest.approx(0.025)
