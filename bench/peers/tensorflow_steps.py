"""TensorFlow as a contestant: Keras layers in a graph (tf.function), one thread, NHWC."""

import tensorflow as tf

from bench.peers.layout import to_tensorflow_layout
from bench.peers.task import LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, Task
from bench.peers.worker import Contestant
from npnet.model.network import BatchNorm
from npnet.model.parameters import Parameters
from npnet.model.zoo.mobilenet_v2 import Architecture, Block, Operation

layers = tf.keras.layers


def _convolve(x: tf.Tensor, operation: Operation) -> tf.Tensor:
    """Convolution, batch norm, and ReLU6 where the operation has one."""
    name, stride, padding = operation.name, operation.stride, "same"
    if stride == 2:  # "same" would pad below and to the right alone
        x, padding = layers.ZeroPadding2D(1)(x), "valid"
    if operation.kind == "depthwise":
        x = layers.DepthwiseConv2D(3, stride, padding, use_bias=False, name=name)(x)
    else:
        size = 1 if operation.kind == "pointwise" else 3
        channels = operation.output_shape[-1]
        x = layers.Conv2D(channels, size, stride, padding, use_bias=False, name=name)(x)
    bn = BatchNorm()
    x = layers.BatchNormalization(
        momentum=bn.momentum, epsilon=bn.epsilon, name=f"{name}.batchnorm"
    )(x)
    return layers.ReLU(6.0)(x) if operation.relu6 else x


def _block(x: tf.Tensor, block: Block) -> tf.Tensor:
    y = x
    for operation in block.operations:
        if operation.is_convolution:
            y = _convolve(y, operation)
    return layers.Add()([x, y]) if block.shortcut else y


def mobilenet(architecture: Architecture, batch: int) -> tf.keras.Model:
    """`architecture` in Keras: images (n,S,S,3) to logits (n,K)."""
    size = architecture.input_size
    images = tf.keras.Input((size, size, 3), batch)
    x = images
    for block in architecture.blocks:
        x = _block(x, block)
    x = layers.GlobalAveragePooling2D()(x)
    return tf.keras.Model(images, layers.Dense(architecture.classes, name="classifier")(x))


def load_parameters(
    model: tf.keras.Model, architecture: Architecture, parameters: Parameters
) -> None:
    """Copy npnet's parameters and running statistics into `model`."""
    value = parameters.value
    for operation in architecture.convolutions:
        name = operation.name
        model.get_layer(name).set_weights([to_tensorflow_layout(value(f"{name}.weight"))])
        norm = value(f"{name}.gamma"), value(f"{name}.beta"), *parameters.running(name)
        model.get_layer(f"{name}.batchnorm").set_weights(norm)
    model.get_layer("classifier").set_weights(
        [value("classifier.weight"), value("classifier.bias")]
    )


def training(task: Task) -> Contestant:
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    architecture = task.architecture
    model = mobilenet(architecture, len(task.labels))
    load_parameters(model, architecture, task.parameters)
    images, labels = tf.constant(task.images), tf.constant(task.labels)
    variables = model.trainable_variables
    decay = [WEIGHT_DECAY if "kernel" in variable.name else 0.0 for variable in variables]
    # The older of Keras' two: its update is one fused operation a variable.
    optimiser = tf.keras.optimizers.legacy.SGD(LEARNING_RATE, MOMENTUM, nesterov=True)

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
