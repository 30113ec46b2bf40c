"""The best epoch of a run so far, by the accuracy after each; when to stop waiting for a better."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from npnet.data.dataset import Split

SPLITS: tuple[Split, ...] = ("val", "test")  # whose score counts: the first that a log has


@dataclass(frozen=True)
class Best:
    """An epoch, counted from 1, and its accuracy; of several with the same one, the first.

    Epoch 0: none was scored yet.
    """

    epoch: int = 0
    accuracy: float = -1.0

    @classmethod
    def of(cls, log: Sequence[Mapping[str, str]], epochs: int | None = None) -> "Best":
        """From a run's log, of which the first `epochs` epochs count, or all.

        What is no number there, as people may have edited it, counts as not scored.
        """
        best = cls()
        found = (_scores(log, f"{split}_acc") for split in SPLITS)
        scores = next(filter(None, found), {})
        for epoch in sorted(scores):
            if epochs is None or epoch <= epochs:
                best = best.after(epoch, scores[epoch])
        return best

    def after(self, epoch: int, accuracy: float) -> "Best":
        """The best, now that this epoch is scored, too."""
        return Best(epoch, accuracy) if accuracy > self.accuracy else self

    def stops(self, epochs: int, patience: int | None) -> bool:
        """Whether the last `patience` of the `epochs` that are done brought nothing better."""
        return patience is not None and self.epoch > 0 and epochs - self.epoch >= patience


def _scores(log: Sequence[Mapping[str, str]], column: str) -> dict[int, float]:
    found = {}
    for row in log:
        try:
            found[int(row["epoch"])] = float(row[column])
        except (KeyError, ValueError):
            continue
    return found
