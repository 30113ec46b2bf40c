"""Backward against forward, in float64: every operation, and a whole network."""

import pytest

from npnet.measure.gradcheck import check_network, check_operations, miniatures

MINIATURES = [
    pytest.param(each, id=f"{each.name}{'' if each.config.batch_norm else ' with biases'}")
    for each in miniatures()
]
# Parameter arrays: two or three of a convolution, two of a linear classifier.
COUNTS = {
    ("mobilenet_v2", True): 50,
    ("mobilenet_v2_cifar", True): 50,
    ("squeezenet1_0", True): 23,
    ("squeezenet1_0", False): 16,
    ("squeezenet1_1", True): 23,
    ("squeezenet1_1", False): 16,
}


@pytest.mark.parametrize(
    "backend", ["reference", pytest.param("numba", marks=pytest.mark.compiled)]
)
class TestGradients:
    def test_every_operation(self, backend):
        checks = list(check_operations(backend))
        assert len(checks) > 100
        assert [check for check in checks if not check.passed] == []

    @pytest.mark.parametrize("frozen", [False, True], ids=["batch statistics", "frozen"])
    @pytest.mark.parametrize("architecture", MINIATURES)
    def test_small_network(self, backend, architecture, frozen):
        checks = list(check_network(architecture, backend, frozen=frozen))
        assert len(checks) == COUNTS[architecture.name, architecture.config.batch_norm]
        assert [check for check in checks if not check.passed] == []
