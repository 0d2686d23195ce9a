"""Bytes of histograms as entries of a tree: what is alike is laid out once, the rest scattered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml4ad.dqmio.batch import ERROR_MODES
from ml4ad.dqmio.layouts import Bytes, Encoder, Instance, Slot
from ml4ad.stack import KINDS, Axis, HistogramStack, Ints, is_profile, statistics_names

#: Classes that ROOT writes bare into a TBranchElement; all others framed into a TBranchObject.
BARE = {"TH1F", "TH1S", "TH1D", "TH1I", "TH2I"}


@dataclass(frozen=True)
class Template:
    """What the histograms of one element share: pieces of bytes, and where the rest goes."""

    size: int
    pieces: tuple[tuple[int, Bytes], ...]
    slots: dict[str, tuple[int, Slot]]
    references: NDArray[np.int64]


_STYLE = {
    "fLineColor": 602,
    "fLineStyle": 1,
    "fLineWidth": 1,
    "fFillStyle": 1001,
    "fMarkerColor": 1,
    "fMarkerStyle": 1,
    "fMarkerSize": 1.0,
}
_AXIS_STYLE = {
    "fNdivisions": 510,
    "fAxisColor": 1,
    "fLabelColor": 1,
    "fLabelFont": 42,
    "fLabelOffset": 0.005,
    "fLabelSize": 0.035,
    "fTickLength": 0.03,
    "fTitleOffset": 1.0,
    "fTitleSize": 0.035,
    "fTitleColor": 1,
    "fTitleFont": 42,
}
_NO_AXIS = Axis.regular(1, 0, 1)


def _axis_values(axis: Axis, letter: str) -> dict[str, Any]:
    name = f"{letter}axis" if axis.name == "xaxis" else axis.name
    labels = [
        Instance("TObjString", {"fUniqueID": number, "fString": label})
        for number, label in enumerate(axis.labels, start=1)
        if label
    ]
    return {
        **_AXIS_STYLE,
        "fName": name,
        "fTitle": axis.title,
        "fNbins": axis.n_bins,
        "fXmin": axis.edges[0],
        "fXmax": axis.edges[-1],
        "fXbins": axis.edges if axis.variable else (),
        "fLabels": Instance("THashList", items=labels) if labels else None,
    }


def _histogram_values(stack: HistogramStack) -> dict[str, Any]:
    kind, n_cells = stack.kind, int(np.prod([axis.n_bins + 2 for axis in stack.axes]))
    axes = (*stack.axes, *[_NO_AXIS] * (3 - len(stack.axes)))

    def array(name: str) -> Slot | tuple[()]:
        return () if getattr(stack, name) is None else Slot(name, "f8", n_cells)

    values: dict[str, Any] = {
        **_STYLE,
        "fBits": 0x03000008,
        "fName": stack.me.rsplit("/", 1)[-1],
        "fTitle": stack.title,
        "fNcells": n_cells,
        "fBarWidth": 1000,
        "fEntries": Slot("entries", "f8"),
        "fMaximum": -1111.0,
        "fMinimum": -1111.0,
        "fScalefactor": 1.0,
        "fSumw2": array("sumw2"),
        "fStatOverflows": 2,  # as ROOT's own setting says
        "fArray": Slot("contents", KINDS[kind][1], n_cells),
    }
    values |= {
        f"f{x}axis": _axis_values(axis, x.lower()) for x, axis in zip("XYZ", axes, strict=True)
    }
    values |= {f"fT{name}": Slot(f"fT{name}", "f8") for name in statistics_names(kind)}
    if is_profile(kind):
        value_axis = "YZ"[len(stack.axes) - 1]
        values |= {
            "fBinEntries": array("sum_of_weights"),
            "fErrorMode": ERROR_MODES[stack.error_mode],
            f"f{value_axis}min": stack.value_range[0],
            f"f{value_axis}max": stack.value_range[1],
            "fBinSumw2": array("sum_of_weights_squared"),
        }
    return values


def template(stack: HistogramStack) -> Template:
    """The bytes that all histograms of ``stack`` share."""
    encoder = Encoder()
    if stack.kind in BARE:
        encoder.bare(stack.kind, _histogram_values(stack))
    else:
        name = stack.kind.encode()
        encoder.data += bytes([len(name)]) + name + b"\0"
        encoder.record(stack.kind, _histogram_values(stack))
    whole = np.frombuffer(bytes(encoder.data), dtype=np.uint8)
    pieces, begin = [], 0
    slots = sorted((position, slot) for slot, position in encoder.slots.items())
    for position, slot in slots:
        if position > begin:
            pieces.append((begin, whole[begin:position].copy()))
        begin = position + slot.count * np.dtype(slot.dtype).itemsize
    if begin < len(whole):
        pieces.append((begin, whole[begin:].copy()))
    return Template(
        len(whole),
        tuple(pieces),
        {slot.name: (position, slot) for position, slot in slots},
        np.array(encoder.tags, dtype=np.int64).reshape(-1, 2),
    )


def _encode(template: Template, stack: HistogramStack, rows: Any, out: Bytes) -> None:
    """Bytes of the histograms ``rows`` of ``stack`` into ``out``, ``(n, template.size)``."""
    for position, piece in template.pieces:
        out[:, position : position + len(piece)] = piece
    sums = {f"fT{name}": i for i, name in enumerate(statistics_names(stack.kind))}
    for name, (position, slot) in template.slots.items():
        source = stack.statistics[:, sums[name]] if name in sums else getattr(stack, name)
        values = source[rows]
        # ROOT's cells run along x first.
        cells = values.transpose(0, *range(values.ndim - 1, 0, -1))
        plain = np.ascontiguousarray(cells, dtype=f">{slot.dtype}").reshape(len(out), slot.count)
        raw = plain.view(np.uint8)
        out[:, position : position + raw.shape[1]] = raw


def scatter(
    template: Template, stack: HistogramStack, rows: Ints, data: Bytes, positions: Ints
) -> None:
    """Bytes of the histograms ``rows`` of ``stack`` into ``data``, each at its position."""
    strides = np.diff(positions)
    if len(rows) and (strides == strides[:1]).all():
        # The lumisections lie at equal distances: write them in place.
        stride = int(strides[0]) if len(strides) else template.size
        out = np.lib.stride_tricks.as_strided(
            data[int(positions[0]) :], (len(rows), template.size), (stride, 1)
        )
        _encode(template, stack, rows, out)
        return
    out = np.empty((len(rows), template.size), dtype=np.uint8)
    _encode(template, stack, rows, out)
    for position, row in zip(positions.tolist(), out, strict=True):
        data[position : position + template.size] = row
