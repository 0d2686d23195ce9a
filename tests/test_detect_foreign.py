"""Models of other libraries as detectors: scikit-learn's, torch's, and any of ONNX format."""

import json
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from sklearn.cluster import KMeans
from sklearn.covariance import EllipticEnvelope
from sklearn.decomposition import FactorAnalysis
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import SGDOneClassSVM
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity, LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import OneClassSVM
from sklearn.utils import estimator_checks
from test_detect_nearest import charges
from test_detect_scan import faulty, maps

from ml4ad import detect
from ml4ad.detect import PCA, Autoencoder, Detector, ONNXModel, OutlierDetector, load
from ml4ad.detect.foreign import as_detector, moments
from ml4ad.detect.saved import FORMAT_VERSION

GOOD = [charges(1), charges(2, gain=0.99), charges(3)]
STRANGE = charges(9, n_ls=10, low=0.2)


def tells_apart(detector):
    good, strange = charges(7), STRANGE
    return detector.score_samples(strange).min() > np.quantile(detector.score_samples(good), 0.9)


# -- scikit-learn's conventions ------------------------------------------------------------------

CLASSES = sorted(
    (
        kind
        for kind in (getattr(detect, name) for name in detect.__all__)
        if isinstance(kind, type) and issubclass(kind, Detector) and kind is not Detector
    ),
    key=lambda kind: kind.__name__,
)
#: Those of scikit-learn's checks that do not give the estimator a plain array.
CHECKS = (
    estimator_checks.check_estimator_cloneable,
    estimator_checks.check_estimator_repr,
    estimator_checks.check_no_attributes_set_in_init,
    estimator_checks.check_get_params_invariance,
    estimator_checks.check_set_params,
    estimator_checks.check_parameters_default_constructible,
)


def made(kind):
    return kind(OneClassSVM()) if kind is OutlierDetector else kind()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_a_detector_is_an_estimator_as_scikit_learn_wants_it(kind, check):
    check(kind.__name__, made(kind))


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_what_is_not_fitted_says_so(kind):
    for method in ("score_samples", "reasons"):
        with pytest.raises(NotFittedError, match=f"{kind.__name__} is not fitted"):
            getattr(made(kind), method)(charges(1))
    with pytest.raises(NotFittedError, match="not fitted"):
        made(kind).explain(charges(1), 1)


# -- scikit-learn's outlier detectors ------------------------------------------------------------


@pytest.mark.parametrize(
    "estimator",
    [
        IsolationForest(n_estimators=30, random_state=0),
        LocalOutlierFactor(novelty=True),
        OneClassSVM(nu=0.05, gamma=100),
        SGDOneClassSVM(random_state=0),
        make_pipeline(FactorAnalysis(3), EllipticEnvelope(random_state=0)),
        make_pipeline(FactorAnalysis(3), GaussianMixture(2, random_state=0)),
        make_pipeline(StandardScaler(), FactorAnalysis(4)),
        KernelDensity(bandwidth=0.01),
    ],
    ids=str,
)
def test_any_outlier_detector_of_scikit_learn_plugs_in_and_is_saved(estimator, tmp_path):
    detector = as_detector(estimator).fit(GOOD)
    if not isinstance(estimator, SGDOneClassSVM):  # linear: it sees one side only
        assert tells_apart(detector)
    assert not hasattr(estimator, "n_features_in_"), "the caller's own is not fitted"
    detector.save(tmp_path / "m.npz")
    again = load(tmp_path / "m.npz")
    np.testing.assert_array_equal(
        again.score_samples(STRANGE), detector.score_samples(STRANGE), strict=True
    )
    assert repr(again.estimator) == repr(estimator)
    assert b"pickle" not in (tmp_path / "m.npz").read_bytes()


def test_features_are_shares_roots_moments_or_a_function_of_a_module(tmp_path):
    for features in ("shares", "roots", "moments", moments):
        detector = OutlierDetector(KernelDensity(bandwidth=0.05), features=features).fit(GOOD)
        assert tells_apart(detector)
    with pytest.raises(ValueError, match="features 'wavelets'"):
        OutlierDetector(OneClassSVM(), features="wavelets").fit(GOOD)
    own = OutlierDetector(KernelDensity(), features=lambda counts: counts).fit(GOOD)
    with pytest.raises(ValueError, match="a function cannot be saved without pickle"):
        own.save(tmp_path / "m.npz")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (KMeans(), "want a detector of ml4ad.detect"),
        (OneClassSVM, "want a detector of ml4ad.detect, or an unfitted outlier detector"),
        (LocalOutlierFactor(), "outlier detector with fit and score_samples"),
        ("PCA", "want a detector"),
    ],
    ids=["no outlier detector", "a class", "no novelty", "a text"],
)
def test_what_is_no_outlier_detector_is_refused(given, words):
    with pytest.raises(TypeError, match=words):
        as_detector(given)


