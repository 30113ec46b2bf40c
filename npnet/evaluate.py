"""Loss and accuracy on a split, with running statistics, shared out over the ranks."""

from typing import NamedTuple

import numpy as np

from npnet.data.batches import ImageInput, plain_batches
from npnet.data.dataset import Dataset, Split
from npnet.inference import Inference
from npnet.parallel.communicator import Communicator


class Score(NamedTuple):
    """Mean cross-entropy (nats) and accuracy (a fraction)."""

    loss: float
    accuracy: float


def evaluate(
    inference: Inference,
    dataset: Dataset,
    split: Split,
    image_input: ImageInput,
    comm: Communicator,
) -> Score:
    """Score a split; rank r of P takes the images i with i mod P = r. The same on every rank."""
    totals = np.zeros(3)  # loss, hits, images
    for pixels, batch in plain_batches(dataset, split, inference.batch, comm.rank, comm.size):
        image_input.fill(inference.images, pixels, batch)
        logits = inference.forward(len(batch))
        hits = np.count_nonzero(logits.argmax(axis=1) == batch.labels)
        totals += np.array([inference.loss(batch.labels).sum(), hits, len(batch)])
    comm.sum(totals)
    return Score(loss=totals[0] / totals[2], accuracy=totals[1] / totals[2])
