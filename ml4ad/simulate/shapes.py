"""Where entries fall: the expected distribution of each kind of element, and its modules.

Every function of `SHAPES` takes an element and the state of the detector and returns the share of
all entries that each cell expects, flow cells included; it sums to 1 but for what is dead. The
numbers are those of the real detector where public drawings give them, else read off real
histograms.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from ml4ad.simulate.lhc import Run, stream
from ml4ad.stack import Axis, Floats, Ints

if TYPE_CHECKING:
    from ml4ad.simulate.elements import Element


@dataclass(frozen=True)
class State:
    """The detector in one run at one pileup; what drifts from run to run is drawn from the seed."""

    seed: int
    run: Run
    pileup: float

    def rng(self, *parts: object, every: str = "run") -> np.random.Generator:
        """Random numbers that stay the same for this run, or for ``every="era"`` or "seed"."""
        scope: tuple[object, ...] = {
            "run": (self.run.run_number,),
            "era": (self.run.era,),
            "seed": (),
        }[every]
        return stream(self.seed, "state", *scope, *parts)

    def gain(self, name: str, loss_per_run: float) -> float:
        """Signal height of a detector part: lost with dose, regained in part between eras."""
        in_era = self.run.index % 50
        start = self.rng("gain", name, every="era").normal(1.0, 0.02)
        wander = self.rng("gain", name).normal(0.0, 0.004)
        # Buffers fill up at high pileup: 1 % of the charge between 20 and 60.
        return float(start * (1 - loss_per_run) ** in_era + wander - 2.5e-4 * (self.pileup - 40))

    @property
    def beam_spot(self) -> tuple[float, float, float, float]:
        """x, y, z of the luminous region and its width in z, in cm."""
        fill = stream(self.seed, "beam spot", self.run.fill_number)
        x, y, z = fill.normal((0.10, -0.02, 0.2), (0.01, 0.01, 0.3))
        return float(x), float(y), float(z), float(fill.normal(3.6, 0.1))


def _flow(inner: Floats, over: float = 0.0, under: float = 0.0) -> Floats:
    """Shares with flow cells: normalised, with ``over`` and ``under`` of all outside (1D)."""
    padded = np.pad(inner / inner.sum(), 1)
    if inner.ndim == 1:
        padded *= 1 - over - under
        padded[0], padded[-1] = under, over
    return padded


# -- one axis ------------------------------------------------------------------------------------


def landau(element: Element, state: State) -> Floats:
    """Energy loss: Moyal's form of Landau's curve, smeared, with a shoulder of broken clusters."""
    p, x = element.params, element.axes[0].centers
    gain = state.gain(element.part, p.get("dose", 0.0))
    mpv, width = p["mpv"] * gain, p["width"] * gain
    z = (x - mpv) / width
    peak = np.exp(-0.5 * (z + np.exp(-np.clip(z, -9, 50))))
    # Knock-on electrons: a tail that falls with the square.
    tail = (x > mpv) / (np.maximum(x - mpv, 0) + 3 * width) ** 2
    peak = 0.9 * peak / peak.sum() + 0.1 * tail / tail.sum()
    peak = gaussian_filter1d(peak, p["smear"] * gain / element.axes[0].widths[0], mode="nearest")
    low = mpv * 0.28
    shoulder = (x / low) ** 2 * np.exp(-2 * x / low)
    mix = p.get("shoulder", 0.0)
    shape = (1 - mix) * peak / peak.sum() + mix * shoulder / shoulder.sum()
    return _flow(shape, over=p.get("over", 0.004) * gain**2)


def cluster_size(element: Element, state: State) -> Floats:
    """Pixels per cluster: few, with a long tail of shallow tracks."""
    p, x = element.params, np.maximum(element.axes[0].centers, 0.5)
    typical = p["typical"] * (1 + 0.3 * (state.gain(element.part, p.get("dose", 0.0)) - 1))
    log = np.log(x / typical)
    return _flow(np.exp(-0.5 * (log / 0.45) ** 2) / x + 0.02 * np.exp(-x / 12) / x, over=2e-4)


def eta(element: Element, state: State) -> Floats:
    """Pseudorapidity: a plateau with shoulders, losing its ends."""
    p, x = element.params, element.axes[0].centers
    edge = p.get("edge", 2.5)
    shape = 1 + p.get("rise", 0.25) * (np.abs(x) / edge) ** 2 + 0.01 * state.beam_spot[2] * x
    if p.get("cracks"):
        for crack in (0.25, 0.85, 1.2):
            shape *= 1 - 0.25 * np.exp(-0.5 * ((np.abs(x) - crack) / 0.06) ** 2)
    return _flow(shape / (1 + np.exp((np.abs(x) - edge) / 0.06)) * _ripple(element, state, 0.02))


def phi(element: Element, state: State) -> Floats:
    """Azimuth: flat, with the detector's sectors and the beam beside its middle."""
    p, x = element.params, element.axes[0].centers
    bx, by, *_ = state.beam_spot
    shape = 1 + 0.3 * (bx * np.cos(x) + by * np.sin(x))
    sectors = int(p.get("sectors", 0))
    if sectors:
        shape *= 1 - p.get("depth", 0.2) * (np.cos(x * sectors / 2) ** 2) ** 8
    inside = np.abs(x) <= np.pi + element.axes[0].widths[0] / 2
    return _flow(shape * inside * _ripple(element, state, 0.02))


