"""Four short runs of a detector that never existed, the last with a fault, and their archive."""

import ml4ad
from ml4ad import conditions, detect, ingest, simulate
from ml4ad.ingest import take

DATASET = "/ZeroBias/Run2024F-PromptReco-v1/DQMIO"
LINE, MAP = "*/charge_PXLayer_1", "DT/*"
ME = "DT/02-Segments/Wheel0/numberOfSegments_W0"
RUNS = [382076, 382544, 382962, 383394]


def generate(folder):
    """Write their DQMIO files, and what else is known of them."""
    fault = simulate.Fault("hv_off", ME, RUNS[-1], 15, 10, strength=1.0, module="MB4_13")
    campaign = simulate.campaign(
        3, eras=["Run2024F"], runs=4, lumisections=30, elements=[LINE, MAP], faults=[fault]
    )
    simulate.generate(folder, campaign, files_per_run=1)


def fill(url, folder):
    """Take them into an archive, with a model at work and its scores."""
    with ml4ad.connect(url) as archive:
        assert {done.state for done in ingest.ingest(archive, [folder / "store"])} == {"PROCESSED"}
        for kind in ("conditions", "runs", "golden", "dcs"):
            conditions.load(archive, folder / f"{kind}.json")
        model = detect.train(archive, "*", DATASET, name="default", golden="golden")
        detect.activate(archive, model)
        detect.score(archive)
    # Nobody may be in a database that is copied.
    take.close_engines()
