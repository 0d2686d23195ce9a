"""Models of other libraries as detectors: scikit-learn's, torch's, and any of ONNX format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import clone

from ml4ad.detect.base import Detector, Flat, Training
from ml4ad.stack import Floats

#: Rows that an ONNX model is given at a time, where it takes any number.
_BATCH = 256
_ONNX_DTYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64}


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


class OutlierDetector(Flat):
    """Any scikit-learn outlier detector, on the histograms' moments, shares or their roots.

    ``estimator`` has ``fit(X)`` and ``score_samples(X)`` (or ``decision_function``), where low is
    strange, as scikit-learn has it; here high is strange. A pipeline of scikit-learn is one too.
    ``features`` is "moments", "shares" or "roots" (of the shares), or a function of counts
    ``(n, d)``; one that is to be saved must live in a module.
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
        if _judge_of(self.estimator) is None:
            raise ValueError(
                f"{self.estimator!r} has neither score_samples nor decision_function: "
                "no outlier detector, or one that needs novelty=True"
            )
        self.estimator_ = clone(self.estimator).fit(self._seen(counts))

    def _judge(self, counts: Floats) -> Floats:
        judge = _judge_of(self.estimator_)
        assert judge is not None  # noqa: S101 (it had one when it was fitted)
        scores = np.asarray(judge(self._seen(counts)), dtype=np.float64)
        if scores.shape != (len(counts),):
            raise ValueError(
                f"{self.estimator_!r} gave scores of shape {scores.shape}, want ({len(counts)},)"
            )
        # scikit-learn scores normality; a shifter reads a high bar as trouble.
        return -scores


def _judge_of(estimator: Any) -> Callable[[Floats], Any] | None:
    return getattr(estimator, "score_samples", None) or getattr(
        estimator, "decision_function", None
    )


def as_detector(given: Any) -> Detector:
    """A detector as it is, or scikit-learn's outlier detector as one; TypeError for all else."""
    if isinstance(given, Detector):
        return given
    if hasattr(given, "fit") and _judge_of(given) is not None and not isinstance(given, type):
        return OutlierDetector(given)
    raise TypeError(
        f"{given!r}: want a detector of ml4ad.detect, or an unfitted outlier detector with "
        "fit and score_samples or decision_function"
    )


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


