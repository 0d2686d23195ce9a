"""Small archives to train on and to score, and scores put straight into the tables."""

import hashlib

import numpy as np
import sqlalchemy as sa

import ml4ad
from ml4ad import Axis, HistogramStack, dqmio, ingest
from ml4ad.detect import registry
from ml4ad.detect.nearest import NearestReference
from ml4ad.detect.scored import Row
from ml4ad.store import dimensions, schema, scoring

DATASET = "/ZeroBias/Run2024F-PromptReco-v1/DQMIO"
LINE, MAP, OTHER = "Pixel/Charge/layer_1", "Ecal/Occupancy/map", "Pixel/Charge/layer_2"


def histograms(me, run_number, *, n_ls=40, first_ls=1, entries=4000.0, n_bins=20, seed=0):
    """Good lumisections: a falling line, or a flat map for names that end in map."""
    named = int.from_bytes(hashlib.blake2b(me.encode(), digest_size=4).digest(), "big")
    rng = np.random.default_rng([seed, run_number, named, first_ls])
    x = np.linspace(0, 1, n_bins)
    shape = np.exp(-3 * x)
    axes = [Axis.regular(n_bins, 0, 10, title="charge [ke]")]
    if me.endswith("map"):
        shape = np.outer(shape, np.ones(6))
        axes.append(Axis.regular(6, -3, 3, title="phi"))
    means = entries * rng.normal(1, 0.1, n_ls)
    counts = rng.poisson(np.multiply.outer(means, shape / shape.sum()))
    return HistogramStack.from_arrays(
        counts.astype("f4"),
        axes,
        ls_numbers=np.arange(first_ls, first_ls + n_ls),
        run_number=run_number,
        me=me,
        dataset=DATASET,
    )


def with_hole(stack, first_ls, last_ls, bins=slice(4, 8)):
    """The stack with bins that are dead in these lumisections."""
    contents = stack.contents.copy()
    rows = (stack.ls_numbers >= first_ls) & (stack.ls_numbers <= last_ls)
    contents[rows, bins.start + 1 : bins.stop + 1] = 0
    return HistogramStack.from_arrays(
        contents,
        stack.axes,
        ls_numbers=stack.ls_numbers,
        run_number=stack.run_number,
        me=stack.me,
        dataset=DATASET,
    )


def put(archive, folder, *stacks, name="file"):
    """Write the stacks to a DQMIO file and take it in."""
    path = folder / f"{name}_{len(list(folder.iterdir()))}.root"
    dqmio.write(path, stacks, seed=1 + len(list(folder.iterdir())))
    (done,) = ingest.ingest(archive, [path], dataset=DATASET)
    assert done.state == "PROCESSED", done
    return path


def good_runs(archive, folder, mes=(LINE, MAP), runs=(1, 2, 3), **given):
    """Good runs of these elements in the archive."""
    for run_number in runs:
        put(archive, folder, *(histograms(me, run_number, **given) for me in mes))
    return archive


def quick():
    """A detector that is fitted in a moment."""
    return NearestReference()


# -- scores without detectors ----------------------------------------------------------------


def judged(url, log_p, *, mes=None, run_number=7, held=None, codes=None, name="model"):
    """An archive whose only model scored a run so: ``log_p`` is ``(n_mes, n_ls)`` from LS 1."""
    archive = ml4ad.connect(url)
    log_p = np.asarray(log_p, dtype=float)
    names = list(mes or [f"Pixel/e{i}" for i in range(len(log_p))])
    ls_numbers = np.arange(1, log_p.shape[1] + 1)
    here = ls_numbers if held is None else held
    dataset_id = dimensions.dataset_id(archive.engine, DATASET)
    me_ids = dimensions.me_ids(archive.engine, dict.fromkeys(names, "TH1F"))
    with archive.engine.begin() as connection:
        path = f"{name}.root"
        file_id = connection.scalar(
            sa.insert(schema.file)
            .values(dataset_id=dataset_id, path=path, size=1, mtime=1, state="PROCESSED")
            .returning(schema.file.c.file_id)
        )
        key = {"dataset_id": dataset_id, "run_number": run_number, "file_id": file_id}
        connection.execute(
            sa.insert(schema.lumisection),
            [{**key, "ls_number": int(n), "n_mes": 1} for n in here],
        )
        connection.execute(sa.insert(schema.run).values(key))
    model_id = registry.create(
        archive,
        quick(),
        name=name,
        patterns=["*"],
        datasets=[DATASET],
        selection={},
        false_alarms=1,
        seed=0,
    )
    with archive.engine.begin() as connection:
        for i, me in enumerate(names):
            connection.execute(
                sa.insert(scoring.model_element).values(
                    model_id=model_id, me_id=me_ids[me], artefact=b"x"
                )
            )
            if np.isnan(log_p[i]).all() and codes is None:
                continue
            own = np.where(np.isnan(log_p[i]), 3, 0) if codes is None else np.asarray(codes[i])
            row = Row(ls_numbers, ls_numbers, -log_p[i], log_p[i], own.astype(np.uint8))
            connection.execute(
                sa.insert(scoring.score).values(
                    model_id=model_id,
                    dataset_id=dataset_id,
                    run_number=run_number,
                    me_id=me_ids[me],
                    **row.as_columns(),
                )
            )
    registry.finish(archive, model_id, {})
    registry.activate(archive, model_id)
    return archive
