"""What the answers of ``/api/v1/`` look like: for the documentation, as `cmsdials` reads them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, Field

Row = TypeVar("Row")
Number = Annotated[int, Field(ge=-(2**63) + 1, le=2**63 - 1)]


class Page(BaseModel, Generic[Row]):
    """Some rows of a list; ``next`` is the address of the following ones, or null at the end."""

    next: str | None
    previous: str | None
    results: list[Row]


class DatasetIndex(BaseModel):
    """A dataset."""

    dataset_id: int
    dataset: str
    era: str
    data_tier: str
    primary_ds_name: str
    processed_ds_name: str
    processing_version: int
    last_modification_date: datetime


class FileIndex(BaseModel):
    """A file, in DIALS' words."""

    dataset_id: int
    dataset: str
    file_id: int
    file_size: int
    creation_date: datetime
    last_modification_date: datetime
    logical_file_name: str
    status: str
    err_trace: str | None


class Run(BaseModel):
    """A run of a dataset; completeness is the part of its lumisections that is here."""

    dataset_id: int
    dataset: str
    run_number: int
    ls_count: int
    ls_completeness: float | None


class Lumisection(BaseModel):
    """A lumisection of a dataset, and how many histograms it has."""

    dataset_id: int
    dataset: str
    run_number: int
    ls_number: int
    th1_count: int
    th2_count: int


class Histogram1D(BaseModel):
    """A histogram or profile with one axis; what is not finite is 0."""

    dataset_id: int
    dataset: str
    file_id: int
    run_number: int
    ls_number: int
    me_id: int
    me: str
    entries: int
    x_min: float
    x_max: float
    x_bin: float
    data: list[float] = Field(description="x_bin values, without underflow and overflow")


class Histogram2D(BaseModel):
    """A map with two axes; what is not finite is 0."""

    dataset_id: int
    dataset: str
    file_id: int
    run_number: int
    ls_number: int
    me_id: int
    me: str
    entries: int
    x_min: float
    x_max: float
    x_bin: float
    y_min: float
    y_max: float
    y_bin: float
    data: list[list[float]] = Field(description="y_bin rows of x_bin values")


class Element(BaseModel):
    """A monitoring element; ``count`` histograms of it are in the archive."""

    me_id: int
    me: str
    count: int
    dim: int


class ModelIndex(BaseModel):
    """A version of a model."""

    id: int
    name: str
    revision: int
    type: str
    description: str
    ready: bool
    active: bool
    builtin_threshold: bool
    anomaly_threshold: float | None
    flagging_key: str | None
    metric_key: str | None
    input_signature: list[dict[str, Any]]
    output_signature: list[dict[str, Any]]
    tags: list[dict[str, Any]] | None
    isvc_service_name: str | None
    isvc_yaml: str | None
    created_at: datetime
    created_by: str
    modified_at: datetime
    modified_by: str


class BadLumisection(BaseModel):
    """A lumisection in which a model alarms; the metric is -log10 of its least p-value."""

    model_id: int
    dataset_id: int
    run_number: int
    ls_number: int
    metric_value: float


class Chosen(BaseModel):
    """Models, datasets and runs to certify."""

    model_id__in: list[Number] = Field(max_length=1000)
    dataset_id__in: list[Number] = Field(max_length=1000)
    run_number__in: list[Number] = Field(max_length=10_000)
