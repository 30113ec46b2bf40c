"""npnet as a contestant; `reference` is its NumPy backend."""

from bench.peers.task import Task
from bench.peers.worker import Contestant
from npnet import __version__
from npnet.measure.benchmark import InferenceStep, TrainingStep


def training(task: Task, backend: str = "numba") -> Contestant:
    step = TrainingStep(backend, len(task.labels), task.architecture, task.train)
    step.optimiser.schedule = lambda time: task.learning_rate
    task.fill(step.parameters)
    step.network.images[:] = task.images
    step.labels = task.labels
    return Contestant(f"npnet {__version__} {backend}", step)


def inference(task: Task, backend: str = "numba") -> Contestant:
    step = InferenceStep(backend, len(task.labels), task.architecture)
    task.fill(step.engine.parameters)
    step.engine.fold()
    step.engine.images[:] = task.images
    how = ", batch norm folded" if task.architecture.normalised else ""
    return Contestant(f"npnet {__version__} {backend}{how}", step)


def reference_training(task: Task) -> Contestant:
    return training(task, "reference")


def reference_inference(task: Task) -> Contestant:
    return inference(task, "reference")
