"""Schedules and the values of the two recipes."""

from dataclasses import replace
from typing import get_args

import pytest

from npnet.cli import options
from npnet.cli.study.common import NP_OF_PAPER
from npnet.data import DATASETS
from npnet.kernels import BACKENDS
from npnet.model.config import ModelConfig
from npnet.parallel.strategies import STRATEGIES
from npnet.study.paper import TABLE_3
from npnet.training.evaluate import BatchNormEvaluation
from npnet.training.recipe import BATCH_PER_RANK, MODEL_FIELDS, MODERN, PAPER, RECIPES, Recipe
from tests.datasets import MODEL


def test_paper_is_the_protocol_of_section_3_2():
    assert (PAPER.lr, PAPER.momentum, PAPER.weight_decay) == (5e-4, 0.9, 0.0)
    assert (BATCH_PER_RANK, PAPER.sync) == (12, "gather-bcast")
    assert (PAPER.bn_momentum, MODEL_FIELDS["paper"]["bn_epsilon"]) == (0.999, 1e-3)
    assert {PAPER.lr_at(epoch, 10, 24) for epoch in (0, 0.1, 5, 10)} == {5e-4}


def test_modern_scales_with_the_global_batch_then_warms_up_and_decays_to_zero():
    assert MODERN.peak_lr(576) == pytest.approx(0.6)
    assert MODERN.peak_lr(24) == pytest.approx(0.6 / 24)
    rates = [MODERN.lr_at(epoch, 10, 576) for epoch in (0, 1, 2, 6, 10)]
    assert rates == pytest.approx([0, 0.3, 0.6, 0.3, 0])


def test_a_given_rate_is_not_scaled():
    assert replace(MODERN, lr=0.1).peak_lr(10_000) == 0.1


def test_warm_up_takes_at_most_half_of_a_short_run():
    assert MODERN.lr_at(0.5, 1, 576) == pytest.approx(0.6)


def test_files_from_before_random_crops_and_centres_mean_what_they_meant():
    recipe, model = MODERN.as_dict(), MODEL.as_dict()
    for name in ("crop_scale", "crop_ratio", "color_jitter"):
        del recipe[name]
    del model["crop_fraction"]
    assert Recipe.from_dict(recipe, "a file") == MODERN
    assert (MODERN.crop_scale, MODERN.color_jitter) == (1, 0)
    assert ModelConfig.from_dict(model, "a file") == MODEL
    assert MODEL.crop_fraction == 1


def test_the_command_line_offers_what_the_engine_has():
    """The option lists are written down twice, because the engine's modules load NumPy."""
    assert set(options.RECIPES) == set(RECIPES)
    assert set(options.STRATEGIES) == set(STRATEGIES)
    assert set(options.BACKENDS) == set(BACKENDS)
    assert set(options.DATASETS) == set(DATASETS)
    assert ",".join(str(row.np) for row in TABLE_3) == NP_OF_PAPER
    assert set(options.BN_EVALUATIONS) == set(get_args(BatchNormEvaluation))
    assert {recipe.sync for recipe in RECIPES.values()} <= set(STRATEGIES)