def falling(element: Element, state: State) -> Floats:
    """Spectrum of momenta: a threshold and a power law."""
    p, x = element.params, np.maximum(element.axes[0].centers, 1e-3)
    scale = p["scale"] * (1 + p.get("pileup", 0.0) * (state.pileup - 40) / 40)
    turn_on = 1 / (1 + np.exp(-(x - p.get("threshold", 0.0)) / (0.05 * scale + 1e-9)))
    shape = turn_on * x ** p.get("start", 0.0) * (1 + x / scale) ** -p.get("power", 5.0)
    return _flow(shape * element.axes[0].widths, over=p.get("over", 0.001))


def bell(element: Element, state: State) -> Floats:
    """A peak with a wider foot; its middle may be where the beams collide."""
    p, x = element.params, element.axes[0].centers
    beam = int(p.get("beam", 0))  # 1, 2, 3: where the beams collide in x, y, z
    middle = state.beam_spot[beam - 1] if beam else p.get("mean", 0.0)
    middle += state.rng(element.me, "middle").normal(0, 0.02) * p["sigma"]
    width = state.beam_spot[3] if beam == 3 else p["sigma"]
    z = (x - middle) / width
    foot = p.get("foot", 0.05)
    return _flow((1 - foot) * np.exp(-z * z / 2) + foot / 3 * np.exp(-z * z / 18) + 1e-7)


def counted(element: Element, state: State) -> Floats:
    """How many of something an event has: proportional to pileup, spread beyond Poisson."""
    p, x = element.params, element.axes[0].centers
    mean = p.get("constant", 0.0) + p["per_collision"] * state.pileup + 1e-6
    sigma = np.sqrt(mean + (p.get("spread", 0.15) * mean) ** 2)
    shape = np.exp(-0.5 * ((x - mean) / sigma) ** 2) + 1e-12
    return _flow(shape, over=1e-5)


def trigger_bits(element: Element, state: State) -> Floats:
    """How often each trigger fires: rates of a menu over six decades, some bits unused."""
    rng = state.rng(element.me, every="seed")
    n = element.axes[0].n_bins
    rate = 10 ** rng.uniform(-6, 0, n) * (rng.random(n) < 0.55)
    pileup_power = rng.choice((0.0, 1.0, 2.0), n, p=(0.5, 0.35, 0.15))
    return _flow(rate * (state.pileup / 40) ** pileup_power * _ripple(element, state, 0.02))


