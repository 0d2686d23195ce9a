"""The catalogue: monitoring elements named, binned and titled as the experiment's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from ml4ad.stack import Axis

#: Longest name of a monitoring element.
LONGEST_NAME = 255

#: Name -> patterns of the elements of it.
PRESETS: Mapping[str, tuple[str, ...]] = {
    "small": (
        "PixelPhase1/Tracks/PXBarrel/charge_PXLayer_1",
        "PixelPhase1/Tracks/PXForward/charge_PXDisk_+1",
        "EcalBarrel/EBOccupancyTask/EBOT digi occupancy",
        "CSC/CSCOfflineMonitor/Occupancy/hORecHits",
        "DT/02-Segments/Wheel0/*",
        "JetMET/MET/pfMETT1/Cleaned/MET",
        "Tracking/TrackParameters/generalTracks/HitProperties/*VsEta_GenTk",
        "EcalBarrel/EBTimingTask/EBTMT timing map",
        "*digi_occupancy_per_SignedModuleCoord_per_SignedLadderCoord_PXLayer_1",
    ),
    "demo": (
        "PixelPhase1/Tracks/PXBarrel/charge_PXLayer_*",
        "PixelPhase1/Tracks/PXForward/charge_PXDisk_?1",
        "PixelPhase1/Tracks/PXBarrel/size_PXLayer_1",
        "PixelPhase1/Tracks/PXBarrel/size_PXLayer_2",
        "PixelPhase1/Tracks/PXBarrel/clusterposition_zphi_ontrack_PXLayer_1",
        "PixelPhase1/Tracks/PXForward/clusterposition_xy_ontrack_PXDisk_+1",
        "PixelPhase1/Phase1_MechanicalView/*",
        "SiStrip/MechanicalView/T?B/layer_1/Summary_ClusterStoNCorr*",
        "EcalBarrel/EBOccupancyTask/EBOT digi occupancy",
        "EcalBarrel/EBTimingTask/EBTMT timing 1D summary",
        "EcalEndcap/EEOccupancyTask/EEOT digi occupancy EE ?",
        "EcalEndcap/EETimingTask/*",
        "Hcal/DigiTask/Occupancy/depth/depth1",
        "CSC/CSCOfflineMonitor/recHits/hRHGlobalm1",
        "CSC/CSCOfflineMonitor/Occupancy/*",
        "DT/02-Segments/*",
        "Muons/muRecoAnalyzer/GlbMuon_Glb_*",
        "JetMET/Jet/Cleanedak4PFJetsCHS/*t*",
        "JetMET/MET/pfMETT1/Cleaned/*",
        "Tracking/TrackParameters/generalTracks/*",
        "OfflinePV/offlinePrimaryVertices/*",
        "L1T/L1TStage2uGT/*",
    ),
    "large": ("*",),
}


@dataclass(frozen=True)
class Element:
    """A monitoring element that can be simulated.

    ``model`` names its distribution in `shapes.SHAPES`, ``params`` its numbers. Entries per trigger
    are ``per_trigger + per_collision * pileup``. ``needs`` lists the flags of the conditions
    without which it stays empty. The variance of a bin is ``dispersion`` times Poisson's; blocks of
    ``block`` bins along each axis move together by the fraction ``block_sigma``, and patterns of
    the whole move slowly by ``drift``. ``part`` is the detector whose signal height it follows.
    ``per_run`` elements are kept for the run as a whole (lumisection 0).
    """

    me: str
    kind: str
    axes: tuple[Axis, ...]
    model: str
    params: Mapping[str, float] = field(default_factory=dict)
    per_trigger: float = 0.0
    per_collision: float = 0.0
    needs: tuple[str, ...] = ()
    dispersion: float = 1.1
    block: int = 10
    block_sigma: float = 0.003
    drift: float = 0.004
    part: str = ""
    per_run: bool = False
    title: str = ""

    def __hash__(self) -> int:
        return hash((self.me, self.kind, self.axes, self.model, tuple(sorted(self.params.items()))))

    def __post_init__(self) -> None:
        if not 1 <= len(self.me) <= LONGEST_NAME:
            raise ValueError(
                f"name of {len(self.me)} characters ({self.me[:40]!r}...), want 1 to {LONGEST_NAME}"
            )
        if self.dispersion < 1 or self.per_trigger < 0 or self.per_collision < 0:
            raise ValueError(
                f"{self.me}: dispersion {self.dispersion}, want at least 1; entries "
                f"{self.per_trigger} and {self.per_collision}, want none below 0"
            )


def pattern(text: str) -> re.Pattern[str]:
    """Compiled form of a pattern of whole names: ``*`` and ``?``, the rest literal.

    >>> bool(pattern("*PXDisk_+1").fullmatch("PixelPhase1/Tracks/PXForward/charge_PXDisk_+1"))
    True
    """
    import fnmatch

    return re.compile(fnmatch.translate(text.replace("[", "[[]")))


def matching(patterns: str | Iterable[str], names: Iterable[str]) -> list[str]:
    """Those of ``names`` that a pattern matches; ValueError if a pattern matches none."""
    every = list(names)
    wanted: set[str] = set()
    for text in [patterns] if isinstance(patterns, str) else patterns:
        found = [name for name in every if pattern(text).fullmatch(name)]
        if not found:
            raise ValueError(f"no element matches {text!r} of {len(every)}, such as {every[0]!r}")
        wanted.update(found)
    return [name for name in every if name in wanted]


def elements(patterns: str | Sequence[str] = "*") -> tuple[Element, ...]:
    """Elements of the catalogue that match the patterns, or one preset's name.

    Raises ValueError for a pattern that matches none.
    """
    if isinstance(patterns, str) and patterns in PRESETS:
        patterns = PRESETS[patterns]
    every = catalogue()
    return tuple(every[name] for name in matching(patterns, every))


@cache
def catalogue() -> Mapping[str, Element]:
    """Every element that can be simulated, by name."""
    out: dict[str, Element] = {}
    for part in (_pixel, _strips, _tracking, _ecal, _hcal, _muons, _jets, _egamma, _trigger):
        for element in part():
            out[element.me] = element
    return out


def _x(n: int, low: float, high: float, title: str = "", labels: Sequence[str] = ()) -> Axis:
    return Axis.regular(n, low, high, title=title, labels=labels)


def _y(n: int, low: float, high: float, title: str = "", labels: Sequence[str] = ()) -> Axis:
    return Axis.regular(n, low, high, title=title, name="yaxis", labels=labels)


_PI = 3.2
_BPIX = {1: (12, 2.9, 20.0), 2: (28, 6.8, 14.0), 3: (44, 10.9, 11.0), 4: (64, 16.0, 9.0)}


def _pixel() -> Iterator[Element]:
    tracks = "PixelPhase1/Tracks"
    for layer, (ladders, radius, clusters) in _BPIX.items():
        part = f"PXLayer_{layer}"
        common = {"per_collision": clusters, "needs": ("bpix_ready",), "part": part}
        dose = 0.012 / layer
        yield Element(
            f"{tracks}/PXBarrel/charge_{part}",
            "TH1F",
            (_x(100, 0, 80e3, "Charge (electrons)"),),
            "landau",
            {
                "mpv": 25.3e3 - 500 * layer,
                "width": 3.2e3,
                "smear": 5.2e3,
                "shoulder": 0.09,
                "over": 0.007,
                "dose": dose,
            },
            **common,  # type: ignore[arg-type]
        )
        yield Element(
            f"{tracks}/PXBarrel/size_{part}",
            "TH1F",
            (_x(50, 0, 50, "Cluster size (pixels)"),),
            "cluster_size",
            {"typical": 5.5 - 0.8 * layer, "dose": dose},
            **common,  # type: ignore[arg-type]
        )
        yield Element(
            f"{tracks}/PXBarrel/clusterposition_zphi_ontrack_{part}",
            "TH2F",
            (_x(300, -60, 60, "Global Z"), _y(200, -_PI, _PI, "Global phi")),
            "zphi",
            {"ladders": ladders, "radius": radius},
            dispersion=1.12,
            block_sigma=0.035,
            **common,  # type: ignore[arg-type]
        )
        yield Element(
            "PixelPhase1/Phase1_MechanicalView/PXBarrel/"
            f"digi_occupancy_per_SignedModuleCoord_per_SignedLadderCoord_{part}",
            "TH2F",
            (
                _x(72, -4.5, 4.5, "SignedModuleCoord"),
                _y(2 * ladders + 2, -ladders / 2 - 0.5, ladders / 2 + 0.5, "SignedLadderCoord"),
            ),
            "coordinates",
            {"ladders": ladders},
            per_run=True,
            dispersion=1.2,
            **(common | {"per_collision": 3 * clusters}),  # type: ignore[arg-type]
        )
    for disk in (-3, -2, -1, 1, 2, 3):
        part = f"PXDisk_{disk:+d}"
        common = {"per_collision": 6.2 - 0.4 * abs(disk), "needs": ("fpix_ready",), "part": part}
        yield Element(
            f"{tracks}/PXForward/charge_{part}",
            "TH1F",
            (_x(100, 0, 80e3, "Charge (electrons)"),),
            "landau",
            {"mpv": 20.5e3, "width": 2.6e3, "smear": 2.6e3, "shoulder": 0.03, "dose": 0.003},
            **common,  # type: ignore[arg-type]
        )
        yield Element(
            f"{tracks}/PXForward/size_{part}",
            "TH1F",
            (_x(50, 0, 50, "Cluster size (pixels)"),),
            "cluster_size",
            {"typical": 2.2, "dose": 0.003},
            **common,  # type: ignore[arg-type]
        )
        yield Element(
            f"{tracks}/PXForward/clusterposition_xy_ontrack_{part}",
            "TH2F",
            (_x(200, -20, 20, "Global X"), _y(200, -20, 20, "Global Y")),
            "xy_disk",
            dispersion=1.2,
            block_sigma=0.02,
            **common,  # type: ignore[arg-type]
        )


def _strip_layers() -> Iterator[tuple[str, str, str, float, str]]:
    """Folder, name, flag, entries per collision and thickness of each layer and wheel."""
    for i in range(1, 5):
        yield f"TIB/layer_{i}", f"TIB__layer__{i}", "tibtid_ready", 12 - 2 * i, "thin"
    for i in range(1, 7):
        yield f"TOB/layer_{i}", f"TOB__layer__{i}", "tob_ready", 8 - i, "thick"
    for side, flag in (("MINUS", "tecm_ready"), ("PLUS", "tecp_ready")):
        for i in range(1, 4):
            name = f"TID__{side}__wheel__{i}"
            yield f"TID/{side}/wheel_{i}", name, "tibtid_ready", 3, "thin"
        for i in range(1, 10):
            yield f"TEC/{side}/wheel_{i}", f"TEC__{side}__wheel__{i}", flag, 3, "thick"


def _strips() -> Iterator[Element]:
    for folder, name, flag, clusters, thickness in _strip_layers():
        mpv = 18.0 if thickness == "thin" else 25.0
        yield Element(
            f"SiStrip/MechanicalView/{folder}/Summary_ClusterStoNCorr__OnTrack__{name}",
            "TH1F",
            (_x(200, 0, 200, "Signal to noise, corrected for the angle"),),
            "landau",
            {"mpv": mpv, "width": 1.9, "smear": 2.0, "dose": 0.002, "over": 0.001},
            per_collision=clusters,
            needs=(flag,),
            part=name,
        )
        yield Element(
            f"SiStrip/MechanicalView/{folder}/Summary_ClusterCharge__OnTrack__{name}",
            "TH1F",
            (_x(100, 0, 1000, "Cluster charge (ADC counts)"),),
            "landau",
            {"mpv": 6 * mpv, "width": 12.0, "smear": 14.0, "dose": 0.002, "over": 0.002},
            per_collision=clusters,
            needs=(flag,),
            part=name,
        )
        yield Element(
            f"SiStrip/MechanicalView/{folder}/Summary_TotalNumberOfClusters__OffTrack__{name}",
            "TH1F",
            (_x(100, 0, 8000, "Clusters off track per event"),),
            "counted",
            {"per_collision": 4 * clusters, "spread": 0.2},
            per_trigger=1.0,
            needs=(flag,),
        )
        yield Element(
            f"SiStrip/MechanicalView/{folder}/NormalizedHitResiduals_{name}",
            "TH1F",
            (_x(100, -5, 5, "residual / error"),),
            "bell",
            {"sigma": 1.05},
            per_collision=clusters,
            needs=(flag,),
        )


def _tracking() -> Iterator[Element]:
    ready = ("bpix_ready", "fpix_ready", "tob_ready")
    for collection, tracks in (
        ("generalTracks", 25.0),
        ("highPurityTracks/pt_1", 12.0),
        ("highPurityTracks/dzPV0p1", 3.0),
    ):
        base = f"Tracking/TrackParameters/{collection}"
        suffix = "GenTk" if collection == "generalTracks" else "HPTk"
        kinds: list[tuple[str, str, Axis, str, dict[str, float]]] = [
            ("TrackEta_ImpactPoint", "TH1F", _x(60, -3, 3, "Track #eta"), "eta", {"edge": 2.8}),
            ("TrackPhi_ImpactPoint", "TH1F", _x(63, -3.15, 3.15, "Track #phi"), "phi", {}),
            (
                "TrackPt_ImpactPoint",
                "TH1F",
                _x(100, 0, 100, "Track p_{T} (GeV)"),
                "falling",
                {"scale": 2.0, "power": 4.5},
            ),
            (
                "Chi2oNDF",
                "TH1F",
                _x(50, 0, 5, "Track #chi^{2}/ndf"),
                "falling",
                {"scale": 1.6, "power": 5.0, "start": 1.5},
            ),
            (
                "DistanceOfClosestApproachToPV",
                "TH1F",
                _x(100, -0.1, 0.1, "Track d_{xy} wrt PV (cm)"),
                "bell",
                {"sigma": 0.006, "foot": 0.2},
            ),
        ]
        for name, kind, axis, model, params in kinds:
            yield Element(
                f"{base}/GeneralProperties/{name}_{suffix}",
                kind,
                (axis,),
                model,
                params,
                per_collision=tracks,
                needs=ready,
                drift=0.003,
            )
        yield Element(
            f"{base}/GeneralProperties/NumberOfTracks_{suffix}",
            "TH1F",
            (_x(100, 0, 4000, "Number of Tracks per Event"),),
            "counted",
            {"per_collision": tracks},
            per_trigger=1.0,
            needs=ready,
        )
        hits = {"value": 16.0, "bend": 2.5, "wave": 1.6, "spread": 4.0, "pileup": -0.15}
        yield Element(
            f"{base}/HitProperties/NumberOfRecHitsPerTrackVsEta_{suffix}",
            "TProfile",
            (_x(60, -3, 3, "Track #eta"),),
            "eta",
            {"edge": 2.8, **hits},
            per_collision=tracks,
            needs=ready,
        )
        yield Element(
            f"{base}/HitProperties/NumberOfRecHitsPerTrackVsPhi_{suffix}",
            "TProfile",
            (_x(63, -3.15, 3.15, "Track #phi"),),
            "phi",
            {**hits, "bend": 0.0},
            per_collision=tracks,
            needs=ready,
        )
        yield Element(
            f"{base}/HitProperties/NumberOfRecHitVsPhiVsEtaPerTrack_{suffix}",
            "TProfile2D",
            (_x(30, -3, 3, "Track #eta"), _y(32, -3.2, 3.2, "Track #phi")),
            "eta_phi",
            {**hits, "cell_spread": 0.2},
            per_collision=tracks,
            needs=ready,
        )
    vertices = "OfflinePV/offlinePrimaryVertices"
    yield Element(
        f"{vertices}/vtxNbr",
        "TH1F",
        (_x(120, -0.5, 119.5, "Number of vertices"),),
        "counted",
        {"per_collision": 0.72},
        per_trigger=1.0,
        needs=ready,
    )
    for name, axis, where, sigma in (
        ("tagVtxX", _x(100, -0.1, 0.3, "x (cm)"), 1, 0.004),
        ("tagVtxY", _x(100, -0.2, 0.2, "y (cm)"), 2, 0.004),
        ("tagVtxZ", _x(100, -20, 20, "z (cm)"), 3, 3.6),
    ):
        yield Element(
            f"{vertices}/{name}",
            "TH1F",
            (axis,),
            "bell",
            {"beam": where, "sigma": sigma},
            per_trigger=1.0,
            per_collision=0.7,
            needs=ready,
        )
    for name in ("tagDiffX", "tagDiffY"):
        yield Element(
            f"{vertices}/{name}",
            "TH1F",
            (_x(100, -500, 500, "vertex - beam spot (#mum)"),),
            "bell",
            {"sigma": 60.0, "foot": 0.1},
            per_trigger=1.0,
            per_collision=0.7,
            needs=ready,
        )
    yield Element(
        "OfflinePV/Alignment/vertices_xyz",
        "TH3F",
        (
            _x(20, 0.05, 0.15, "x (cm)"),
            _y(20, -0.07, 0.03, "y (cm)"),
            Axis.regular(20, -20, 20, title="z (cm)", name="zaxis"),
        ),
        "box",
        {"sigma": 0.012},
        per_trigger=1.0,
        per_collision=0.7,
        needs=ready,
        per_run=True,
    )


def _ecal() -> Iterator[Element]:
    tower = (_x(72, 0.5, 360.5, "iphi"), _y(34, -85, 85, "ieta"))
    crystal = (_x(360, 0.5, 360.5, "iphi"), _y(170, -85, 85, "ieta"))
    barrel, endcap = "EcalBarrel/EB", "EcalEndcap/EE"
    yield Element(
        f"{barrel}OccupancyTask/EBOT digi occupancy",
        "TH2F",
        tower,
        "ecal_barrel",
        per_trigger=40.0,
        per_collision=3.5,
        dispersion=1.2,
        block=4,
        block_sigma=0.008,
        title="EBOT digi occupancy",
    )
    yield Element(
        f"{barrel}OccupancyTask/EBOT rec hit thr occupancy",
        "TH2F",
        crystal,
        "ecal_barrel",
        per_trigger=20.0,
        per_collision=9.0,
        dispersion=1.2,
        block_sigma=0.015,
    )
    timing = {"value": 0.0, "step": 0.125, "cell_spread": 0.12, "run_spread": 0.03, "spread": 1.6}
    yield Element(
        f"{barrel}TimingTask/EBTMT timing map",
        "TProfile2D",
        tower,
        "ecal_barrel",
        timing,
        per_trigger=15.0,
        per_collision=1.0,
    )
    yield Element(
        f"{barrel}TimingTask/EBTMT timing 1D summary",
        "TH1F",
        (_x(100, -25, 25, "time (ns)"),),
        "bell",
        {"sigma": 1.7, "foot": 0.06},
        per_trigger=15.0,
        per_collision=1.0,
    )
    for side in "-+":
        axes = (_x(20, 0.5, 100.5, "ix"), _y(20, 0.5, 100.5, "iy"))
        fine = (_x(100, 0.5, 100.5, "ix"), _y(100, 0.5, 100.5, "iy"))
        yield Element(
            f"{endcap}OccupancyTask/EEOT digi occupancy EE {side}",
            "TH2F",
            axes,
            "ecal_endcap",
            per_trigger=20.0,
            per_collision=2.5,
            dispersion=1.2,
            block=4,
            block_sigma=0.008,
        )
        yield Element(
            f"{endcap}OccupancyTask/EEOT rec hit thr occupancy EE {side}",
            "TH2F",
            fine,
            "ecal_endcap",
            per_trigger=10.0,
            per_collision=5.0,
            dispersion=1.2,
            block_sigma=0.015,
        )
        yield Element(
            f"{endcap}TimingTask/EETMT timing map EE {side}",
            "TProfile2D",
            axes,
            "ecal_endcap",
            timing,
            per_trigger=10.0,
            per_collision=0.8,
        )


def _hcal() -> Iterator[Element]:
    axes = (_x(83, -41.5, 41.5, "ieta"), _y(72, 0.5, 72.5, "iphi"))
    for depth in range(1, 8):
        for folder, per_collision in (("Occupancy", 9.0), ("OccupancyCut", 3.0)):
            yield Element(
                f"Hcal/DigiTask/{folder}/depth/depth{depth}",
                "TH2F",
                axes,
                "hcal",
                {"depth": depth},
                per_trigger=30.0,
                per_collision=per_collision / depth**0.5,
                dispersion=1.25,
                block=8,
                block_sigma=0.012,
            )
        yield Element(
            f"Hcal/RecHitTask/TimingCut/depth/depth{depth}",
            "TProfile2D",
            axes,
            "hcal",
            {"depth": depth, "value": -3.0, "step": 0.5, "cell_spread": 0.4, "spread": 4.0},
            per_trigger=5.0,
            per_collision=1.5 / depth**0.5,
        )


def _muons() -> Iterator[Element]:
    for end, sign in (("m", -1), ("p", 1)):
        for station in range(1, 5):
            yield Element(
                f"CSC/CSCOfflineMonitor/recHits/hRHGlobal{end}{station}",
                "TH2F",
                (_x(100, -800, 800, "X (cm)"), _y(100, -800, 800, "Y (cm)")),
                "csc_xy",
                {"station": station, "end": sign},
                per_trigger=2.0,
                per_collision=0.9 / station,
                dispersion=1.3,
                block=8,
                block_sigma=0.012,
            )
    rings = [f"ME{e}{s}/{r}" for e, s, r in _csc_ring_names()]
    for name, entries in (("hORecHits", 3.0), ("hOSegments", 0.9)):
        yield Element(
            f"CSC/CSCOfflineMonitor/Occupancy/{name}",
            "TH2I",
            (
                _x(36, 0.5, 36.5, "Chamber #", [str(i) for i in range(1, 37)]),
                _y(len(rings), 0, len(rings), "", rings),
            ),
            "csc_rings",
            per_trigger=4.0,
            per_collision=entries,
            dispersion=1.3,
            block=6,
            block_sigma=0.008,
        )
    stations = [f"MB{i}" for i in range(1, 5)]
    for wheel in range(-2, 3):
        yield Element(
            f"DT/02-Segments/Wheel{wheel}/numberOfSegments_W{wheel}",
            "TH2F",
            (_x(14, 1, 15, "Sector"), _y(4, 1, 5, "", stations)),
            "dt_sectors",
            {"wheel": wheel},
            per_trigger=2.0,
            per_collision=0.25,
            block=4,
        )
    quantities: list[tuple[str, Axis, str, dict[str, float]]] = [
        ("eta", _x(100, -3, 3, "#eta"), "eta", {"edge": 2.4, "rise": -0.35, "cracks": 1}),
        ("phi", _x(100, -3.2, 3.2, "#phi"), "phi", {"sectors": 12, "depth": 0.15}),
        (
            "pt",
            _x(100, 0, 200, "p_{T} (GeV)"),
            "falling",
            {"scale": 25.0, "threshold": 5.0, "power": 5.0, "over": 0.003},
        ),
    ]
    for algorithm, share in (("GlbMuon_Glb", 0.02), ("TkMuon", 0.05), ("StaMuon", 0.04)):
        for name, axis, model, params in quantities:
            yield Element(
                f"Muons/muRecoAnalyzer/{algorithm}_{name}",
                "TH1F",
                (axis,),
                model,
                params,
                per_trigger=0.3,
                per_collision=share,
            )


def _jets() -> Iterator[Element]:
    for jets, share in (("Cleanedak4PFJetsCHS", 0.06), ("Cleanedak4PFJetsPuppi", 0.05)):
        quantities: list[tuple[str, Axis, str, dict[str, float]]] = [
            (
                "Pt",
                _x(50, 0, 500, "p_{T} (GeV)"),
                "falling",
                {"scale": 60.0, "threshold": 20.0, "power": 5.5, "pileup": 0.05},
            ),
            ("Eta", _x(50, -5, 5, "#eta"), "eta", {"edge": 4.8, "rise": -0.4}),
            ("Phi", _x(70, -3.5, 3.5, "#phi"), "phi", {"sectors": 18, "depth": 0.05}),
            (
                "Constituents",
                _x(50, 0, 100, "Constituents"),
                "counted",
                {"per_collision": 0.02, "constant": 22.0, "spread": 0.5},
            ),
            (
                "CHFrac",
                _x(70, -0.2, 1.2, "charged hadron fraction"),
                "bell",
                {"mean": 0.6, "sigma": 0.2},
            ),
            (
                "NHFrac",
                _x(70, -0.2, 1.2, "neutral hadron fraction"),
                "bell",
                {"mean": 0.12, "sigma": 0.1},
            ),
            ("PhFrac", _x(70, -0.2, 1.2, "photon fraction"), "bell", {"mean": 0.27, "sigma": 0.14}),
        ]
        for name, axis, model, params in quantities:
            yield Element(
                f"JetMET/Jet/{jets}/{name}",
                "TH1F",
                (axis,),
                model,
                params,
                per_trigger=0.5,
                per_collision=share,
            )
        yield Element(
            f"JetMET/Jet/{jets}/Pt_profile",
            "TProfile",
            (Axis(np.array([-5, -3, -2.5, -1.3, 0, 1.3, 2.5, 3, 5.0]), "#eta", variable=True),),
            "eta",
            {"edge": 4.8, "rise": -0.4, "value": 45.0, "bend": 6.0, "wave": 0.6, "spread": 30.0},
            per_trigger=0.5,
            per_collision=share,
        )
    for kind in ("pfMETT1", "pfMETPUPPIT1"):
        for name, axis, model, params in (
            (
                "MET",
                _x(200, 0, 1000, "MET (GeV)"),
                "falling",
                {"scale": 60.0, "start": 1.0, "power": 9.0, "pileup": 0.3},
            ),
            ("METPhi", _x(60, -3.2, 3.2, "MET #phi"), "phi", {}),
            (
                "SumET",
                _x(100, 0, 8000, "SumET (GeV)"),
                "counted",
                {"per_collision": 55.0, "spread": 0.25},
            ),
        ):
            yield Element(
                f"JetMET/MET/{kind}/Cleaned/{name}",
                "TH1F",
                (axis,),
                model,
                params,
                per_trigger=1.0,
            )


def _egamma() -> Iterator[Element]:
    for photons, share in (("AllPhotons", 0.03), ("GoodCandidatePhotons", 0.01)):
        quantities: list[tuple[str, Axis, str, dict[str, float]]] = [
            ("phoEta", _x(60, -3, 3, "#eta"), "eta", {"edge": 2.5, "rise": -0.2}),
            ("phoPhi", _x(70, -3.5, 3.5, "#phi"), "phi", {"sectors": 18, "depth": 0.08}),
            (
                "phoEt",
                _x(100, 0, 200, "E_{T} (GeV)"),
                "falling",
                {"scale": 20.0, "threshold": 20.0, "power": 5.0},
            ),
            (
                "phoSigmaIetaIetaBarrel",
                _x(100, 0, 0.05, "#sigma_{i#etai#eta}"),
                "bell",
                {"mean": 0.0098, "sigma": 0.0012, "foot": 0.2},
            ),
            ("hOverEBarrel", _x(100, 0, 0.1, "H/E"), "falling", {"scale": 0.01, "power": 3.0}),
        ]
        for name, axis, model, params in quantities:
            yield Element(
                f"Egamma/gedPhotonAnalyzer/{photons}/Et above 20 GeV/{name}",
                "TH1F",
                (axis,),
                model,
                params,
                per_trigger=0.2,
                per_collision=share,
            )


def _csc_ring_names() -> Iterator[tuple[str, int, int]]:
    for end, stations in (("-", (4, 3, 2, 1)), ("+", (1, 2, 3, 4))):
        for station in stations:
            for ring in (3, 2, 1) if station == 1 else (2, 1):
                yield end, station, ring


def _trigger() -> Iterator[Element]:
    for name, kind in (("algoBits_before_prescale", "TH1D"), ("algoBits_after_prescale", "TH1F")):
        yield Element(
            f"L1T/L1TStage2uGT/{name}",
            kind,
            (_x(512, -0.5, 511.5, "Algorithm Trigger Bit"),),
            "trigger_bits",
            per_trigger=6.0,
            per_collision=0.15,
            drift=0.003,
        )
    for stream_name in ("HLT_ZeroBias", "HLT_IsoMu24", "HLT_Ele32_WPTight_Gsf", "HLT_PFJet500"):
        yield Element(
            f"HLT/TriggerRates/{stream_name}_by_LS_slice",
            "TH1S" if stream_name == "HLT_PFJet500" else "TH1I",
            (_x(24, 0, 24, "second of the lumisection"),),
            "eta",
            {"edge": 100.0, "rise": 0.0},
            per_trigger=1.0,
        )
    for vertices in ("hltPixelVertices", "hltTrimmedPixelVertices"):
        yield Element(
            f"HLT/Vertexing/{vertices}/vtxNbr",
            "TH1F",
            (_x(120, -0.5, 119.5, "Number of vertices"),),
            "counted",
            {"per_collision": 0.6},
            per_trigger=1.0,
        )
    for collection, tracks in (("pixelTracks", 15.0), ("hltMergedTracks", 9.0)):
        for name, axis, model, params in (
            ("TrackEta", _x(60, -3, 3, "Track #eta"), "eta", {"edge": 2.5}),
            ("TrackPhi", _x(63, -3.15, 3.15, "Track #phi"), "phi", {}),
            ("TrackPt", _x(100, 0, 100, "Track p_{T} (GeV)"), "falling", {"scale": 2.0}),
        ):
            yield Element(
                f"HLT/Tracking/{collection}/GeneralProperties/{name}_HLT",
                "TH1F",
                (axis,),
                model,
                params,
                per_collision=tracks,
                needs=("bpix_ready",),
            )
