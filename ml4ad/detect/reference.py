"""Detectors of others, to compare with: they are what people use today."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import gammaln
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from ml4ad.detect.base import Detector, Training
from ml4ad.detect.boxes import plane
from ml4ad.stack import Floats, HistogramStack


class _Flat(Detector):
    """Detector that sees each histogram as a row of bins."""

    def _learn(self, counts: Floats, training: Training) -> None:
        raise NotImplementedError

    def _judge(self, counts: Floats) -> Floats:
        raise NotImplementedError

    def _fit(self, training: Training, conditions: pd.DataFrame | None) -> None:  # noqa: ARG002
        self._learn(training.counts.reshape(len(training), -1), training)

    def _score(
        self,
        stack: HistogramStack,
        rows: NDArray[np.intp],
        conditions: pd.DataFrame | None,  # noqa: ARG002
    ) -> Floats:
        return self._judge(stack.values()[rows].reshape(len(rows), -1).astype(np.float64))


class BetaBinomial(_Flat):
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


class PCA(_Flat):
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


class NMF(_Flat):
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


class LossProduct(_Flat):
    """Largest product of three consecutive loss maps, as CMS ECAL's autoencoder makes them.

    The losses here are against the mean of the good ones, times 3 x 3 bins, over the mean squared.
    Source: arXiv:2309.10157. It is blind to faults of one lumisection by design.
    """

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


def moments(counts: Floats) -> Floats:
    """Summary of each histogram ``(n, d)``: quantiles of its bins' shares, and four moments."""
    share = counts / counts.sum(axis=1, keepdims=True)
    x = np.linspace(-1, 1, counts.shape[1])
    mean = share @ x
    centred = x - mean[:, None]
    central = [(share * centred**k).sum(axis=1) for k in (2, 3, 4)]
    width = np.sqrt(np.maximum(central[0], 1e-12))
    quantiles = np.quantile(share * counts.shape[1], [0, 0.01, 0.05, 0.5, 0.95, 0.99, 1], axis=1)
    return np.column_stack([mean, width, central[1] / width**3, central[2] / width**4, quantiles.T])


class OutlierDetector(_Flat):
    """Any scikit-learn outlier detector, on the histograms' moments, shares or their roots.

    ``estimator`` has ``fit(X)`` and ``score_samples(X)`` (or ``decision_function``), where low is
    strange, as scikit-learn has it; here high is strange. ``features`` is "moments", "shares" or
    "roots", or a function of counts ``(n, d)``. It cannot be saved without pickle: keep the
    training selection, and fit anew.
    """

    def __init__(
        self,
        estimator: Any,
        *,
        features: str | Callable[[Floats], Floats] = "roots",
        min_entries: float = 100.0,
    ) -> None:
        self.estimator = estimator
        self.features = features
        self.min_entries = min_entries

    def _seen(self, counts: Floats) -> Floats:
        if callable(self.features):
            return self.features(counts)
        if self.features == "moments":
            return moments(counts)
        shares = counts / counts.sum(axis=1, keepdims=True)
        if self.features not in ("shares", "roots"):
            raise ValueError(f"features {self.features!r}, want moments, shares, roots")
        return shares if self.features == "shares" else np.sqrt(shares)

    def _learn(self, counts: Floats, training: Training) -> None:  # noqa: ARG002
        self.estimator_ = clone(self.estimator).fit(self._seen(counts))

    def _judge(self, counts: Floats) -> Floats:
        seen = self._seen(counts)
        judge = getattr(self.estimator_, "score_samples", None) or self.estimator_.decision_function
        return -np.asarray(judge(seen), dtype=np.float64)


class MomentsForest(OutlierDetector):
    """Isolation forest on the histograms' moments, as ML4DQMDC's moment classifiers use them."""

    def __init__(
        self, *, n_estimators: int = 200, random_state: int = 0, min_entries: float = 100.0
    ) -> None:
        self.n_estimators = n_estimators
        self.random_state = random_state
        self.min_entries = min_entries

    def _seen(self, counts: Floats) -> Floats:
        return moments(counts)

    def _learn(self, counts: Floats, training: Training) -> None:  # noqa: ARG002
        from sklearn.ensemble import IsolationForest

        forest = IsolationForest(n_estimators=self.n_estimators, random_state=self.random_state)
        self.estimator_ = forest.fit(self._seen(counts))