def _ripple(element: Element, state: State, size: float) -> Floats:
    """Efficiency of each bin: ``size`` apart from each other, the same for an era."""
    shape = tuple(axis.n_bins for axis in element.axes)
    return np.exp(state.rng(element.me, "ripple", every="era").normal(0, size, shape))


# -- two axes ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Modules:
    """Which module each cell belongs to: ``ids`` (with flow, -1 none) into ``names``."""

    ids: Ints
    names: tuple[str, ...]


def _grid(element: Element) -> tuple[Floats, Floats]:
    x, y = (axis.centers for axis in element.axes[:2])
    return x[:, None], y[None, :]


def _numbered(inner: Ints, names: tuple[str, ...]) -> Modules:
    return Modules(np.pad(inner, 1, constant_values=-1), names)


def barrel_modules(element: Element) -> Modules:
    """Pixel barrel: 8 modules in z on each ladder."""
    z, around = _grid(element)
    ladders = int(element.params["ladders"])
    module = np.floor((z + 26.8) / 6.7).astype(np.int64)
    ladder = np.floor((around + np.pi) / (2 * np.pi) * ladders).astype(np.int64)
    inside = (np.abs(z) < 26.8) & (np.abs(around) < np.pi)
    names = tuple(f"ladder{i + 1}_module{j + 1}" for i in range(ladders) for j in range(8))
    return _numbered(np.where(inside, ladder * 8 + module, -1), names)


def zphi(element: Element, state: State) -> Floats:
    """Clusters of a pixel barrel layer, along the beam and around it."""
    z, around = _grid(element)
    p = element.params
    bx, by, bz, sigma = state.beam_spot
    along = 1 / np.hypot(p["radius"], z[:, 0] - bz)
    along = gaussian_filter1d(along, sigma / element.axes[0].widths[0], mode="nearest")
    along *= (np.abs(z[:, 0]) < 26.8) * (1 - 0.55 * (np.minimum(np.abs(z[:, 0]), 28) / 28) ** 6)
    ladder_place = (around[0] + np.pi) / (2 * np.pi) * p["ladders"]
    overlap = np.abs(ladder_place - np.rint(ladder_place)) * 2 * np.pi / p["ladders"] < 0.017
    inner = np.floor(ladder_place).astype(int) % 2 == 0
    # Inner ladders stand nearer to the beam; where two ladders overlap both see the track.
    bright = state.rng(element.me, "overlap", every="seed").uniform(
        -0.2, 0.9, int(p["ladders"]) + 1
    )
    seen_twice = bright[np.rint(ladder_place).astype(int).clip(0, int(p["ladders"]))]
    turn = np.where(inner, 1.03, 0.97) * np.where(overlap, 1.0 + seen_twice, 1.0)
    turn = turn * (1 + (bx * np.cos(around[0]) + by * np.sin(around[0])) / p["radius"])
    density = along[:, None] * turn[None, :]
    module_place = (z[:, 0] + 26.8) / 6.7
    gap = np.abs(module_place - np.rint(module_place)) * 6.7 < 0.2
    density = density * np.where(gap, 0.55, 1.0)[:, None]
    # Every other ladder stands a little off, so that the ends are ragged.
    ends = (np.abs(z) > 24.6) & inner[None, :]
    return _with_dead(element, state, np.where(ends, 0.4, 1.0) * density, parts=2)


def disk_modules(element: Element) -> Modules:
    """Pixel disk: 22 blades in the inner ring, 34 in the outer."""
    x, y = _grid(element)
    r, turn = np.hypot(x, y), (np.arctan2(y, x) + np.pi) / (2 * np.pi)
    blade_in = np.minimum((turn * 22).astype(np.int64), 21)
    blade_out = np.minimum((turn * 34).astype(np.int64), 33)
    ids = np.where((r >= 4.5) & (r < 10.0), blade_in, -1)
    ids = np.where((r >= 10.0) & (r < 16.2), 22 + blade_out, ids)
    names = (
        *(f"ring1_blade{i + 1}" for i in range(22)),
        *(f"ring2_blade{i + 1}" for i in range(34)),
    )
    return _numbered(ids, names)


