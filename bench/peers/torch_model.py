"""Any of npnet's networks in PyTorch, built from its own list of operations.

npnet's arrays go in and gradients come out in npnet's order and layout, so that the two can be
compared number by number and timed on equal work. Images are NCHW here, as PyTorch indexes them;
`channels_last` lays them out in memory as npnet does.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from npnet.exchange.layout import to_npnet_layout, to_torch_layout
from npnet.kernels.arrays import Floats
from npnet.model.architecture import Architecture
from npnet.model.operations import (
    Add,
    AveragePool,
    BatchNorm,
    Concat,
    Convolution,
    Dropout,
    Linear,
    MaxPool,
    Operation,
)
from npnet.model.operations.base import IMAGES, consumers
from npnet.model.parameters import Parameters
from npnet.training.parts import Parts


class Sum(nn.Module):
    """a + b."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b


class Concatenation(nn.Module):
    """Channels side by side."""

    def forward(self, *parts: Tensor) -> Tensor:
        return torch.cat(parts, 1)


def convolution_unit(operation: Convolution, epsilon: float) -> nn.Sequential:
    """Convolution, with a batch norm or a bias, and the ReLU that the operation has."""
    ci, co = operation.input_shape[-1], operation.channels
    layer = nn.Sequential(
        nn.Conv2d(
            ci,
            co,
            kernel_size=operation.size,
            stride=operation.stride,
            padding=operation.pad,
            groups=ci if operation.depthwise else 1,
            bias=not operation.batch_norm,
        )
    )
    if operation.batch_norm:
        layer.append(nn.BatchNorm2d(co, eps=epsilon, momentum=1 - BatchNorm().momentum))
    if operation.relu != "none":
        layer.append({"relu": nn.ReLU, "relu6": nn.ReLU6}[operation.relu]())
    return layer


def layer_of(operation: Operation, epsilon: float) -> nn.Module:
    """What runs an operation of any kind."""
    match operation:
        case Convolution():
            return convolution_unit(operation, epsilon)
        case Add():
            return Sum()
        case Concat():
            return Concatenation()
        case MaxPool():
            return nn.MaxPool2d(3, 2, ceil_mode=True)
        case AveragePool():
            return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1))
        case Dropout():
            return nn.Dropout(operation.rate)
        case Linear():
            return nn.Linear(operation.input_shape[-1], operation.classes)
    raise NotImplementedError(f"no PyTorch layer stands for {operation.kind}")


class TorchModel(nn.Module):
    """`architecture` in PyTorch. Input (N,3,S,S), output (N,K).

    `layers` finds the layer of an operation by its name, such as "block3.expand". An output is let
    go when its last reader has read it, as in a model written by hand.
    """

    def __init__(
        self,
        architecture: Architecture,
        dtype: torch.dtype = torch.float32,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.operations = architecture.operations
        epsilon = architecture.config.bn_epsilon
        self.layers = {each.name: layer_of(each, epsilon) for each in self.operations}
        for name, layer in self.layers.items():  # PyTorch's own names have no dots
            self.add_module(name.replace(".", "_"), layer)
        last = {
            name: max(readers, default=-1) for name, readers in consumers(self.operations).items()
        }
        self.read_last = [
            [name for name in each.inputs if last[name] == number]
            for number, each in enumerate(self.operations)
        ]
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.to(dtype=dtype)
        self.to(memory_format=self.memory_format)  # type: ignore[call-overload]  # not in its stubs

    def forward(self, x: Tensor) -> Tensor:
        outputs = {IMAGES: x.contiguous(memory_format=self.memory_format)}
        for operation, done in zip(self.operations, self.read_last, strict=True):
            inputs = [outputs[name] for name in operation.inputs]
            outputs[operation.name] = self.layers[operation.name](*inputs)
            for name in done:
                del outputs[name]
        return outputs[self.operations[-1].name]

    def train_only(self, parts: Parts) -> None:
        """Training mode for what is trained; the rest keeps its parameters and statistics."""
        self.train()
        for spec in parts.specs:
            self.parameter(spec.name).requires_grad_(parts.trains(spec))
        for name in parts.resting():
            self.layers[name].eval()

    def parameter(self, name: str) -> nn.Parameter:
        """The parameter that npnet calls `name`, such as "block3.expand.gamma"."""
        operation, _, role = name.rpartition(".")
        layer = self.layers[operation]
        if isinstance(layer, nn.Sequential):
            layer = layer[1 if role in ("gamma", "beta") else 0]
        found = layer.weight if role in ("weight", "gamma") else layer.bias
        assert isinstance(found, nn.Parameter)
        return found

    def running(self, operation: str) -> tuple[Tensor, Tensor]:
        """The running mean and variance of an operation's batch norm."""
        layer = self.layers[operation]
        assert isinstance(layer, nn.Sequential)
        norm = layer[1]
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        return norm.running_mean, norm.running_var

    @property
    def normalised(self) -> list[str]:
        """The names of the operations with a batch norm."""
        return [each.name for each in self.operations if each.statistics_channels]


def load_parameters(model: TorchModel, parameters: Parameters) -> None:
    """Copy npnet's parameters and running statistics into `model`."""
    with torch.no_grad():
        for spec in parameters.specs:
            target = model.parameter(spec.name)
            value = to_torch_layout(parameters.value(spec.name), target.ndim)
            target.copy_(torch.from_numpy(np.ascontiguousarray(value)))
        for name in model.normalised:
            for tensor, source in zip(model.running(name), parameters.running(name), strict=True):
                tensor.copy_(torch.from_numpy(source))


def read_parameters(model: TorchModel, parameters: Parameters) -> None:
    """Copy the model's parameters and running statistics into npnet's flat vectors."""
    for spec in parameters.specs:
        source = model.parameter(spec.name).detach().numpy()
        parameters.value(spec.name)[...] = to_npnet_layout(source, spec.shape)
    for name in model.normalised:
        for tensor, target in zip(model.running(name), parameters.running(name), strict=True):
            target[...] = tensor.numpy()


def read_gradients(model: TorchModel, parameters: Parameters) -> None:
    """Copy the model's gradients into `parameters.gradients`."""
    for spec in parameters.specs:
        gradient = model.parameter(spec.name).grad
        assert gradient is not None, f"{spec.name} has no gradient: call backward first"
        parameters.gradient(spec.name)[...] = to_npnet_layout(gradient.numpy(), spec.shape)


def images_to_torch(images: Floats, model: TorchModel) -> Tensor:
    """npnet's images (N,S,S,3) as the model's input (N,3,S,S), a copy in its dtype and layout."""
    nchw = torch.from_numpy(images).permute(0, 3, 1, 2)
    dtype = next(model.parameters()).dtype
    return nchw.to(dtype=dtype, memory_format=model.memory_format, copy=True)


def parameter_groups(
    model: TorchModel, parameters: Parameters, weight_decay: float
) -> list[dict[str, Any]]:
    """Groups for torch.optim, of what is trained: weights are decayed; gammas, betas and biases are
    not.
    """
    named = [(spec.role, model.parameter(spec.name)) for spec in parameters.specs]
    moving = [(role, each) for role, each in named if each.requires_grad]
    return [
        {
            "params": [each for role, each in moving if role == "weight"],
            "weight_decay": weight_decay,
        },
        {"params": [each for role, each in moving if role != "weight"], "weight_decay": 0.0},
    ]
