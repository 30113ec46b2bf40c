"""TensorFlow as a contestant: Keras layers in a graph (tf.function), one thread, NHWC."""

import tensorflow as tf

from bench.peers.task import MOMENTUM, WEIGHT_DECAY, Task
from bench.peers.worker import Contestant
from npnet.kernels.arrays import Floats
from npnet.model.architecture import Architecture
from npnet.model.operations import (
    Add,
    AveragePool,
    BatchNorm,
    Concat,
    Convolution,
    Linear,
    MaxPool,
    Operation,
)
from npnet.model.operations.base import IMAGES
from npnet.model.parameters import Parameters

layers = tf.keras.layers


def convolve(operation: Convolution, epsilon: float, x: tf.Tensor) -> tf.Tensor:
    """Convolution, with a batch norm or a bias, and the ReLU that the operation has."""
    name, size, stride, pad = operation.name, operation.size, operation.stride, operation.pad
    padding = "same" if (stride, 2 * pad) == (1, size - 1) else "valid"
    if padding == "valid" and pad:  # at stride 2, "same" would pad below and to the right alone
        x = layers.ZeroPadding2D(pad)(x)
    options = {"use_bias": not operation.batch_norm, "name": name}
    if operation.depthwise:
        x = layers.DepthwiseConv2D(size, stride, padding, **options)(x)
    else:
        x = layers.Conv2D(operation.channels, size, stride, padding, **options)(x)
    if operation.batch_norm:
        options = {"momentum": BatchNorm().momentum, "epsilon": epsilon}
        x = layers.BatchNormalization(**options, name=f"{name}.batchnorm")(x)
    if operation.relu == "none":
        return x
    return layers.ReLU(6.0 if operation.relu == "relu6" else None)(x)


def append(operation: Operation, epsilon: float, *inputs: tf.Tensor) -> tf.Tensor:
    """The output of an operation of any kind but dropout, which tasks do without."""
    match operation:
        case Convolution():
            return convolve(operation, epsilon, *inputs)
        case Add():
            return layers.Add()(inputs[::-1])
        case Concat():
            return layers.Concatenate()(inputs)
        case MaxPool():  # "same" pads an even map below and to the right, and an odd one all round
            padding = "valid" if operation.input_shape[0] % 2 else "same"
            return layers.MaxPooling2D(3, 2, padding)(*inputs)
        case AveragePool():
            return layers.GlobalAveragePooling2D()(*inputs)
        case Linear():
            return layers.Dense(operation.classes, name=operation.name)(*inputs)
    raise NotImplementedError(f"no Keras layer stands for {operation.kind}")


def model_of(architecture: Architecture, batch: int) -> tf.keras.Model:
    """`architecture` in Keras: images (n,S,S,3) to logits (n,K)."""
    size = architecture.input_size
    images = x = tf.keras.Input((size, size, 3), batch)
    outputs = {IMAGES: images}
    for operation in architecture:
        inputs = [outputs[name] for name in operation.inputs]
        x = append(operation, architecture.config.bn_epsilon, *inputs)
        outputs[operation.name] = x
    return tf.keras.Model(images, x)


def load_parameters(
    model: tf.keras.Model, architecture: Architecture, parameters: Parameters
) -> None:
    """Copy npnet's parameters and running statistics into `model`."""
    for operation in architecture:
        if not operation.parameters:
            continue
        name = operation.name
        weight, *others = (parameters.value(spec.name) for spec in operation.parameters)
        if isinstance(operation, Convolution):
            weight = to_tensorflow_layout(weight)
        if operation.statistics_channels:
            norm = [*others, *parameters.running(name)]
            model.get_layer(f"{name}.batchnorm").set_weights(norm)
            others = []
        model.get_layer(name).set_weights([weight, *others])


def training(task: Task) -> Contestant:
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    architecture = task.architecture
    model = model_of(architecture, len(task.labels))
    load_parameters(model, architecture, task.parameters)
    images, labels = tf.constant(task.images), tf.constant(task.labels)
    variables = model.trainable_variables
    decay = [WEIGHT_DECAY if "kernel" in variable.name else 0.0 for variable in variables]
    # The older of Keras' two: its update is one fused operation a variable.
    optimiser = tf.keras.optimizers.legacy.SGD(task.learning_rate, MOMENTUM, nesterov=True)

    @tf.function
    def graph() -> tf.Tensor:
        with tf.GradientTape() as tape:
            logits = model(images, training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, variables)
        decayed = [
            g + rate * w if rate else g
            for g, w, rate in zip(gradients, variables, decay, strict=True)
        ]
        optimiser.apply_gradients(zip(decayed, variables, strict=True))
        return loss

    return Contestant(f"TensorFlow {tf.__version__} graph", lambda: float(graph()))


def to_tensorflow_layout(array: Floats) -> Floats:
    """A convolution's weight: a pointwise one becomes (1,1,ci,co), a depthwise one (3,3,c,1)."""
    if array.ndim == 2:
        return array[None, None]
    return array[..., None] if array.ndim == 3 else array