def xy_disk(element: Element, state: State) -> Floats:
    """Clusters of a pixel disk: two rings of blades like a turbine's."""
    x, y = _grid(element)
    bx, by, *_ = state.beam_spot
    r, turn = np.hypot(x - bx, y - by), np.arctan2(y, x)
    density = np.zeros(r.shape)
    for low, high, blades in ((4.6, 11.0, 22), (9.6, 16.1, 34)):
        petal = np.abs(np.sin(turn * blades / 2)) ** 12
        ring = 1 / ((1 + np.exp(-(r - low) / 0.12)) * (1 + np.exp((r - high) / 0.12)))
        density += ring * np.maximum(r, 3) ** -2.1 * (1 + 0.6 * petal)
    density[(r < 4.2) | (r > 16.4)] = 0
    return _with_dead(element, state, density, parts=1)


def barrel_supermodules(element: Element) -> Modules:
    """ECAL barrel: 18 supermodules of 20 degrees on either side."""
    iphi, ieta = _grid(element)
    number = np.minimum(((iphi - 0.5) / 20).astype(np.int64), 17)
    ids = np.where(ieta > 0, number, 18 + number)
    return _numbered(ids, tuple(f"EB{s}{i:02d}" for s in "+-" for i in range(1, 19)))


def ecal_barrel(element: Element, state: State) -> Floats:
    """Digis of the ECAL barrel in iphi and ieta: more at the ends, less between supermodules."""
    iphi, ieta = _grid(element)
    crack = np.where(np.minimum((iphi - 0.5) % 20, 20 - (iphi - 0.5) % 20) < 3, 0.93, 1.0)
    density = (1 + 0.35 * (ieta / 85) ** 2) * crack * (1 + 0.02 * np.cos(np.radians(iphi - 40)))
    return _with_dead(element, state, density, parts=0, cell_spread=0.08, hot=0.002, dead=0.006)


def endcap_sectors(element: Element) -> Modules:
    """ECAL endcap: 9 sectors."""
    x, y = _grid(element)
    r = np.hypot(x - 50.5, y - 50.5)
    sector = np.minimum((np.arctan2(y - 50.5, x - 50.5) + np.pi) / (2 * np.pi) * 9, 8.99)
    ids = np.where((r > 11) & (r < 50), sector.astype(np.int64), -1)
    side = "-" if element.me.endswith("-") else "+"
    return _numbered(ids, tuple(f"EE{side}{i:02d}" for i in range(1, 10)))


def ecal_endcap(element: Element, state: State) -> Floats:
    """Digis of an ECAL endcap in ix and iy: most near the beam."""
    x, y = _grid(element)
    r = np.hypot(x - 50.5, y - 50.5)
    density = np.where((r > 11) & (r < 50), (np.maximum(r, 5) / 50) ** -1.4, 0.0)
    return _with_dead(element, state, density, parts=0, cell_spread=0.10, hot=0.002, dead=0.006)


def hcal_boxes(element: Element) -> Modules:
    """HCAL: 18 readout boxes each of HB, HE and HF, on either side."""
    ieta, iphi = _grid(element)
    box = np.minimum(((iphi - 0.5) / 4).astype(np.int64), 17)
    part = np.digitize(np.abs(ieta), (16.5, 29.5))
    ids = np.where(ieta > 0, part, 3 + part) * 18 + box
    ids = np.where(_hcal_density(element) > 0, ids, -1)
    names = (f"{p}{s}{i:02d}" for s in "PM" for p in ("HB", "HE", "HF") for i in range(1, 19))
    return _numbered(ids, tuple(names))


