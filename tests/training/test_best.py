"""Which epoch is the best, what best.npz holds, and when a run stops waiting for a better one."""

from dataclasses import replace

import pytest

import npnet
from npnet.errors import NpnetError
from npnet.parallel.communicator import SerialCommunicator
from npnet.training.best import Best
from npnet.training.checkpoint import load
from npnet.training.evaluate import Evaluator, Score, Scores
from npnet.training.recipe import MODERN
from npnet.training.run_folder import RunFolder
from npnet.training.settings import Settings
from npnet.training.trainer import Trainer
from npnet.training.warmup import Silence
from tests.datasets import MODEL, Toy

SETTINGS = Settings(
    epochs=4, batch_per_rank=6, seed=5, ranks_per_node=1, backend="reference", max_steps=1
)


def start(path, dataset=None, checkpoint=None, folder=None, **settings):
    """A run in `path`, or one that goes on there."""
    folder = folder or RunFolder(path, continued=checkpoint is not None)
    dataset, chosen = dataset or Toy(24, 9, 8), replace(SETTINGS, **settings)
    where = (SerialCommunicator(), Silence(), folder, checkpoint)
    return Trainer(dataset, MODEL, MODERN, chosen, *where)


@pytest.fixture
def scored(monkeypatch):
    """Accuracies that the validation split will be found to have; which splits were scored."""
    accuracies, splits = [], []

    def scores(self, bn_eval, split="test"):
        splits.append(split)
        return Scores(Score(1.0, accuracies.pop(0) if split == "val" else 0.5), None)

    monkeypatch.setattr(Evaluator, "scores", scores)
    return accuracies, splits


def test_the_first_of_the_best_counts():
    log = [
        {"epoch": str(n), "test_acc": acc} for n, acc in enumerate(["0.2", "0.4", "0.4", "0.1"], 1)
    ]
    assert Best.of(log) == Best(2, 0.4)
    assert Best.of(log, 1) == Best(1, 0.2)
    held_out = [
        row | {"val_acc": acc} for row, acc in zip(log, ("0.1", "x", "", "0.3"), strict=True)
    ]
    assert Best.of(held_out) == Best(4, 0.3)
    assert Best.of([{"epoch": "1"}]) == Best.of([]) == Best()


def test_it_waits_as_long_as_it_is_told():
    best = Best().after(2, 0.4).after(3, 0.4)
    assert [best.stops(epochs, 2) for epochs in (2, 3, 4, 5)] == [False, False, True, True]
    assert not best.stops(9, None)
    assert not Best().stops(9, 1)


def test_each_epoch_is_scored_on_what_is_held_out_and_the_test_split_at_the_end(tmp_path, scored):
    accuracies, splits = scored
    accuracies += [0.2, 0.6, 0.4, 0.5]
    summary = start(tmp_path / "run").run()
    assert splits == ["val"] * 4 + ["test"]
    rows = RunFolder(tmp_path / "run").read_log()
    assert [row["val_acc"] for row in rows] == ["0.2", "0.6", "0.4", "0.5"]
    assert {row["test_acc"] for row in rows} == {""}
    assert (summary.val_acc, summary.test_acc, summary.best_epoch) == (0.5, 0.5, 2)
    assert not summary.stopped_early
    assert load(tmp_path / "run/best.npz").digest() == load(tmp_path / "run/epoch-002.npz").digest()


def test_best_npz_scores_what_the_log_says(tmp_path):
    summary = start(tmp_path / "run").run()
    best = load(tmp_path / "run/best.npz")
    assert best.header.epoch == summary.best_epoch
    row = RunFolder(tmp_path / "run").read_log()[summary.best_epoch - 1]
    here = {"backend": "reference", "comm": SerialCommunicator()}
    score = npnet.evaluate(best, Toy(24, 9, 8), "val", **here)
    assert score.accuracy == float(row["val_acc"])
    assert score.loss == pytest.approx(float(row["val_loss"]))


def test_without_a_test_split_the_last_score_is_of_what_is_held_out(tmp_path):
    summary = start(tmp_path / "run", Toy(24, 0, 8)).run()
    assert summary.test_acc is None
    assert 0 <= summary.val_acc <= 1