def test_an_estimator_that_cannot_score_is_refused_when_it_is_fitted():
    with pytest.raises(ValueError, match="novelty=True"):
        OutlierDetector(LocalOutlierFactor()).fit(GOOD)


# -- on disk -------------------------------------------------------------------------------------


class Whole(Detector):
    """A user's own: how far the mean is, with an estimator of scikit-learn inside."""

    def __init__(self, power=2.0):
        self.power = power

    def _fit(self, training, conditions):
        del conditions
        shares = training.counts / training.counts.sum(axis=1, keepdims=True)
        self.mean_ = shares.mean(axis=0)
        self.inner_ = PCA().fit(training.stacks)
        self.scaler_ = StandardScaler().fit(shares)

    def _score(self, stack, rows, conditions):
        del conditions
        counts = stack.values()[rows].astype(float)
        shares = counts / counts.sum(axis=1, keepdims=True)
        return (np.abs(shares - self.mean_) ** self.power).sum(axis=1) * 1e6


def header_of(path):
    with np.load(path) as file:
        return json.loads(bytes(file["header"]))


def with_header(path, **changed):
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    header = header_of(path) | changed
    arrays["header"] = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    np.savez(path, **arrays)


def test_a_detector_of_ones_own_is_saved_and_comes_back(tmp_path):
    path = tmp_path / "m.npz"
    detector = Whole(power=1.5).fit(GOOD)
    assert tells_apart(detector)
    detector.save(path)
    again = load(path)
    assert type(again) is Whole
    assert again.get_params() == {"power": 1.5}
    np.testing.assert_array_equal(again.score_samples(STRANGE), detector.score_samples(STRANGE))
    np.testing.assert_array_equal(again.scaler_.mean_, detector.scaler_.mean_)
    np.testing.assert_array_equal(again.inner_.components_, detector.inner_.components_)