def _hcal_density(element: Element) -> Floats:
    ieta, iphi = _grid(element)
    side, depth = np.abs(ieta) + 0 * iphi, int(element.params["depth"])
    first = {1: 1, 2: 1, 3: 1, 4: 1, 5: 18, 6: 19, 7: 26}[depth]
    last = 41 if depth <= 4 else 28
    there = (side >= first) & (side <= last)
    coarse = (side > 20.5) & (side < 39.5)
    there &= ~coarse | (iphi % 2 == 1)
    there &= (side < 39.5) | (iphi % 4 == 3)
    cells = np.where(side > 39.5, 4.0, np.where(coarse, 2.0, 1.0))
    return np.where(there, cells * np.where(side > 29.5, 1.6, 1 + (side / 20) ** 2), 0.0)


def hcal(element: Element, state: State) -> Floats:
    """Digis of one depth of HCAL in ieta and iphi."""
    return _with_dead(
        element, state, _hcal_density(element), parts=0, cell_spread=0.06, hot=0.002, dead=0.003
    )


_CSC_RINGS = {
    1: ((105.0, 265.0, 36), (280.0, 455.0, 36), (505.0, 685.0, 36)),
    2: ((140.0, 345.0, 18), (355.0, 690.0, 36)),
    3: ((160.0, 345.0, 18), (355.0, 690.0, 36)),
    4: ((175.0, 345.0, 18), (355.0, 690.0, 36)),
}


def csc_chambers(element: Element) -> Modules:
    """Cathode strip chambers of one station, seen along the beam."""
    x, y = _grid(element)
    r, turn = np.hypot(x, y), (np.arctan2(y, x) + np.pi) / (2 * np.pi)
    ids = np.full(r.shape, -1, dtype=np.int64)
    names: list[str] = []
    for ring, (low, high, n) in enumerate(_CSC_RINGS[int(element.params["station"])], start=1):
        inside = (r >= low) & (r < high)
        ids = np.where(inside, len(names) + np.minimum((turn * n).astype(np.int64), n - 1), ids)
        names += [f"ring{ring}_chamber{i + 1:02d}" for i in range(n)]
    return _numbered(ids, tuple(names))


def csc_xy(element: Element, state: State) -> Floats:
    """Hits of the chambers of one CSC station, in global x and y."""
    x, y = _grid(element)
    r, turn = np.hypot(x, y), (np.arctan2(y, x) + np.pi) / (2 * np.pi)
    density = np.zeros(r.shape)
    for low, high, n in _CSC_RINGS[int(element.params["station"])]:
        between = np.abs(turn * n - np.rint(turn * n)) * 2 * np.pi * r / n < 8
        ring = (r >= low) & (r < high)
        density += ring * (r / 300) ** -2.6 * np.where(between, 0.65, 1.0)
    return _with_dead(element, state, density, parts=1, dead=0.015)


def one_per_cell(element: Element) -> Modules:
    """Every cell is a chamber, named by its labels or its place."""
    nx, ny = (axis.n_bins for axis in element.axes[:2])
    x_names, y_names = (axis.labels or _edges(axis) for axis in element.axes[:2])
    return _numbered(
        np.arange(nx * ny).reshape(nx, ny), tuple(f"{y}_{x}" for x in x_names for y in y_names)
    )


def _edges(axis: Axis) -> tuple[str, ...]:
    return tuple(f"{low:g}" for low in axis.edges[:-1])


def csc_rings(element: Element, state: State) -> Floats:
    """Hits of every chamber: 36 or 18 in each of the rings."""
    density = np.zeros(tuple(axis.n_bins for axis in element.axes))
    for j, label in enumerate(element.axes[1].labels):
        n = 18 if label[-1] == "1" and label[3] != "1" else 36
        density[:n, j] = {"1": 3.0, "2": 1.0, "3": 0.5}[label[-1]] * (36 / n)
    return _with_dead(element, state, density, parts=1, cell_spread=0.1, dead=0.01)