def test_a_score_needs_images(tmp_path):
    with pytest.raises(NpnetError, match="no images to test or to validate on"):
        start(tmp_path / "run", Toy(24, 0))
    assert start(tmp_path / "run", Toy(24, 0), evaluate="never").run().best_epoch is None
    assert not (tmp_path / "run/best.npz").exists()


def test_patience(tmp_path, scored):
    accuracies, splits = scored
    accuracies += [0.2, 0.6, 0.6, 0.4]
    summary = start(tmp_path / "run", epochs=9, patience=2).run()
    assert (summary.epochs, summary.best_epoch, summary.stopped_early) == (4, 2, True)
    assert splits[-1] == "test"
    assert load(tmp_path / "run/final.npz").header.epoch == 4
    assert load(tmp_path / "run/best.npz").header.epoch == 2
    last = load(tmp_path / "run/epoch-004.npz")
    with pytest.raises(NpnetError, match="in 2 epochs none was better than epoch 2; give a larger"):
        start(tmp_path / "run", checkpoint=last, epochs=9, patience=2)
    accuracies += [0.7, 0.1, 0.1, 0.1]
    summary = start(tmp_path / "run", checkpoint=last, epochs=9, patience=3).run()
    assert (summary.epochs, summary.best_epoch, summary.stopped_early) == (8, 5, True)


def test_a_run_that_was_killed_when_patience_ended_is_only_finished(tmp_path, scored):
    accuracies, _ = scored
    accuracies += [0.6, 0.4]
    start(tmp_path / "run", epochs=9, patience=1).run()
    (tmp_path / "run/summary.json").unlink()
    trainer = start(
        tmp_path / "run", checkpoint=load(tmp_path / "run/epoch-002.npz"), epochs=9, patience=1
    )
    accuracies += [0.4]
    assert trainer.run().epochs == 2
    assert (tmp_path / "run/summary.json").exists()


def test_patience_needs_a_score_of_each_epoch():
    with pytest.raises(NpnetError, match="`patience` needs a score of each epoch"):
        replace(SETTINGS, patience=1, evaluate="at-end").check(MODERN)


def test_going_back_to_an_epoch_forgets_a_later_best(tmp_path, scored):
    accuracies, _ = scored
    accuracies += [0.2, 0.1, 0.6, 0.4]
    start(tmp_path / "run").run()
    trainer = start(tmp_path / "run", checkpoint=load(tmp_path / "run/epoch-002.npz"))
    best = load(tmp_path / "run/best.npz")
    assert best.digest() == load(tmp_path / "run/epoch-001.npz").digest()
    accuracies += [0.1, 0.2]
    assert trainer.run().best_epoch == 1


def test_a_later_best_is_forgotten_also_where_the_earlier_one_s_checkpoint_is_gone(
    tmp_path, scored
):
    accuracies, _ = scored
    accuracies += [0.5, 0.2, 0.1, 0.6]
    start(tmp_path / "run", keep=2).run()
    start(tmp_path / "run", checkpoint=load(tmp_path / "run/epoch-003.npz"), keep=2)
    assert not (tmp_path / "run/best.npz").exists()


def test_keep_keeps_the_best(tmp_path, scored):
    accuracies, _ = scored
    accuracies += [0.2, 0.6, 0.6, 0.4]
    start(tmp_path / "run", keep=1).run()
    assert sorted(path.name for path in (tmp_path / "run").glob("epoch-*")) == [
        "epoch-002.npz",
        "epoch-004.npz",
    ]


@pytest.mark.parametrize("bn_eval", ["moving", "recalibrated"])
def test_best_npz_is_made_again(tmp_path, bn_eval):
    """To the bit, with the statistics that gave its score."""
    folder = RunFolder(tmp_path / "run")
    start(folder.path, bn_eval=bn_eval, epochs=2).run()
    before = load(folder.best)
    running, other = (load(folder.epoch(n)) for n in sorted((1, 2), key=before.header.epoch.__ne__))
    assert (before.digest() == running.digest()) == (bn_eval == "moving")
    for damaged in (None, b"PK", other.path.read_bytes()):
        folder.best.unlink()
        if damaged is not None:
            folder.best.write_bytes(damaged)
        folder.summary.unlink()  # so that it is gone on with
        last = load(folder.epoch(2))
        trainer = start(folder.path, checkpoint=last, bn_eval=bn_eval, epochs=2)
        assert load(folder.best).digest() == before.digest()
        trainer.run()
