import os
import signal

import pytest

from ml4ad import cluster
from ml4ad.settings import ClusterSettings, Settings


def with_clusters(**clusters):
    return Settings(clusters={name: ClusterSettings(**c) for name, c in clusters.items()})


def test_local_workers_are_other_processes_and_stop_at_the_end():
    with cluster.client(Settings(), workers=2) as client:
        client.wait_for_workers(2, timeout=300)
        pids = set(client.run(os.getpid).values())
        assert len(pids) == 2
        assert os.getpid() not in pids
        kept = client.run(os.environ.get, "MALLOC_MMAP_THRESHOLD_")
        assert set(kept.values()) == {str(1 << 30)}
        # As Ctrl-C does, which is for the process that has the workers.
        for pid in pids:
            os.kill(pid, signal.SIGINT)
        assert set(client.run(os.getpid).values()) == pids
        address = client.scheduler.address
        with cluster.client(Settings(), scheduler=address) as second:
            assert second.submit(sum, [1, 2]).result(timeout=60) == 3
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_batch_system_is_configured_not_coded():
    settings = with_clusters(
        lxplus={
            "kind": "htcondor",
            "options": {
                "cores": 1,
                "memory": "2GB",
                "disk": "1GB",
                "job_extra_directives": {"+JobFlavour": "longlunch"},
            },
        },
        farm={"kind": "slurm", "options": {"cores": 4, "memory": "8GB", "walltime": "02:00:00"}},
    )
    assert "longlunch" in cluster.job_script(settings, "lxplus")
    script = cluster.job_script(settings, "farm")
    assert "#SBATCH --cpus-per-task=4" in script
    assert "02:00:00" in script


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({"name": "farm", "scheduler": "tcp://127.0.0.1:1"}, ValueError, "want one of them"),
        ({"name": "farm"}, KeyError, "no cluster 'farm' in settings; there: lxplus"),
        ({"workers": 0}, ValueError, "0 workers, want at least 1"),
        ({"name": "lxplus"}, ValueError, "kind 'pbs', want one of local"),
    ],
)
def test_a_cluster_that_does_not_exist_is_refused(more, error, message):
    settings = with_clusters(lxplus={"kind": "pbs"})
    with pytest.raises(error, match=message), cluster.client(settings, **more):
        pass


def test_only_batch_systems_have_a_job_script():
    with pytest.raises(ValueError, match="which has no job script"):
        cluster.job_script(with_clusters(here={}), "here")
    with pytest.raises(ValueError, match="want one of local"):
        cluster.build("cloud")