class Autoencoder(_Flat):
    """Error of a small dense autoencoder on sqrt(p), over its expectation; needs the extra torch.

    ``hidden`` is the size of the layers around the ``n_components`` in the middle.
    """

    def __init__(
        self,
        *,
        n_components: int = 4,
        hidden: int = 64,
        epochs: int = 200,
        random_state: int = 0,
        min_entries: float = 100.0,
    ) -> None:
        self.n_components = n_components
        self.hidden = hidden
        self.epochs = epochs
        self.random_state = random_state
        self.min_entries = min_entries

    def _learn(self, counts: Floats, training: Training) -> None:  # noqa: ARG002
        torch = _torch()
        roots = np.sqrt(counts / counts.sum(axis=1, keepdims=True))
        self.mean_ = roots.mean(axis=0)
        self.scale_ = float((roots - self.mean_).std()) or 1.0
        data = torch.tensor((roots - self.mean_) / self.scale_, dtype=torch.float32)
        torch.manual_seed(self.random_state)
        sizes = [data.shape[1], self.hidden, self.n_components, self.hidden, data.shape[1]]
        layers = [torch.nn.Linear(a, b) for a, b in pairwise(sizes)]
        steps = [layers[0], torch.nn.Tanh(), layers[1], layers[2], torch.nn.Tanh(), layers[3]]
        model = torch.nn.Sequential(*steps)
        optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(self.epochs):
            optimiser.zero_grad()
            loss = ((model(data) - data) ** 2).mean()
            loss.backward()
            optimiser.step()
        # Kept as arrays, so that torch is not needed to score, nor pickle to save.
        self.weights_ = [layer.weight.detach().numpy().copy() for layer in layers]
        self.biases_ = [layer.bias.detach().numpy().copy() for layer in layers]

    def _judge(self, counts: Floats) -> Floats:
        total = counts.sum(axis=1)
        data = (np.sqrt(counts / total[:, None]) - self.mean_) / self.scale_
        out = data
        for i, (weight, bias) in enumerate(zip(self.weights_, self.biases_, strict=True)):
            out = out @ weight.T + bias
            out = np.tanh(out) if i in (0, 2) else out
        return 4 * total * ((out - data) ** 2).mean(axis=1) * self.scale_**2


def _torch() -> Any:
    try:
        import torch
    except ImportError as missing:
        raise ImportError("an Autoencoder needs torch: pip install 'ml4ad[torch]'") from missing
    return torch


class ONNXModel(_Flat):
    """Model trained elsewhere, of ONNX format; needs the extra onnx.

    ``path`` is the file. It takes normalised histograms ``(n, *bins)`` or ``(n, d)``, and returns a
    score ``(n,)`` or a reconstruction, whose mean squared error times N is the score. The model is
    kept as bytes when this is saved.
    """

    def __init__(self, path: str = "", *, min_entries: float = 100.0) -> None:
        self.path = path
        self.min_entries = min_entries

    def _learn(self, counts: Floats, training: Training) -> None:  # noqa: ARG002
        from pathlib import Path

        self.model_ = np.frombuffer(Path(self.path).read_bytes(), dtype=np.uint8)
        self._judge(counts[:2])

    def _judge(self, counts: Floats) -> Floats:
        try:
            import onnxruntime
        except ImportError as missing:
            raise ImportError("ONNXModel needs onnxruntime: pip install 'ml4ad[onnx]'") from missing
        session = onnxruntime.InferenceSession(
            self.model_.tobytes(), providers=["CPUExecutionProvider"]
        )
        wanted = session.get_inputs()[0]
        total = counts.sum(axis=1)
        shares = (counts / total[:, None]).astype(np.float32)
        shape = tuple(axis.n_bins for axis in self._axes())
        n_free = len(wanted.shape) - 1
        given = shares if n_free == 1 else shares.reshape(len(counts), *shape[:n_free])
        out = np.asarray(session.run(None, {wanted.name: given})[0], dtype=np.float64)
        if out.size == len(counts):
            return out.reshape(-1)
        if out.size != shares.size:
            raise ValueError(
                f"{self.path}: output of shape {out.shape}, want ({len(counts)},) or {shares.shape}"
            )
        return total * ((out.reshape(shares.shape) - shares) ** 2).mean(axis=1)
