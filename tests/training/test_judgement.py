"""What is told of the images of a split, on images whose fate is known."""

import csv
import json
from dataclasses import asdict

import numpy as np
import pytest

import npnet
from npnet.parallel.communicator import SerialCommunicator
from npnet.study import judging
from npnet.training.judgement import Judgement, columns
from tests.datasets import Toy
from tests.training.test_evaluate import checkpoint_of

CLASSES = ("ant", "bee", "cat", "dog", "eel", "fox", "gnu")
# Four images of ants, of which two are recognised and two taken for bees; two bees, one taken for
# a cat, of which the split has none; a dog.
LABELS = np.array([0, 0, 0, 0, 1, 1, 3])
LOGITS = np.array(
    [
        [5, 1, 0, 0, 0, 0, 0],
        [2, 1, 0, 0, 0, 0, 0],
        [1, 4, 0, 3, 5, 6, 7],  # five are likelier than its own
        [1, 2, 0, 0, 0, 0, 0],
        [0, 3, 1, 0, 0, 0, 0],
        [0, 1, 3, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0],  # the first of equals is the likeliest
    ],
    float,
)


@pytest.fixture
def judgement():
    chances = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
    losses = -np.log(chances[np.arange(7), LABELS])
    return Judgement.of(CLASSES, columns(LABELS, LOGITS, losses, chances))


def test_top_1_and_top_5(judgement):
    assert judgement.accuracy == pytest.approx(3 / 7)
    assert judgement.likelier.tolist() == [0, 0, 5, 1, 0, 1, 3]
    assert judgement.top5 == pytest.approx(6 / 7)
    assert Judgement.of(CLASSES[:5], np.zeros((5, 1))).top5 is None


def test_the_confusion_matrix_and_its_classes(judgement):
    assert judgement.confusion.sum() == 7
    assert judgement.confusion[0].tolist() == [2, 1, 0, 0, 0, 0, 1]
    worst, *_, last = judgement.per_class()
    assert (worst.name, worst.images, worst.accuracy, worst.taken_for) == ("dog", 1, 0.0, "ant")
    assert [each.name for each in judgement.per_class()[:3]] == ["dog", "ant", "bee"]
    assert (last.name, last.images, last.accuracy, last.precision) == ("gnu", 0, None, 0.0)
    ant = judgement.per_class()[1]
    assert (ant.accuracy, ant.precision) == (0.5, pytest.approx(2 / 3))
    pairs = [(pair.label, pair.predicted, pair.images) for pair in judgement.confusions()]
    assert sorted(pairs) == [
        ("ant", "bee", 1),
        ("ant", "gnu", 1),
        ("bee", "cat", 1),
        ("dog", "ant", 1),
    ]
    assert judgement.confusions()[0].share == 0.25


def test_the_worst_are_wrong_and_the_most_so_first(judgement):
    assert judgement.worst(3).tolist() == [2, 5, 6]
    assert judgement.worst(20).tolist() == [2, 5, 6, 3]


def test_it_is_what_evaluate_counts():
    """On a network, batch by batch, with the same loss and accuracy as in training."""
    saved, here = checkpoint_of(Toy.classes), {"backend": "reference", "batch": 4}
    judged = npnet.evaluate(saved, Toy(9, 9), comm=SerialCommunicator(), **here)
    evaluator = npnet.training.evaluate.Evaluator.of_checkpoint(
        saved, Toy(9, 9), SerialCommunicator(), 4, "reference"
    )
    score = evaluator.scores("moving").main
    assert (judged.loss, judged.accuracy) == (pytest.approx(score.loss), score.accuracy)
    assert judged.labels.tolist() == Toy(9, 9).read("test", np.arange(9)).labels.tolist()
    assert (np.diag(judged.confusion).sum() / 9) == pytest.approx(score.accuracy)


def test_tables(judgement, tmp_path):
    found = judging.summary(judgement, Toy(9, 9), "test")
    found["worst"] = judging.worst(judgement, Toy(9, 9), "test", 2)
    paths = judging.write_tables(tmp_path, judgement, found)
    assert [path.name for path in paths] == ["evaluation.json", "per_class.csv", "confusion.csv"]
    read = json.loads(paths[0].read_text())
    assert read == found
    assert set(read) == {
        *("test_loss", "test_acc", "test_top5_acc", "dataset", "split", "images"),
        *("per_class", "worst"),
    }
    assert (read["worst"][0]["index"], read["worst"][0]["file"]) == (2, "")
    assert (read["worst"][0]["class"], read["worst"][0]["predicted"]) == ("ant", "gnu")
    with paths[1].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [each.name for each in judgement.per_class()]
    assert set(rows[0]) == set(asdict(judgement.per_class()[0]))
    with paths[2].open(newline="") as file:
        head, *cells = csv.reader(file)
    assert head == ["class", *CLASSES]
    assert [list(map(int, row[1:])) for row in cells] == judgement.confusion.tolist()


@pytest.mark.parametrize("classes", [1, 10, 100, 200])
def test_pictures(classes, tmp_path, monkeypatch):
    """Up to 20 classes have numbers in their cells, up to 150 have names; nothing has formulas."""
    pytest.importorskip("matplotlib", reason="pictures need the plots extra")
    figures = []
    monkeypatch.setattr("npnet.study.plots.save", lambda figure, path: figures.append(figure))
    found = np.zeros((5, 2 * classes))
    found[0] = np.repeat(np.arange(classes), 2)
    found[1, ::2], found[2, ::2] = found[0, ::2], 0
    found[2, 1::2] = 1 if classes > 1 else 0
    names = tuple(f"${number}" * 30 for number in range(classes))
    judged = Judgement.of(names, found)
    judging.draw_confusion(tmp_path, judged, "toy")
    indices = judged.worst(7)
    pixels = np.zeros((len(indices), 8, 8, 3), np.uint8)
    found = judging.worst(judged, Toy(9, 9), "test", 7)
    found[0:1] = [each | {"file": "a/photo.jpg"} for each in found[0:1]]
    judging.draw_worst(tmp_path, judged, found, pixels, "toy")
    confusion, errors = figures
    axis = confusion.axes[0]
    assert len(axis.texts) == (np.count_nonzero(judged.confusion) if classes <= 20 else 0)
    labels = [each.get_text() for each in axis.get_xticklabels()]
    assert any(label.startswith("$0") for label in labels) == (classes <= 150)
    assert sum(bool(axis.images) for axis in errors.axes) == len(indices)
    titles = [axis.get_title().split("\n")[-1] for axis in errors.axes[: len(indices)]]
    expected = [f"image {index}" for index in indices.tolist()]
    assert titles == [*["photo.jpg"][: len(expected)], *expected[1:]]
    figures[1].draw_without_rendering()
