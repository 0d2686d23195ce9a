"""A detector that never existed: histograms, conditions and recorded faults from a seed."""

from ml4ad.simulate.campaign import (
    Campaign,
    Effect,
    campaign,
    demo_campaign,
    draw_faults,
    preset_campaign,
    run_stacks,
)
from ml4ad.simulate.elements import PRESETS, Element, catalogue, elements
from ml4ad.simulate.faults import FAULTS, Fault, Kind, bins_in, boxes, inject, place
from ml4ad.simulate.files import Record, generate
from ml4ad.simulate.lhc import ERAS, Run

__all__ = [
    "ERAS",
    "FAULTS",
    "PRESETS",
    "Campaign",
    "Effect",
    "Element",
    "Fault",
    "Kind",
    "Record",
    "Run",
    "bins_in",
    "boxes",
    "campaign",
    "catalogue",
    "demo_campaign",
    "draw_faults",
    "elements",
    "generate",
    "inject",
    "place",
    "preset_campaign",
    "run_stacks",
]
