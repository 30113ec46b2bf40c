"""The range test: which rates it tries, when it ends, what it suggests."""

import math
from dataclasses import replace

import numpy as np
import pytest

from npnet.cli.lr_find import _advise
from npnet.errors import NpnetError
from npnet.parallel.communicator import SerialCommunicator
from npnet.training.lr_find import RangeTest, Try, find_lr
from npnet.training.optimiser import Optimiser
from npnet.training.recipe import MODERN, PAPER
from npnet.training.settings import Settings
from tests.datasets import MODEL, Toy

SETTINGS = Settings(epochs=1, batch_per_rank=6, seed=5, ranks_per_node=1, backend="reference")


def find(recipe=MODERN, **options):
    return find_lr(Toy(12), MODEL, recipe, SETTINGS, SerialCommunicator(), **options)


def test_the_rate_of_each_update_grows_by_one_factor(monkeypatch):
    """Over several epochs of two steps; the last loss is noted, but no update made of it."""
    rates, update = [], Optimiser.update

    def noted(self):
        update(self)
        rates.append(self.lr)

    monkeypatch.setattr(Optimiser, "update", noted)
    steps = []
    found = find(steps=10, lowest=1e-3, highest=1e-1, step_finished=steps.append)
    assert rates == pytest.approx(np.geomspace(1e-3, 1e-1, 10)[:9])
    assert [each.lr for each in found.tries] == pytest.approx(np.geomspace(1e-3, 1e-1, 10))
    assert steps == list(range(1, 11))
    assert not found.exploded


def test_it_ends_where_the_loss_explodes():
    found = find(replace(PAPER, momentum=0.0), steps=30, lowest=1e-2, highest=1e6)
    assert found.exploded
    assert len(found.tries) < 30
    assert math.isfinite(found.tries[-1].loss)


def test_the_smoothed_loss_is_a_mean_of_those_so_far():
    found = find(steps=10, lowest=1e-5, highest=2e-5)
    losses = [each.loss for each in found.tries]
    weights = 0.9 ** np.arange(10)[::-1]
    assert found.tries[0].smoothed == pytest.approx(losses[0])
    assert found.tries[-1].smoothed == pytest.approx(np.average(losses, weights=weights))


def test_of_losses():
    def curve(*losses):
        return RangeTest(tuple(Try(10.0**n, loss, loss) for n, loss in enumerate(losses)), False)

    falls = curve(2.0, 1.5, 1.0, 1.05, 1.2, 4.0)
    assert (falls.least.lr, falls.risen.lr, falls.suggestion) == (1e2, 1e4, 1e3)
    assert not falls.hardly_fell
    flat = curve(2.0, 1.95, 2.1, 2.0, 2.2)
    assert (flat.suggestion, flat.hardly_fell) == (1e3, True)
    assert curve(2.0, 1.9, 1.8).suggestion is None  # it never rose
    assert curve(1.0, 2.0).risen is not None
    assert curve(2.0, 1.0, 0.9).risen is None
    assert RangeTest((Try(1.0, 1, 1), Try(2.0, 3, 3)), True).suggestion is None  # rose at once


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lowest": 1.0, "highest": 0.1}, "rates from 1 to 0.1 do not grow"),
        ({"steps": 3}, "`steps` 3 is not usable: give 10 or more"),
    ],
)
def test_a_range_that_is_none_is_refused(options, words):
    with pytest.raises(NpnetError, match=words):
        find(**options)


def test_a_loss_that_is_not_finite_asks_for_a_smaller_start(capsys):
    _advise(RangeTest((Try(1e30, 1.0, 1.0),), exploded=True), ranks=1)
    assert "give a smaller --from" in capsys.readouterr().out