def test_a_class_that_nobody_imported_must_be_trusted(tmp_path, monkeypatch):
    (tmp_path / "mylab.py").write_text(
        "from ml4ad.detect import PCA\n\n\nclass Mine(PCA):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "m.npz"
    PCA().fit(GOOD).save(path)
    with_header(path, **{"class": "mylab:Mine"})
    with pytest.raises(ValueError, match=r"'mylab:Mine' is not known here: import it first, or"):
        load(path)
    assert "mylab" not in sys.modules, "what is not trusted is not imported"
    monkeypatch.setenv("ML4AD_TRUSTED_MODULES", '["mylab"]')
    assert type(load(path)).__name__ == "Mine"
    with_header(path, **{"class": "mylab:Yours"})
    with pytest.raises(ValueError, match="'mylab:Yours' is not known here"):
        load(path)
    monkeypatch.setenv("ML4AD_TRUSTED_MODULES", '["nolab"]')
    with_header(path, **{"class": "nolab.detectors:Mine"})
    with pytest.raises(ValueError, match="No module named 'nolab'"):
        load(path)


@pytest.mark.parametrize("name", ["os:system", "builtins:eval", "os.system", "Detector.save"])
def test_nothing_but_a_detector_is_made_of_a_file(tmp_path, name):
    path = tmp_path / "m.npz"
    PCA().fit(GOOD).save(path)
    with_header(path, **{"class": name})
    with pytest.raises(ValueError, match=r"is not known here|is not one of ml4ad\.detect"):
        load(path)


def double(shares):
    return 2 * shares


def test_an_estimator_brings_no_code_that_is_not_trusted(tmp_path, monkeypatch):
    path = tmp_path / "m.npz"
    pipeline = make_pipeline(FunctionTransformer(double), KernelDensity())
    detector = as_detector(pipeline).fit(GOOD)
    detector.save(path)
    with pytest.raises(ValueError, match=rf"needs {__name__}.double: name the module in"):
        load(path)
    monkeypatch.setenv("ML4AD_TRUSTED_MODULES", json.dumps([__name__]))
    np.testing.assert_array_equal(
        load(path).score_samples(STRANGE), detector.score_samples(STRANGE)
    )


@pytest.mark.parametrize("what", ["half", "flipped", "newer", "older", "text"])
@pytest.mark.parametrize("detector", [as_detector(OneClassSVM()), Whole()], ids=repr)
def test_damaged_newer_and_older_files_are_refused(detector, what, tmp_path):
    path = tmp_path / "m.npz"
    detector.fit(GOOD).save(path)
    whole = bytearray(path.read_bytes())
    if what == "half":
        path.write_bytes(whole[: len(whole) // 2])
    elif what == "flipped":
        whole[len(whole) // 2] ^= 0xFF
        path.write_bytes(whole)
    elif what == "text":
        path.write_text("no model")
    else:
        with_header(path, version=FORMAT_VERSION + (1 if what == "newer" else -1))
    words = r"version \d, this program reads \d: train" if what in ("newer", "older") else "damaged"
    with pytest.raises(ValueError, match=words):
        load(path)


def test_what_is_missing_in_a_model_is_told(tmp_path):
    path = tmp_path / "m.npz"
    PCA().fit(GOOD).save(path)
    with_header(path, params={"dict": [["n_components", {"array": "lost"}]]})
    with pytest.raises(ValueError, match="damaged model, 'lost' is missing or wrong"):
        load(path)


# -- ONNX ----------------------------------------------------------------------------------------


def onnx_file(path, nodes, constants, shape, outputs, dtype=TensorProto.FLOAT, inputs=("x",)):
    """A model of ONNX format with one input of this shape."""
    kind = {TensorProto.FLOAT: np.float32, TensorProto.DOUBLE: np.float64}.get(dtype)
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info(name, dtype, shape) for name in inputs],
        [helper.make_tensor_value_info(name, dtype, None) for name in outputs],
        [
            numpy_helper.from_array(
                np.asarray(value, dtype=np.int64 if name == "flat" else kind), name
            )
            for name, value in constants.items()
        ],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="test"
    )
    onnx.save(model, path)
    return str(path)


def reconstruction(path, shape, dtype=TensorProto.FLOAT):
    """What `PCA` of four components does to shares, as a model of ONNX format; and that PCA."""
    fitted = PCA().fit(GOOD)
    nodes = [
        helper.make_node("Reshape", ["x", "flat"], ["rows"]),
        helper.make_node("Sub", ["rows", "mean"], ["centred"]),
        helper.make_node("MatMul", ["centred", "down"], ["code"]),
        helper.make_node("MatMul", ["code", "up"], ["back"]),
        helper.make_node("Add", ["back", "mean"], ["y"]),
    ]
    constants = {
        "flat": [-1, 100],
        "mean": fitted.mean_,
        "down": fitted.components_.T,
        "up": fitted.components_,
    }
    return onnx_file(path, nodes, constants, shape, ["y"], dtype), fitted


@pytest.mark.parametrize(
    "shape", [["n", 100], ["n", 1, 100], ["n", 100, 1], [1, 100], [7, 1, 100], [None, None]]
)
def test_a_reconstruction_of_onnx_format_scores_as_its_like_here(tmp_path, shape):
    path, pca = reconstruction(tmp_path / "m.onnx", shape)
    detector = ONNXModel(path).fit(GOOD)
    np.testing.assert_allclose(
        detector.score_samples(STRANGE), pca.score_samples(STRANGE), rtol=1e-3
    )
    assert tells_apart(detector)


def test_a_model_in_doubles_is_as_exact_as_ours(tmp_path):
    path, pca = reconstruction(tmp_path / "m.onnx", ["n", 100], TensorProto.DOUBLE)
    np.testing.assert_allclose(
        ONNXModel(path).fit(GOOD).score_samples(STRANGE), pca.score_samples(STRANGE), rtol=1e-9
    )


def test_a_foreign_model_is_kept_as_bytes(tmp_path):
    path, _ = reconstruction(tmp_path / "m.onnx", ["n", 100])
    detector = ONNXModel(path).fit(GOOD)
    detector.save(tmp_path / "m.npz")
    (tmp_path / "m.onnx").unlink()
    np.testing.assert_array_equal(
        load(tmp_path / "m.npz").score_samples(STRANGE), detector.score_samples(STRANGE)
    )


def summing(path, shape, axes, outputs=("first", "second")):
    """Model of two scores: the sum of the input, and minus that."""
    nodes = [
        helper.make_node("ReduceSum", ["x", "flat"], [outputs[0]], keepdims=0),
        helper.make_node("Neg", [outputs[0]], [outputs[1]]),
    ]
    return onnx_file(path, nodes, {"flat": axes}, shape, list(outputs))


def test_a_map_goes_in_as_a_map_and_a_score_comes_out(tmp_path):
    good, stack = maps(1), faulty("dead_region", x=(4, 12), y=(8, 18))
    path = summing(tmp_path / "m.onnx", ["n", 20, 24], [1, 2])
    counts = stack.values().sum(axis=(1, 2))
    for given, expected in (
        ({}, counts),
        ({"output": "second"}, -counts),
        ({"output": "second", "low_is_strange": True}, counts),
    ):
        detector = ONNXModel(path, features="counts", **given).fit(good)
        np.testing.assert_allclose(detector.score_samples(stack), expected, rtol=1e-5)
    ones = ONNXModel(path).fit(good).score_samples(stack)
    np.testing.assert_allclose(ones, 1, rtol=1e-5)


def test_an_answer_that_is_no_number_is_not_assessed(tmp_path):
    nodes = [
        helper.make_node("ReduceSum", ["x", "flat"], ["sum"], keepdims=0),
        helper.make_node("Sub", ["limit", "sum"], ["left"]),
        helper.make_node("Log", ["left"], ["y"]),
    ]
    constants = {"flat": [1], "limit": 60_000.0}
    path = onnx_file(tmp_path / "m.onnx", nodes, constants, ["n", 100], ["y"])
    detector = ONNXModel(path, features="counts").fit(GOOD)
    assert np.isfinite(detector.score_samples(STRANGE)).all()
    rich = charges(8, n_ls=3, entries=70_000)
    assert detector.reasons(rich) == dict.fromkeys((1, 2, 3), "the detector gave no number")


def test_models_that_do_not_fit_are_refused_when_they_are_fitted(tmp_path):
    def fit(path, **given):
        return ONNXModel(str(path), **given).fit(GOOD)

    with pytest.raises(OSError, match=r"none\.onnx"):
        fit(tmp_path / "none.onnx")
    for content in (b"", b"no model at all", reconstruction(tmp_path / "a.onnx", [1, 100])[0]):
        whole = content if isinstance(content, bytes) else (tmp_path / "a.onnx").read_bytes()[:900]
        (tmp_path / "bad.onnx").write_bytes(whole)
        with pytest.raises(ValueError, match=r"bad\.onnx: no model that can be run"):
            fit(tmp_path / "bad.onnx")
    with pytest.raises(ValueError, match=r"input of shape \['n', 50\], the bins are \(100,\)"):
        fit(reconstruction(tmp_path / "b.onnx", ["n", 50])[0])
    path = summing(tmp_path / "c.onnx", ["n", 100], [1])
    with pytest.raises(ValueError, match="no output 'third', it has first, second"):
        fit(path, output="third")
    with pytest.raises(ValueError, match="features 'log', want shares, roots, counts"):
        fit(path, features="log")
    nodes = [helper.make_node("Add", ["x", "z"], ["y"])]
    path = onnx_file(tmp_path / "d.onnx", nodes, {}, ["n", 100], ["y"], inputs=("x", "z"))
    with pytest.raises(ValueError, match=r"inputs tensor\(float\), tensor\(float\), want one of"):
        fit(path)
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    path = onnx_file(tmp_path / "e.onnx", nodes, {}, ["n", 100], ["y"], TensorProto.INT64)
    with pytest.raises(ValueError, match=r"inputs tensor\(int64\), want one of floats"):
        fit(path)
    nodes = [helper.make_node("Concat", ["x", "x"], ["y"], axis=1)]
    path = onnx_file(tmp_path / "f.onnx", nodes, {}, ["n", 100], ["y"])
    with pytest.raises(ValueError, match=r"output of shape \(2, 200\), want \(2,\) or \(2, 100\)"):
        fit(path)


def test_roots_are_made_shares_again(tmp_path):
    nodes = [helper.make_node("Mul", ["x", "half"], ["y"])]
    path = onnx_file(tmp_path / "m.onnx", nodes, {"half": [0.5]}, ["n", 100], ["y"])
    stack = charges(4, n_ls=5)
    counts = stack.values().astype(float)
    shares = counts / counts.sum(axis=1, keepdims=True)
    for features, left in (("roots", 0.25), ("shares", 0.5), ("counts", 0.5)):
        scores = ONNXModel(path, features=features).fit(GOOD).score_samples(stack)
        expected = counts.sum(axis=1) * (((1 - left) * shares) ** 2).mean(axis=1)
        np.testing.assert_allclose(scores, expected, rtol=1e-4)


# -- torch ---------------------------------------------------------------------------------------


def test_an_autoencoder_without_torch_says_what_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"an Autoencoder needs torch: .*ml4ad\[torch\]"):
        Autoencoder().fit(GOOD)


def test_an_autoencoder_learns_scores_and_is_saved(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch", reason="torch is not installed: ml4ad[torch]")
    torch.manual_seed(77)
    before = torch.random.get_rng_state()
    detector = Autoencoder(epochs=300, random_state=3).fit(GOOD)
    assert torch.equal(before, torch.random.get_rng_state()), "the caller's own go on"
    good, strange = detector.score_samples(charges(7)), detector.score_samples(STRANGE)
    assert strange.min() > good.max()
    # Errors are in units of what the noise of N entries leads to expect.
    assert 0.5 < np.median(good) < 3
    again = Autoencoder(epochs=300, random_state=3).fit(GOOD)
    np.testing.assert_allclose(again.score_samples(STRANGE), strange, rtol=1e-5)
    detector.save(tmp_path / "m.npz")
    # What was learned is scored where torch is not installed.
    monkeypatch.setitem(sys.modules, "torch", None)
    np.testing.assert_array_equal(load(tmp_path / "m.npz").score_samples(STRANGE), strange)