class Autoencoder(Flat):
    """Error of a small dense autoencoder on sqrt(p), over its expectation; needs the extra torch.

    ``hidden`` is the size of the layers around the ``n_components`` in the middle. torch is needed
    to learn only: what it learned are arrays, and scoring is numpy's.
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
        sizes = [data.shape[1], self.hidden, self.n_components, self.hidden, data.shape[1]]
        # The caller's own random numbers go on as if nothing had happened.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.random_state)
            layers = [torch.nn.Linear(a, b) for a, b in pairwise(sizes)]
        steps = [layers[0], torch.nn.Tanh(), layers[1], layers[2], torch.nn.Tanh(), layers[3]]
        model = torch.nn.Sequential(*steps)
        optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(self.epochs):
            optimiser.zero_grad()
            loss = ((model(data) - data) ** 2).mean()
            loss.backward()
            optimiser.step()
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


class ONNXModel(Flat):
    """Model trained elsewhere, of ONNX format; needs the extra onnx.

    ``path`` is the file, kept as bytes once this is fitted and saved. The model takes histograms
    as rows ``(n, d)``, as ``(n, *bins)``, or with an axis of one channel before or after the bins;
    ``features`` says what of: "shares" (they sum to 1), "roots" of the shares, or "counts". It
    returns a score ``(n,)``, or what it makes of its input, whose mean squared difference from the
    shares times the number of entries is the score then. ``output`` names which of several outputs
    it is. ``low_is_strange`` turns scores round, as those of scikit-learn's models are.
    """

    def __init__(
        self,
        path: str = "",
        *,
        features: str = "shares",
        output: str = "",
        low_is_strange: bool = False,
        min_entries: float = 100.0,
    ) -> None:
        self.path = path
        self.features = features
        self.output = output
        self.low_is_strange = low_is_strange
        self.min_entries = min_entries

    def _learn(self, counts: Floats, training: Training) -> None:  # noqa: ARG002
        if self.features not in ("shares", "roots", "counts"):
            raise ValueError(f"features {self.features!r}, want shares, roots, counts")
        self.model_ = np.frombuffer(Path(self.path).read_bytes(), dtype=np.uint8)
        # What does not fit is refused now, not when a run waits.
        self._judge(counts[:2])

    def _judge(self, counts: Floats) -> Floats:
        total = counts.sum(axis=1, keepdims=True)
        shares = counts / total
        given = {"shares": shares, "roots": np.sqrt(shares), "counts": counts}[self.features]
        out = self._run(given)
        if out.size == len(counts):
            scores = out.reshape(-1)
            return -scores if self.low_is_strange else scores
        if out.size != shares.size:
            raise ValueError(
                f"{self.path}: output of shape {out.shape}, want ({len(counts)},) or {shares.shape}"
            )
        made = out.reshape(shares.shape)
        made = {"shares": made, "roots": made**2, "counts": made / total}[self.features]
        return total[:, 0] * ((made - shares) ** 2).mean(axis=1)

    def _run(self, given: Floats) -> Floats:
        """Output of the model for rows ``(n, d)``, whatever shape it has them in."""
        session = self._session()
        wanted, *others = session.get_inputs()
        if others or wanted.type not in _ONNX_DTYPES:
            types = ", ".join(own.type for own in (wanted, *others))
            raise ValueError(f"{self.path}: inputs {types}, want one of floats or doubles")
        bins = tuple(axis.n_bins for axis in self._axes())
        shape = _fitting(wanted.shape[1:], bins)
        if shape is None:
            raise ValueError(f"{self.path}: input of shape {wanted.shape}, the bins are {bins}")
        names = [own.name for own in session.get_outputs()]
        if self.output and self.output not in names:
            raise ValueError(f"{self.path}: no output {self.output!r}, it has {', '.join(names)}")
        rows = given.reshape(len(given), *shape).astype(_ONNX_DTYPES[wanted.type])
        fixed = isinstance(wanted.shape[0], int)
        size = wanted.shape[0] if fixed else _BATCH
        parts = []
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            n = len(part)
            if fixed and n < size:
                part = np.concatenate([part, np.repeat(part[-1:], size - n, axis=0)])
            (made,) = session.run([self.output or names[0]], {wanted.name: part})
            parts.append(np.asarray(made, dtype=np.float64)[:n])
        return np.concatenate(parts)

    def _session(self) -> Any:
        try:
            import onnxruntime
            from onnxruntime.capi import onnxruntime_pybind11_state as errors
        except ImportError as missing:
            raise ImportError("ONNXModel needs onnxruntime: pip install 'ml4ad[onnx]'") from missing
        options = onnxruntime.SessionOptions()
        # One element is one task already; more threads only get in each other's way.
        options.intra_op_num_threads = 1
        try:
            return onnxruntime.InferenceSession(
                self.model_.tobytes(), options, providers=["CPUExecutionProvider"]
            )
        except (
            *(errors.Fail, errors.InvalidArgument, errors.InvalidGraph, errors.InvalidProtobuf),
            *(errors.NotImplemented, errors.RuntimeException),
        ) as damage:
            raise ValueError(f"{self.path}: no model that can be run ({damage})") from damage


def _fitting(free: Sequence[Any], bins: tuple[int, ...]) -> tuple[int, ...] | None:
    """Shape that a row of bins is given in, where the model leaves or fixes each size so.

    >>> _fitting(["channels", 34, 72], (34, 72))
    (1, 34, 72)
    >>> _fitting([100], (34, 72))
    """
    candidates = ((int(np.prod(bins)),), bins, (1, *bins), (*bins, 1))
    for candidate in candidates:
        if len(candidate) == len(free) and all(
            not isinstance(wanted, int) or wanted == own
            for wanted, own in zip(free, candidate, strict=True)
        ):
            return candidate
    return None
