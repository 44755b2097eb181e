"""What the service answers, as its OpenAPI document says it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Shares = Annotated[list[float], Field(min_length=4, max_length=4)]


class Sealed(BaseModel):
    """An answer without further fields."""

    model_config = ConfigDict(extra="forbid")


class ErrorDetail(Sealed):
    """Why there is nothing else."""

    code: str = Field(description="A word for programs.")
    message: str = Field(description="A sentence for people.")
    request_id: str = Field(description="By which the service's log knows the request.")


class Error(Sealed):
    """The answer to whatever is not carried out."""

    error: ErrorDetail


class ModelId(Sealed):
    """Which model it was."""

    name: str
    identity: str = Field(description="Digits that change with anything that changes a score.")


class Reason(Sealed):
    """A place in the photo, and the most similar place in a normal photo."""

    box: Shares = Field(description="Left, top, right, bottom, as shares of width and height.")
    reference: int = Field(description="Number of the normal photo that the model learned from.")
    reference_name: str
    reference_box: Shares
    distance: float = Field(description="How different the two are; larger is more anomalous.")
    reference_picture: str | None = Field(description="Link to a thumbnail of the normal photo.")


class Part(Sealed):
    """What the filter before the models says: is it a part that we inspect, and which?"""

    is_known: bool
    verdict: Literal["accept", "uncertain", "reject"]
    score: float
    p_value: float
    component: str | None
    component_probability: float | None
    model: ModelId


class Timing(Sealed):
    """Milliseconds."""

    receive: float
    decode: float
    wait: float
    inspect: float
    record: float
    total: float


class Answer(Sealed):
    """The verdict on one photo."""

    id: str = Field(description="Of this inspection; it finds the verdict in the record.")
    photo: str = Field(description="What you called it.")
    verdict: Literal["accept", "uncertain", "reject"]
    score: float = Field(description="Raw; higher is more anomalous.")
    p_value: float = Field(description="Share of calibration photos at least this anomalous, in (0, 1].")
    component: str | None = Field(description="The most similar class of normal photos.")
    component_probability: float | None
    part: Part | None = Field(description="Where a filter stands before the models: what it says.")
    message: str = Field(description="The outcome in a sentence.")
    reasons: list[Reason]
    model: ModelId
    heatmap: str | None = Field(description="Link to the heatmap, for a while; null where there is none.")
    timing_ms: Timing


class Unreadable(Sealed):
    """A photo of several that could not be read."""

    id: str
    photo: str
    verdict: Literal["unreadable"]
    error: str


class Batch(Sealed):
    """The outcome of each photo, in the order sent."""

    photos: list[Answer | Unreadable]


class ServedModel(Sealed):
    """A model in use."""

    name: str
    identity: str
    is_filter: bool
    detector: str
    backbone: str
    components: list[str]
    num_calibration: int
    false_alarm_rate: float
    uncertain_rate: float
    notes: list[str]
    refused: str | None = Field(description="Why what lies in its folder now is not used.")


class ModelList(Sealed):
    """All models in use."""

    models: list[ServedModel]


class RecordedVerdict(Sealed):
    """A row of the record."""

    inspection: str
    step: Literal["filter", "condition"]
    at: str
    caller: str
    photo: str
    digest: str
    kept: str | None
    model: str
    identity: str
    num_calibration: int
    false_alarm_rate: float
    score: float | None
    p_value: float | None
    verdict: str
    component: str | None
    component_probability: float | None
    error: str | None


class RecordedInspection(Sealed):
    """All verdicts of an inspection: the filter's, and that of the model behind it."""

    verdicts: list[RecordedVerdict]


class DriftReports(BaseModel):
    """How the verdicts of each model look against its calibration."""

    models: list[dict[str, Any]]


class Health(Sealed):
    """That the process answers."""

    status: Literal["ok"]


class Readiness(Sealed):
    """Whether verdicts can be had."""

    status: Literal["ready", "not ready"]
    models: dict[str, str] = Field(description="Digits of each.")
    refused: dict[str, str] = Field(description="Folders whose content is not used, with the reason.")
    record: Literal["ok", "unreachable"]
    waiting: int