def dt_sectors(element: Element, state: State) -> Floats:
    """Segments of the drift tube chambers of one wheel."""
    wheel = float(element.params["wheel"])
    density = np.ones((14, 4)) * np.array([1.0, 0.8, 0.7, 0.5]) * (1 + 0.2 * abs(wheel))
    density[12:, :3] = 0  # the fourth station has two sectors more
    density *= 1 + 0.1 * np.cos((np.arange(14) - 3) * np.pi / 6)[:, None]
    return _with_dead(element, state, density, parts=1, cell_spread=0.05, dead=0.0)


def coordinate_modules(element: Element) -> Modules:
    """Pixel barrel in signed module and ladder numbers: 8 x 2 cells a module, none at 0."""
    module, ladder = _grid(element)
    ladders = int(element.params["ladders"])
    m, n = np.rint(module).astype(np.int64), np.rint(ladder).astype(np.int64)
    column = np.where(m > 0, m + 3, m + 4)
    row = np.where(n > 0, n + ladders // 2 - 1, n + ladders // 2)
    inside = (m != 0) & (n != 0)
    names = tuple(f"ladder{i + 1}_module{j + 1}" for i in range(ladders) for j in range(8))
    return _numbered(np.where(inside, row * 8 + column, -1), names)


def coordinates(element: Element, state: State) -> Floats:
    """Digis of a pixel barrel layer by module and ladder."""
    module, ladder = _grid(element)
    there = (np.rint(module) != 0) & (np.rint(ladder) != 0)
    density = there * np.exp(-(np.abs(module) / 2.5))
    return _with_dead(element, state, density, parts=2)


def eta_phi(element: Element, state: State) -> Floats:
    """Tracks in pseudorapidity and azimuth."""
    x, y = _grid(element)
    shape = 1 + 0.2 * (x / 2.5) ** 2 + 0.0 * y
    shape = shape / (1 + np.exp((np.abs(x) - 2.5) / 0.06)) * (np.abs(y) <= np.pi)
    return _with_dead(element, state, shape, parts=0, cell_spread=0.02, dead=0.0)


def box(element: Element, state: State) -> Floats:
    """Vertices in x, y and z: a luminous region of three dimensions."""
    x, y, z = (axis.centers for axis in element.axes)
    bx, by, bz, sigma = state.beam_spot
    width = element.params["sigma"]
    gx, gy = (np.exp(-0.5 * ((c - m) / width) ** 2) for c, m in ((x, bx), (y, by)))
    gz = np.exp(-0.5 * ((z - bz) / sigma) ** 2)
    return _flow(gx[:, None, None] * gy[None, :, None] * gz[None, None, :] + 1e-9)


def _with_dead(
    element: Element,
    state: State,
    density: Floats,
    *,
    parts: int,
    cell_spread: float = 0.04,
    hot: float = 0.0,
    dead: float = 0.03,
) -> Floats:
    """Shares of each cell: normalised as if whole, then what is dead or inefficient is lost.

    ``parts`` > 0: modules die, in as many parts along each axis; 0: single cells die.
    """
    shares = density / density.sum() * _ripple(element, state, cell_spread)
    era, run = (state.rng(element.me, "dead", every=every) for every in ("era", "run"))
    if parts:
        modules = MODULES[element.model](element)
        ids = modules.ids[1:-1, 1:-1]
        share = dead / max(parts, 1)
        alive = np.ones((len(modules.names), parts * parts))
        alive[era.random(alive.shape) < share * parts] = 0
        alive[run.random(alive.shape) < share * parts / 30] = 0
        weak = era.random(alive.shape) < 0.02
        alive[weak] *= era.uniform(0.6, 0.95, int(weak.sum()))
        shares *= np.where(ids >= 0, alive[ids, _part_of(ids, parts)], 0.0)
    else:
        shares[era.random(shares.shape) < dead] = 0
        shares[run.random(shares.shape) < dead / 30] = 0
        noisy = era.random(shares.shape) < hot
        shares[noisy] *= era.uniform(1.5, 4, int(noisy.sum()))
    return np.pad(shares, 1)


def _part_of(ids: Ints, parts: int) -> Ints:
    """Which of its module's ``parts x parts`` pieces a cell is in, counted along the axes."""
    if parts == 1:
        return np.zeros(ids.shape, dtype=np.int64)
    place = np.zeros(ids.shape, dtype=np.int64)
    for axis in (0, 1):
        n = ids.shape[axis]
        index = np.arange(n).reshape((n, 1) if axis == 0 else (1, n))
        index = np.broadcast_to(index, ids.shape)
        low = np.full(ids.max() + 1, n)
        high = np.zeros(ids.max() + 1, dtype=np.int64)
        inside = ids >= 0
        np.minimum.at(low, ids[inside], index[inside])
        np.maximum.at(high, ids[inside], index[inside])
        part = (index - low[ids]) * parts // np.maximum(high[ids] - low[ids] + 1, 1)
        place = place * parts + np.clip(part, 0, parts - 1)
    return place


Shape = Callable[["Element", State], Floats]

SHAPES: dict[str, Shape] = {
    "landau": landau,
    "cluster_size": cluster_size,
    "eta": eta,
    "phi": phi,
    "falling": falling,
    "bell": bell,
    "counted": counted,
    "trigger_bits": trigger_bits,
    "zphi": zphi,
    "xy_disk": xy_disk,
    "ecal_barrel": ecal_barrel,
    "ecal_endcap": ecal_endcap,
    "hcal": hcal,
    "csc_xy": csc_xy,
    "csc_rings": csc_rings,
    "dt_sectors": dt_sectors,
    "coordinates": coordinates,
    "eta_phi": eta_phi,
    "box": box,
}

MODULES: dict[str, Callable[[Element], Modules]] = {
    "zphi": barrel_modules,
    "xy_disk": disk_modules,
    "ecal_barrel": barrel_supermodules,
    "ecal_endcap": endcap_sectors,
    "hcal": hcal_boxes,
    "csc_xy": csc_chambers,
    "csc_rings": one_per_cell,
    "dt_sectors": one_per_cell,
    "coordinates": coordinate_modules,
}


# -- profiles ------------------------------------------------------------------------------------


def profile_mean(element: Element, state: State) -> Floats:
    """Mean of a profile's quantity in each cell, flow included (there 0)."""
    p = element.params
    centers: list[Any] = [axis.centers for axis in element.axes]
    x = centers[0] if len(centers) == 1 else centers[0][:, None]
    shape = tuple(axis.n_bins for axis in element.axes)
    mean = p["value"] + p.get("bend", 0.0) * np.cos(x * p.get("wave", 1.0))
    mean = np.broadcast_to(mean, shape) + p.get("pileup", 0.0) * (state.pileup - 40) / 40
    rng = state.rng(element.me, "profile", every="era")
    mean = mean + rng.normal(0, p.get("cell_spread", 0.05), shape)
    mean = mean + state.rng(element.me, "profile").normal(0, p.get("run_spread", 0.02))
    return np.pad(mean, 1)


def modes(element: Element, n_modes: int) -> NDArray[np.float32]:
    """Slow patterns along which an element drifts, ``(n_modes, *cells)``, of mean square 1."""
    shape = tuple(axis.n_bins + 2 for axis in element.axes)
    out = np.empty((n_modes, *shape), dtype=np.float32)
    for m in range(n_modes):
        rng = stream(0, "modes", element.me, m)
        wave = np.zeros(shape)
        for axis, n in enumerate(shape):
            k, start = int(rng.integers(1, 4)), rng.uniform(0, 2 * np.pi)
            line = np.cos(2 * np.pi * k * np.arange(n) / (2 * n) + start)
            wave += line.reshape([-1 if a == axis else 1 for a in range(len(shape))])
        out[m] = wave / np.sqrt((wave**2).mean())
    return out
