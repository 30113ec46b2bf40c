"""PyTorch as a contestant: one thread, channels last."""

import torch
from torch.nn import functional

from bench.peers.task import MOMENTUM, WEIGHT_DECAY, Task
from bench.peers.torch_model import (
    TorchModel,
    images_to_torch,
    load_parameters,
    parameter_groups,
)
from bench.peers.worker import Contestant
from npnet.kernels.arrays import Floats


def _model(task: Task) -> TorchModel:
    torch.set_num_threads(1)
    model = TorchModel(task.architecture, channels_last=True)
    load_parameters(model, task.parameters)
    return model


def training(task: Task, compiled: bool = False) -> Contestant:
    """Eager mode."""
    model = _model(task)
    model.train_only(task.parts)
    run = torch.compile(model) if compiled else model
    images, labels = images_to_torch(task.images, model), torch.from_numpy(task.labels)
    optimiser = torch.optim.SGD(
        parameter_groups(model, task.parameters, WEIGHT_DECAY),
        lr=task.learning_rate,
        momentum=MOMENTUM,
        nesterov=True,
    )

    def step() -> float:
        optimiser.zero_grad(set_to_none=True)
        loss = functional.cross_entropy(run(images), labels)
        loss.backward()
        optimiser.step()
        return loss.item()

    return Contestant(f"PyTorch {torch.__version__} {'compiled' if compiled else 'eager'}", step)


def compiled_training(task: Task) -> Contestant:
    """torch.compile."""
    return training(task, compiled=True)


def inference(task: Task) -> Contestant:
    """Eager mode."""
    model = _model(task).eval()
    images = images_to_torch(task.images, model)

    @torch.inference_mode()
    def step() -> Floats:
        logits: Floats = model(images).numpy()
        return logits

    return Contestant(f"PyTorch {torch.__version__} eager", step)


def traced_inference(task: Task) -> Contestant:
    """Traced and frozen: batch norm folded, layouts chosen by oneDNN."""
    model = _model(task).eval()
    images = images_to_torch(task.images, model)
    with torch.no_grad():
        traced = torch.jit.freeze(torch.jit.trace(model, images))
        traced = torch.jit.optimize_for_inference(traced)

    @torch.inference_mode()
    def step() -> Floats:
        logits: Floats = traced(images).numpy()
        return logits

    return Contestant(f"PyTorch {torch.__version__} traced, frozen", step)
