"""The optimiser: stochastic gradient descent with momentum over one flat vector."""

from npnet.kernels.arrays import Floats
from npnet.kernels.jit.options import kernel


@kernel
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
    """As reference.sgd_update, in one pass over the three vectors."""
    look_ahead = momentum if nesterov else 0.0
    from_gradient = 1.0 if nesterov else 0.0
    from_velocity = look_ahead if nesterov else 1.0
    for i in range(len(w)):
        g = gradient[i] + weight_decay * w[i] if i < decayed else gradient[i]
        v = momentum * velocity[i] + g
        velocity[i] = v
        w[i] -= lr * (from_gradient * g + from_velocity * v)
