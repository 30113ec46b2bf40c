"""The optimiser: stochastic gradient descent with momentum over one flat vector."""

from npnet.kernels.arrays import Floats


def sgd_update(
    w: Floats,
    velocity: Floats,
    gradient: Floats,
    decayed: int,
    lr: float,
    momentum: float,
    weight_decay: float,
    nesterov: bool,
) -> None:
    """One step of SGD in place (Sutskever et al. 2013; the learning rate outside the velocity).

        g = gradient + weight_decay*w     (the first `decayed` elements; just gradient beyond)
        velocity = momentum*velocity + g
        w -= lr*(g + momentum*velocity if nesterov else velocity)

    w, velocity, gradient (P,), all of the network's parameters; `gradient` is only read.
    """
    g = gradient.copy()
    g[:decayed] += weight_decay * w[:decayed]
    velocity *= momentum
    velocity += g
    w -= lr * (g + momentum * velocity if nesterov else velocity)
