"""Detectors on disk: arrays and JSON in one file, estimators of others by skops; never a pickle."""

from __future__ import annotations

import importlib
import json
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from ml4ad.detect.base import Detector

FORMAT = "ml4ad detector"
#: Changed whenever a detector needs what older files do not hold.
FORMAT_VERSION = 3

# What scikit-learn's own estimators are made of, beyond what skops trusts: bare arrays of nodes.
# Damaged ones can at worst end the process; the file's checksums are verified before.
_NODES = (
    "sklearn.tree._tree.",
    "sklearn.neighbors._kd_tree.",
    "sklearn.neighbors._ball_tree.",
    "sklearn.metrics._dist_metrics.",
)


def write(detector: Detector, path: str | Path) -> None:
    """Write a detector to ``path``; ValueError if something in it cannot be kept."""
    arrays: dict[str, NDArray[Any]] = {}
    document = _described(detector, arrays)
    header = {"format": FORMAT, "version": FORMAT_VERSION, **document}
    text = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    with Path(path).open("wb") as file:
        np.savez_compressed(file, header=text, **arrays)  # type: ignore[arg-type]


def load(path: str | Path) -> Detector:
    """The detector that `Detector.save` wrote to ``path``.

    A class of your own must have been imported, or be of a module that the settings trust
    (``trusted_modules``); so must what its estimators are made of, unless it is scikit-learn's.
    Raises OSError if there is no such file, and ValueError if it is damaged, not a detector, of a
    class that is not known here, or written in another version of this format.
    """
    try:
        # numpy leaves a file open that it cannot read.
        with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        header = json.loads(bytes(arrays.pop("header")).decode())
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, TypeError) as damage:
        raise ValueError(f"{path}: damaged, or not a saved detector ({damage})") from damage
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError(f"{path}: not a saved detector")
    if header.get("version") != FORMAT_VERSION:
        raise ValueError(
            f"{path}: format version {header.get('version')}, this program reads {FORMAT_VERSION}: "
            "train the detector again, or use the program that wrote it"
        )
    try:
        return _restored(header, arrays)
    except (KeyError, TypeError, AttributeError) as damage:
        raise ValueError(f"{path}: damaged model, {damage} is missing or wrong") from damage
    except ValueError as refusal:
        raise ValueError(f"{path}: {refusal}") from refusal


# -- writing -------------------------------------------------------------------------------------


def _described(detector: Detector, arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    learned = {k: v for k, v in vars(detector).items() if k.endswith("_") and k[0] != "_"}
    return {
        "class": _name_of(type(detector)),
        "params": _packed(detector.get_params(deep=False), "p", arrays),
        "learned": _packed(learned, "l", arrays),
    }


def _packed(value: Any, name: str, arrays: dict[str, NDArray[Any]]) -> Any:
    if isinstance(value, Detector):
        inner: dict[str, NDArray[Any]] = {}
        document = _described(value, inner)
        # Names of a nested detector's arrays are put under its own, so that none collide.
        arrays.update({f"{name}/{key}": array for key, array in inner.items()})
        return {"detector": document, "prefix": f"{name}/"}
    if isinstance(value, np.ndarray):
        if value.dtype == object:
            raise ValueError(f"{name}: an array of objects cannot be saved")
        arrays[name] = value
        return {"array": name}
    if isinstance(value, dict):
        return {
            "dict": [
                [k, _packed(v, f"{name}.{i}", arrays)] for i, (k, v) in enumerate(value.items())
            ]
        }
    if isinstance(value, list | tuple):
        items = [_packed(v, f"{name}.{i}", arrays) for i, v in enumerate(value)]
        return {"tuple" if isinstance(value, tuple) else "list": items}
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, BaseEstimator) or _is_function(value):
        from skops import io

        arrays[name] = np.frombuffer(io.dumps(value), dtype=np.uint8)
        return {"skops": name}
    raise ValueError(f"{name}: a {type(value).__name__} cannot be saved without pickle")


def _is_function(value: Any) -> bool:
    """Whether it is a function that another process finds by its name."""
    name = getattr(value, "__qualname__", "<")
    return callable(value) and not isinstance(value, type) and "<" not in name


def _name_of(kind: type[Detector]) -> str:
    import ml4ad.detect

    ours = getattr(ml4ad.detect, kind.__name__, None) is kind
    return kind.__name__ if ours else f"{kind.__module__}:{kind.__qualname__}"


# -- reading -------------------------------------------------------------------------------------


def _restored(
    document: dict[str, Any], arrays: dict[str, NDArray[Any]], prefix: str = ""
) -> Detector:
    kind = _class_of(document["class"])
    out = kind(**_unpacked(document["params"], arrays, prefix))
    for key, value in _unpacked(document["learned"], arrays, prefix).items():
        setattr(out, key, value)
    return out


def _unpacked(value: Any, arrays: dict[str, NDArray[Any]], prefix: str) -> Any:
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return arrays[prefix + value["array"]]
    if "skops" in value:
        return _estimator(arrays[prefix + value["skops"]].tobytes())
    if "detector" in value:
        return _restored(value["detector"], arrays, prefix + value["prefix"])
    if "dict" in value:
        return {k: _unpacked(v, arrays, prefix) for k, v in value["dict"]}
    kind = tuple if "tuple" in value else list
    return kind(_unpacked(v, arrays, prefix) for v in value["tuple" if kind is tuple else "list"])


def _class_of(name: str) -> type[Detector]:
    import ml4ad.detect

    module, colon, qualified = name.partition(":")
    if not colon:
        found = getattr(ml4ad.detect, name, None) if name in ml4ad.detect.__all__ else None
        if not (isinstance(found, type) and issubclass(found, Detector)):
            raise ValueError(f"detector class {name!r} is not one of ml4ad.detect")
        return found
    known = _defined(module, qualified)
    if known is None and _trusted(name):
        try:
            importlib.import_module(module)
        except ImportError as missing:
            raise ValueError(f"detector class {name!r}: {missing}") from missing
        known = _defined(module, qualified)
    if known is None:
        raise ValueError(
            f"detector class {name!r} is not known here: import it first, or name its module in "
            "the setting trusted_modules"
        )
    return known


def _defined(module: str, qualified: str) -> type[Detector] | None:
    """The class of that name that this process has defined, the last if there are several."""
    fitting = [
        kind
        for kind in _below(Detector)
        if (kind.__module__, kind.__qualname__) == (module, qualified)
    ]
    return fitting[-1] if fitting else None


def _below(kind: type[Any]) -> Iterator[type[Any]]:
    for one in kind.__subclasses__():
        yield one
        yield from _below(one)


def _trusted(name: str) -> bool:
    from ml4ad import settings

    modules = settings.load().trusted_modules
    return any(name == own or name.startswith((f"{own}.", f"{own}:")) for own in modules)


def _estimator(content: bytes) -> Any:
    from skops import io

    needed = io.get_untrusted_types(data=content)
    strange = [name for name in needed if not (name.startswith(_NODES) or _trusted(name))]
    if strange:
        raise ValueError(
            f"its estimator needs {', '.join(strange)}: name the module in the setting "
            "trusted_modules if you trust it"
        )
    return io.loads(content, trusted=needed)
