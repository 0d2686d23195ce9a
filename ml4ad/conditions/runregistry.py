"""Run Registry live: flags of components by lumisection, and how far certification is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ml4ad.conditions import record
from ml4ad.conditions.record import Conditions
from ml4ad.conditions.service import Access, Service, UnavailableError, access
from ml4ad.settings import Settings


class RunRegistryClient:
    """Run Registry behind an ``Access``."""

    def __init__(self, access: Access, *, page_size: int = 50) -> None:
        self._service = Service(access)
        self._page_size = page_size
        self.source = f"Run Registry {access.url}"

    def __enter__(self) -> RunRegistryClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self._service.close()

    def datasets(
        self, run_numbers: Iterable[int], *, dataset: str | None = None
    ) -> list[dict[str, Any]]:
        """Datasets of runs, as Run Registry gives them: ``run_number``, ``name``, attributes.

        Names are Run Registry's own, such as /PromptReco/Collisions2025/DQM. Raises ValueError if
        the answer has another shape or fewer datasets than it says; and as ``Service.post``.
        """
        wanted: dict[str, Any] = {
            "run_number": {"or": [{"=": int(run_number)} for run_number in run_numbers]}
        }
        if not wanted["run_number"]["or"]:
            return []
        if dataset is not None:
            wanted["name"] = {"=": dataset}
        found: list[dict[str, Any]] = []
        page, pages, count = 0, 1, 0
        while page < pages:
            answer = self._service.post(
                "datasets_filtered_ordered",
                {"page": page, "page_size": self._page_size, "filter": wanted, "sortings": []},
            )
            try:
                found += [{**entry} for entry in answer["datasets"]]
                pages, count = int(answer["pages"]), int(answer["count"])
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(
                    f"{self.source}: want datasets, pages and count, got {answer!r:.120}"
                ) from error
            page += 1
        if len(found) != count:
            raise ValueError(f"{self.source}: {len(found)} datasets: want {count}, as it said")
        return found

    def fetch(self, run_numbers: Iterable[int], *, dataset: str | None = None) -> Conditions:
        """Flags and states of all datasets of runs, or of one; raises as ``datasets``.

        The dataset "online" is that of the shifters during the run.
        """
        entries = self.datasets(run_numbers, dataset=dataset)
        for entry in entries:
            entry["ranges"] = self._service.post(
                "lumisections/rr_lumisection_ranges",
                {"run_number": entry.get("run_number"), "dataset_name": entry.get("name")},
            )
        return record.registry(entries, self.source)


def client(settings: Settings) -> RunRegistryClient:
    """Run Registry as the settings have it; raises UnavailableError if they name none."""
    if settings.runregistry_url is None:
        raise UnavailableError(
            "Run Registry is not configured: set runregistry_url (ML4AD_RUNREGISTRY_URL)"
        )
    url, audience = settings.runregistry_url, settings.runregistry_audience
    return RunRegistryClient(access(settings, "Run Registry", url, audience))
