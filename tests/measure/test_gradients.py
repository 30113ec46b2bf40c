"""Backward against forward, in float64: every operation, and a whole network."""

import pytest

from npnet.measure.gradcheck import check_network, check_operations


@pytest.mark.parametrize(
    "backend", ["reference", pytest.param("numba", marks=pytest.mark.compiled)]
)
class TestGradients:
    def test_every_operation(self, backend):
        checks = list(check_operations(backend))
        assert len(checks) > 100
        assert [check for check in checks if not check.passed] == []

    @pytest.mark.parametrize("frozen", [False, True], ids=["batch statistics", "frozen"])
    def test_small_network(self, backend, frozen):
        checks = list(check_network(backend, frozen=frozen))
        assert len(checks) == 50
        assert [check for check in checks if not check.passed] == []
