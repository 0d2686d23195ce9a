"""Detectors of others, to compare with: they are what people use today."""

from __future__ import annotations

import warnings
from typing import ClassVar

import numpy as np
from scipy.special import gammaln
from sklearn.exceptions import ConvergenceWarning

from ml4ad.detect.base import Flat, Training
from ml4ad.detect.boxes import plane
from ml4ad.stack import Floats


class BetaBinomial(Flat):
    """Largest pull against up to 8 reference runs, corrected for the number of bins.

    A reference run's counts make a Beta distribution of each bin's share, widened by a relative
    ``tolerance``; the pull is the normal deviate of the beta-binomial probability of what is seen.
    The score is the larger of chi2 / bins and the largest squared pull, of the mean over the runs.
    Source: AutoDQM, arXiv:2501.13789. Here the look-elsewhere effect is left to calibration.
    """

    def __init__(
        self, *, n_references: int = 8, tolerance: float = 0.01, min_entries: float = 100.0
    ) -> None:
        self.n_references = n_references
        self.tolerance = tolerance
        self.min_entries = min_entries

    def _learn(self, counts: Floats, training: Training) -> None:
        runs = np.unique(training.run_numbers)[-self.n_references :]
        self.references_ = np.stack([counts[training.run_numbers == r].sum(axis=0) for r in runs])

    def _judge(self, counts: Floats) -> Floats:
        chi2 = np.zeros(len(counts))
        largest = np.zeros(len(counts))
        total = counts.sum(axis=1, keepdims=True)
        for reference in self.references_:
            pull = self._pulls(counts, total, reference)
            chi2 += (pull**2).mean(axis=1) / len(self.references_)
            largest += np.abs(pull).max(axis=1) / len(self.references_)
        return np.maximum(chi2, largest**2 / (2 * np.log(counts.shape[1] + 1)))

    def _pulls(self, counts: Floats, total: Floats, reference: Floats) -> Floats:
        """Signed root of the likelihood ratio of a beta-binomial to its mode, ``(n, d)``."""
        n_ref = reference.sum()
        share = (reference + 1) / (n_ref + len(reference))
        # The tolerance limits how many entries of a reference count.
        strength = np.minimum(n_ref, (1 - share) / (share * self.tolerance**2))
        a, b = share * strength + 1e-9, (1 - share) * strength + 1e-9

        def log_probability(x: Floats) -> Floats:
            return (
                gammaln(total + 1)
                - gammaln(x + 1)
                - gammaln(total - x + 1)
                + gammaln(x + a)
                + gammaln(total - x + b)
                - gammaln(total + a + b)
            )

        mode = np.clip((total + 1) * (a - 1) / np.maximum(a + b - 2, 1e-9), 0, total)
        drop = np.maximum(log_probability(mode) - log_probability(counts), 0)
        return np.copysign(np.sqrt(2 * drop), counts - total * share)


class PCA(Flat):
    """Mean squared error of the normalised histogram outside its principal components, times N.

    Without the factor N, the number of entries, the error is noise and falls with statistics.
    """

    def __init__(self, *, n_components: int = 4, min_entries: float = 100.0) -> None:
        self.n_components = n_components
        self.min_entries = min_entries

    def _learn(self, counts: Floats, training: Training) -> None:  # noqa: ARG002
        shapes = counts / counts.sum(axis=1, keepdims=True)
        self.mean_ = shapes.mean(axis=0)
        _, _, rows = np.linalg.svd(shapes - self.mean_, full_matrices=False)
        self.components_ = rows[: self.n_components]

    def _judge(self, counts: Floats) -> Floats:
        total = counts.sum(axis=1)
        centred = counts / total[:, None] - self.mean_
        left = centred - (centred @ self.components_.T) @ self.components_
        return total * (left**2).mean(axis=1)


class NMF(Flat):
    """Error of a non-negative factorisation of histograms in blocks, over its expectation.

    ``block`` bins are joined on every axis, the map is divided by the mean of the good ones.
    Source: pixel DQM of CMS, LukaLambrecht/ML4DQMDC-PixelAE.
    """

    def __init__(
        self,
        *,
        n_components: int = 5,
        block: int = 4,
        random_state: int = 0,
        min_entries: float = 100.0,
    ) -> None:
        self.n_components = n_components
        self.block = block
        self.random_state = random_state
        self.min_entries = min_entries

    def _blocks(self, counts: Floats) -> Floats:
        nx, ny = plane([axis.n_bins for axis in self._axes()])
        maps = counts.reshape(-1, nx, ny)
        maps = np.add.reduceat(maps, np.arange(0, nx, self.block), axis=1)
        return np.add.reduceat(maps, np.arange(0, ny, self.block), axis=2).reshape(len(counts), -1)

    def _learn(self, counts: Floats, training: Training) -> None:  # noqa: ARG002
        from sklearn.decomposition import MiniBatchNMF

        blocks = self._blocks(counts)
        self.mean_ = np.maximum((blocks / blocks.sum(axis=1, keepdims=True)).mean(axis=0), 1e-12)
        model = MiniBatchNMF(
            min(self.n_components, blocks.shape[1]), random_state=self.random_state, max_iter=100
        )
        with warnings.catch_warnings():
            # Noise never converges to the last digit; the components are good enough.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(np.clip(blocks / blocks.sum(axis=1, keepdims=True) / self.mean_, 0, 5))
        self.components_ = model.components_

    def _judge(self, counts: Floats) -> Floats:
        blocks = self._blocks(counts)
        expected = self.mean_ * blocks.sum(axis=1, keepdims=True)
        ratio = np.clip(blocks / expected, 0, 5)
        # Least squares, clipped at 0: the components overlap little.
        weights = np.maximum(ratio @ np.linalg.pinv(self.components_), 0)
        return (np.minimum(expected, 1e12) * (ratio - weights @ self.components_) ** 2).mean(axis=1)


class LossProduct(Flat):
    """Largest product of three consecutive loss maps, as CMS ECAL's autoencoder makes them.

    The losses here are against the mean of the good ones, times 3 x 3 bins, over the mean squared.
    Source: arXiv:2309.10157. It is blind to faults of one lumisection by design.
    """

    lookback: ClassVar[int | None] = None

    def __init__(self, *, min_entries: float = 100.0) -> None:
        self.min_entries = min_entries

    def _learn(self, counts: Floats, training: Training) -> None:  # noqa: ARG002
        self.mean_ = (counts / counts.sum(axis=1, keepdims=True)).mean(axis=0)

    def _judge(self, counts: Floats) -> Floats:
        expected = self.mean_ * counts.sum(axis=1, keepdims=True)
        floor = np.quantile(expected, 0.05, axis=1, keepdims=True) + 1
        loss = ((counts - expected) / np.maximum(expected, floor)) ** 2
        product = loss.copy()
        product[1:] *= loss[:-1]
        product[2:] *= loss[:-2]
        return np.log(product.max(axis=1) + 1e-12)
