"""The plain kernels of SqueezeNet against PyTorch's own, in float64.

    python -m pytest bench/peers/kernel_parity.py

Needs `torch` beside pytest; the suite compares whole networks with what PyTorch left in
tests/golden.
"""

import numpy as np
import pytest
import torch

from npnet.kernels import reference
from npnet.kernels.registry import Case
from tests.kernels.test_layers import CONVOLUTIONS, label


class TestAgainstPyTorch:
    """In float64."""

    @pytest.mark.parametrize("case", CONVOLUTIONS, ids=label)
    def test_convolution(self, case):
        rng = np.random.default_rng(1)
        x, w = (
            rng.standard_normal(case.maps),
            rng.standard_normal((case.k,) * 2 + (case.ci, case.co)),
        )
        dy, y = rng.standard_normal(case.convolved), np.empty(case.convolved)
        dx, dw = np.empty_like(x), np.empty_like(w)
        reference.conv_forward(y, x, w, case.stride, case.padding)
        reference.conv_backward_input(dx, dy, w, case.stride, case.padding)
        reference.conv_backward_weight(dw, dy, x, case.stride, case.padding)
        tx = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
        tw = torch.tensor(w.transpose(3, 2, 0, 1), requires_grad=True)
        ty = torch.nn.functional.conv2d(tx, tw, stride=case.stride, padding=case.padding)
        ty.backward(torch.tensor(dy.transpose(0, 3, 1, 2)))
        assert np.allclose(y, ty.detach().numpy().transpose(0, 2, 3, 1))
        assert np.allclose(dx, tx.grad.numpy().transpose(0, 2, 3, 1))
        assert np.allclose(dw, tw.grad.numpy().transpose(2, 3, 1, 0))

    @pytest.mark.parametrize("size", [(2, 2), (3, 3), (4, 5), (8, 7), (63, 30)])
    def test_max_pool(self, size):
        case = Case("", 2, *size, 3)
        rng = np.random.default_rng(1)
        x, dy, y = (
            rng.standard_normal(case.maps),
            rng.standard_normal(case.pooled),
            np.empty(case.pooled),
        )
        index, dx = np.empty(case.pooled, np.uint8), np.empty_like(x)
        tx = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
        ty = torch.nn.MaxPool2d(3, 2, ceil_mode=True)(tx)
        ty.backward(torch.tensor(dy.transpose(0, 3, 1, 2)))
        assert ty.shape[2:] == case.pooled[1:3]
        reference.max_pool3x3_forward(y, index, x)
        reference.max_pool3x3_backward(dx, dy, index)
        assert np.array_equal(y, ty.detach().numpy().transpose(0, 2, 3, 1))
        assert np.allclose(dx, tx.grad.numpy().transpose(0, 2, 3, 1))
