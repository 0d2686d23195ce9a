"""Detectors by name, as commands, notebooks and reports write them."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Mapping
from typing import Any

from sklearn.base import BaseEstimator

from ml4ad.detect.base import Detector
from ml4ad.detect.foreign import as_detector

DEFAULT = "default"


def detector(text: str, parameters: Mapping[str, Any] | None = None) -> Detector:
    """The unfitted detector that ``text`` names, with these parameters besides.

    It is "default", a class of ``ml4ad.detect`` (upper and lower case are the same), or the full
    name of a class of another module, which is imported: a detector, or an outlier detector of
    scikit-learn's kind. Parameters may follow in brackets: names and plain values. Raises
    ValueError for anything else, and for parameters that the class does not have.

    >>> detector("NMF(n_components=3, block=2)")
    NMF(block=2, n_components=3)
    >>> detector("sklearn.svm.OneClassSVM(nu=0.01)")
    OutlierDetector(estimator=OneClassSVM(nu=0.01))
    """
    name, values = _parsed(text)
    values |= dict(parameters or {})
    made = _classes()[name.lower()]() if name.lower() in _classes() else _foreign(name, text)
    try:
        made.set_params(**values)
        return as_detector(made)
    except TypeError as wrong:
        raise ValueError(f"detector {text!r}: {wrong}") from wrong


def _parsed(text: str) -> tuple[str, dict[str, Any]]:
    try:
        node = ast.parse(text.strip(), mode="eval").body
        values: dict[str, Any] = {}
        if isinstance(node, ast.Call):
            if node.args:
                raise ValueError("a value without a name")
            for keyword in node.keywords:
                values[str(keyword.arg)] = ast.literal_eval(keyword.value)
            node = node.func
        parts = ast.unparse(node).split(".")
        if not all(part.isidentifier() for part in parts):
            raise ValueError("no name of a class")
    except (SyntaxError, ValueError) as wrong:
        raise ValueError(
            f"detector {text!r}: want Name, module.Name, or Name(parameter=value) ({wrong})"
        ) from wrong
    return ".".join(parts), values


def _classes() -> dict[str, Any]:
    import ml4ad.detect

    public = (getattr(ml4ad.detect, name) for name in ml4ad.detect.__all__)
    classes = {
        own.__name__.lower(): own
        for own in public
        if isinstance(own, type) and issubclass(own, Detector) and own is not Detector
    }
    # It wants an estimator, which is named itself.
    del classes["outlierdetector"]
    return {DEFAULT: ml4ad.detect.default, **classes}


def _foreign(name: str, text: str) -> Any:
    module, dot, attribute = name.rpartition(".")
    if not dot:
        there = [
            DEFAULT,
            *sorted(own.__name__ for own in _classes().values() if own.__name__ != DEFAULT),
        ]
        raise ValueError(
            f"detector {text!r}, want one of {', '.join(there)}, or module.Name of another"
        )
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as missing:
        raise ValueError(f"detector {text!r}: {missing}") from missing
    if not (isinstance(found, type) and issubclass(found, BaseEstimator)):
        raise ValueError(f"detector {text!r}: {found!r} is no estimator")
    try:
        return found()
    except TypeError as wrong:
        raise ValueError(f"detector {text!r}: {wrong}") from wrong
