"""The same network in PyTorch, built from npnet's own table of operations.

npnet's arrays go in and gradients come out in npnet's order and layout, so that the two can be
compared number by number and timed on equal work. Images are NCHW here, as PyTorch indexes them;
`channels_last` lays them out in memory as npnet does.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.peers.layout import to_npnet_layout, to_torch_layout
from npnet.kernels.arrays import Floats
from npnet.model.network import BatchNorm
from npnet.model.parameters import Parameters
from npnet.model.zoo.mobilenet_v2 import Architecture, Block, Operation


def convolution_unit(operation: Operation, bn: BatchNorm) -> nn.Sequential:
    """Convolution, batch norm, and ReLU6 where the operation has one."""
    ci, co = operation.input_shape[-1], operation.output_shape[-1]
    pointwise, depthwise = operation.kind == "pointwise", operation.kind == "depthwise"
    unit = nn.Sequential(
        nn.Conv2d(
            ci,
            co,
            kernel_size=1 if pointwise else 3,
            stride=operation.stride,
            padding=0 if pointwise else 1,
            groups=ci if depthwise else 1,
            bias=False,
        ),
        nn.BatchNorm2d(co, eps=bn.epsilon, momentum=1 - bn.momentum),
    )
    if operation.relu6:
        unit.append(nn.ReLU6())
    return unit


class ResidualBlock(nn.Module):
    """Convolution units in a row; with a shortcut, output = units(x) + x."""

    def __init__(self, block: Block, units: list[nn.Sequential]) -> None:
        super().__init__()
        self.units, self.shortcut = nn.Sequential(*units), block.shortcut

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.units(x)
        return y + x if self.shortcut else y


class TorchMobileNet(nn.Module):
    """`architecture` in PyTorch. Input (N,3,S,S), output (N,K).

    `convolutions` finds the layers of an operation by its name, such as "block3.expand".
    """

    def __init__(
        self,
        architecture: Architecture,
        bn: BatchNorm | None = None,
        dtype: torch.dtype = torch.float32,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        # A plain dict beside the modules: PyTorch's own containers allow no dots in names.
        self.convolutions = {
            operation.name: convolution_unit(operation, bn or BatchNorm())
            for operation in architecture.convolutions
        }
        self.blocks = nn.Sequential(
            *(
                ResidualBlock(
                    block,
                    [
                        self.convolutions[step.name]
                        for step in block.operations
                        if step.is_convolution
                    ],
                )
                for block in architecture.blocks
            )
        )
        self.dropout = nn.Dropout(architecture.dropout)
        classifier = architecture.operations[-1]
        self.classifier = nn.Linear(classifier.input_shape[0], architecture.classes)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.to(dtype=dtype)
        self.to(memory_format=self.memory_format)  # type: ignore[call-overload]  # not in its stubs

    def forward(self, x: Tensor) -> Tensor:
        maps = self.blocks(x.contiguous(memory_format=self.memory_format))
        features = functional.adaptive_avg_pool2d(maps, 1).flatten(1)
        logits: Tensor = self.classifier(self.dropout(features))
        return logits

    def parameter(self, name: str) -> nn.Parameter:
        """The parameter that npnet calls `name`, such as "block3.expand.gamma"."""
        found: Tensor | nn.Module
        operation, _, role = name.rpartition(".")
        if operation == "classifier":
            found = self.classifier.weight if role == "weight" else self.classifier.bias
        else:
            unit = self.convolutions[operation]
            found = {"weight": unit[0].weight, "gamma": unit[1].weight, "beta": unit[1].bias}[role]
        assert isinstance(found, nn.Parameter)
        return found

    def running(self, operation: str) -> tuple[Tensor, Tensor]:
        """The running mean and variance of an operation's batch norm."""
        norm = self.convolutions[operation][1]
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        return norm.running_mean, norm.running_var


def load_parameters(model: TorchMobileNet, parameters: Parameters) -> None:
    """Copy npnet's parameters and running statistics into `model`."""
    with torch.no_grad():
        for spec in parameters.specs:
            target = model.parameter(spec.name)
            value = to_torch_layout(parameters.value(spec.name), target.ndim)
            target.copy_(torch.from_numpy(np.ascontiguousarray(value)))
        for name in model.convolutions:
            for tensor, source in zip(model.running(name), parameters.running(name), strict=True):
                tensor.copy_(torch.from_numpy(source))


def read_parameters(model: TorchMobileNet, parameters: Parameters) -> None:
    """Copy the model's parameters and running statistics into npnet's flat vectors."""
    for spec in parameters.specs:
        source = model.parameter(spec.name).detach().numpy()
        parameters.value(spec.name)[...] = to_npnet_layout(source, spec.shape)
    for name in model.convolutions:
        for tensor, target in zip(model.running(name), parameters.running(name), strict=True):
            target[...] = tensor.numpy()


def read_gradients(model: TorchMobileNet, parameters: Parameters) -> None:
    """Copy the model's gradients into `parameters.gradients`."""
    for spec in parameters.specs:
        gradient = model.parameter(spec.name).grad
        assert gradient is not None, f"{spec.name} has no gradient: call backward first"
        parameters.gradient(spec.name)[...] = to_npnet_layout(gradient.numpy(), spec.shape)


def images_to_torch(images: Floats, model: TorchMobileNet) -> Tensor:
    """npnet's images (N,S,S,3) as the model's input (N,3,S,S), a copy in its dtype and layout."""
    nchw = torch.from_numpy(images).permute(0, 3, 1, 2)
    dtype = model.classifier.weight.dtype
    return nchw.to(dtype=dtype, memory_format=model.memory_format, copy=True)


def parameter_groups(
    model: TorchMobileNet, parameters: Parameters, weight_decay: float
) -> list[dict[str, Any]]:
    """Groups for torch.optim: weights are decayed; gammas, betas and the bias are not."""
    weights = [model.parameter(spec.name) for spec in parameters.specs if spec.role == "weight"]
    others = [model.parameter(spec.name) for spec in parameters.specs if spec.role != "weight"]
    return [
        {"params": weights, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
