"""Detectors that learn what is normal from known-good lumisections and give reasons."""

from __future__ import annotations

from ml4ad.detect.alarms import incidents
from ml4ad.detect.base import Detector, Explanation, Place, Reference
from ml4ad.detect.combine import Combined, default
from ml4ad.detect.compare import compare
from ml4ad.detect.evaluate import Evaluation, Trial, evaluate, references, trials
from ml4ad.detect.foreign import Autoencoder, MomentsForest, ONNXModel, OutlierDetector
from ml4ad.detect.incidents import Incident, merged, of_element
from ml4ad.detect.nearest import NearestReference
from ml4ad.detect.profiles import Profiles
from ml4ad.detect.prove import prove
from ml4ad.detect.realised import realised
from ml4ad.detect.reference import NMF, PCA, BetaBinomial, LossProduct
from ml4ad.detect.registry import Fitted, Model, activate, models, register, retire
from ml4ad.detect.saved import load
from ml4ad.detect.scan import Scan
from ml4ad.detect.score import score
from ml4ad.detect.scored import ScoreMap, score_map, scores
from ml4ad.detect.similar import similar, similar_in, similar_runs, similar_runs_in
from ml4ad.detect.train import train

__all__ = [
    "NMF",
    "PCA",
    "Autoencoder",
    "BetaBinomial",
    "Combined",
    "Detector",
    "Evaluation",
    "Explanation",
    "Fitted",
    "Incident",
    "LossProduct",
    "Model",
    "MomentsForest",
    "NearestReference",
    "ONNXModel",
    "OutlierDetector",
    "Place",
    "Profiles",
    "Reference",
    "Scan",
    "ScoreMap",
    "Trial",
    "activate",
    "compare",
    "default",
    "evaluate",
    "incidents",
    "load",
    "merged",
    "models",
    "of_element",
    "prove",
    "realised",
    "references",
    "register",
    "retire",
    "score",
    "score_map",
    "scores",
    "similar",
    "similar_in",
    "similar_runs",
    "similar_runs_in",
    "train",
    "trials",
]
