"""The routes that programs call: ``/v1``, and what tells whether the service is well."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import JSONResponse, Response

from inlier.service import schemas
from inlier.service.access import Caller, require
from inlier.service.inspecting import Inspections
from inlier.service.loaded import Loaded
from inlier.service.records import as_columns
from inlier.service.refusals import Refusal
from inlier.service.settings import FILTER, Settings
from inlier.service.uploads import FORM_TYPE, RAW_TYPES, Upload, received

_Inspecting = Annotated[Caller, Depends(require("inspect"))]
_Reviewing = Annotated[Caller, Depends(require("review"))]
_Admin = Annotated[Caller, Depends(require("admin"))]
_ModelQuery = Annotated[
    str | None, Query(description="Name of a model; left out, the filter chooses, or there is only one.")
]
_InspectionId = Annotated[str, Path(pattern="^[0-9a-f]{32}$")]
_PNG: dict[str, Any] = {"image/png": {"schema": {"type": "string", "format": "binary"}}}
_WEBP: dict[str, Any] = {"image/webp": {"schema": {"type": "string", "format": "binary"}}}


def _refused(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The answers of a route that are errors."""
    return {status: {"model": schemas.Error, "description": _WHY[status]} for status in (400, 421, *statuses)}


_WHY = {
    400: "The request is damaged.",
    401: "A key is needed.",
    403: "The key is good for something else.",
    404: "There is no such thing.",
    408: "The photo came too slowly.",
    413: "Too large, or too many.",
    415: "No type of picture.",
    421: "The service does not answer to this host name.",
    422: "The photo cannot be read, or a parameter is not valid.",
    429: "Too many photos; `Retry-After` says when to try again.",
    503: "Stopping, or no verdict in time; `Retry-After` says when to try again.",
}
_ACCESS = (401, 403)
_UPLOAD = (*_ACCESS, 404, 408, 413, 415, 422, 429, 503)
_FILE: dict[str, Any] = {"type": "string", "format": "binary", "contentMediaType": "image/*"}


def _body(name: str, schema: dict[str, Any], raw_types: tuple[str, ...]) -> dict[str, Any]:
    """The body of an upload, as OpenAPI says it."""
    form = {"schema": {"type": "object", "properties": {name: schema}, "required": [name]}}
    raw = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in raw_types}
    return {"requestBody": {"required": True, "content": {FORM_TYPE: form, **raw}}}


router = APIRouter()


def inspections_of(request: Request) -> Inspections:
    """What stands behind the routes of this app."""
    inspections: Inspections = request.app.state.inspections
    return inspections


@router.post(
    "/v1/inspect",
    response_model=schemas.Answer,
    responses={200: {"content": _PNG}, **_refused(*_UPLOAD)},
    openapi_extra=_body("photo", _FILE, RAW_TYPES),
    tags=["verdicts"],
)
async def inspect(
    request: Request,
    caller: _Inspecting,
    model: _ModelQuery = None,
    heatmap: Annotated[Literal["png"] | None, Query(description="png: the answer is the heatmap.")] = None,
) -> Response:
    """The verdict on one photo, sent as a file of a form or as the whole body."""
    jobs = await _judge(request, caller, model, is_batch=False)
    inspections, (job,) = inspections_of(request), jobs
    if job.error is not None:
        raise Refusal(422, f"The photo cannot be read: {job.error}.", code="unreadable")
    if heatmap is None:
        return JSONResponse(inspections.answer(job))
    heat = inspections.heat.get(job.id)
    if heat is None:
        raise Refusal(422, "This model has no heatmap.", code="no_heatmap")
    picture = await asyncio.to_thread(heat.png)
    answer = inspections.answer(job)
    headers = {"x-inspection": job.id, "x-verdict": answer["verdict"], "x-p-value": f"{answer['p_value']:.6g}"}
    return Response(picture, media_type="image/png", headers=headers)


@router.post(
    "/v1/inspect/batch",
    response_model=schemas.Batch,
    responses=_refused(*_UPLOAD),
    openapi_extra=_body("photos", {"type": "array", "items": _FILE, "minItems": 1}, ()),
    tags=["verdicts"],
)
async def inspect_batch(request: Request, caller: _Inspecting, model: _ModelQuery = None) -> Response:
    """The verdicts on several photos, the files of a form, in their order; one that cannot be read says why."""
    jobs = await _judge(request, caller, model, is_batch=True)
    return JSONResponse({"photos": [inspections_of(request).answer(job) for job in jobs]})


async def _judge(request: Request, caller: Caller, model: str | None, *, is_batch: bool) -> list[Any]:
    settings, inspections, began = _settings(request), inspections_of(request), time.perf_counter()
    inspections.line.check_open()
    inspections.models.chain(model)  # before a photo is read for a model that is not there
    inspections.rate.take(caller.name)
    async with received(request, settings.limits, inspections.room, is_batch=is_batch) as uploads:
        if len(uploads) > 1:
            inspections.rate.take(caller.name, len(uploads) - 1)
        jobs = await inspect_uploads(request, uploads, caller, model, began)
    return jobs


async def inspect_uploads(
    request: Request, uploads: list[Upload], caller: Caller, model: str | None, began: float
) -> list[Any]:
    """Judges what was received, and tells the log."""
    inspections = inspections_of(request)
    received_ms = 1000 * (time.perf_counter() - began)
    jobs = await inspections.inspect(uploads, caller=caller.name, model=model, received_ms=received_ms)
    answers = [(job.judge, job.condition or job.filter) for job in jobs]
    request.state.about = {
        "inspections": [job.id for job in jobs],
        "models": [judge.identity if judge else None for judge, _ in answers],
        "verdicts": [of.verdict.verdict if of else "unreadable" for _, of in answers],
    }
    return jobs


@router.get(
    "/v1/inspections/{inspection}",
    response_model=schemas.RecordedInspection,
    responses=_refused(*_ACCESS, 404, 422),
    tags=["record"],
)
def inspection_of_record(request: Request, caller: _Inspecting, inspection: _InspectionId) -> Response:
    """What the record has of an inspection: of your own, or with the scope admin of anybody's."""
    rows = inspections_of(request).record.find(inspection)
    if not rows or not (caller.may("admin") or rows[0].caller == caller.name):
        raise Refusal(404, "The record has no such inspection.")
    return JSONResponse({"verdicts": [as_columns(row) for row in rows]})


@router.get(
    "/v1/inspections/{inspection}/heatmap.png",
    response_class=Response,
    responses={200: {"content": _PNG, "description": "The photo under its heatmap."}, **_refused(*_ACCESS, 404, 422)},
    tags=["verdicts"],
)
def heatmap_of(request: Request, caller: _Inspecting, inspection: _InspectionId) -> Response:
    """The heatmap of one of the latest photos."""
    heat = inspections_of(request).heat_of(inspection, caller=caller.name, is_admin=caller.may("admin"))
    return Response(heat.png(), media_type="image/png", headers={"cache-control": "private, max-age=3600"})


@router.get("/v1/models", response_model=schemas.ModelList, responses=_refused(*_ACCESS, 422), tags=["models"])
async def models(request: Request, caller: _Inspecting) -> Response:
    """The models in use."""
    of = inspections_of(request).models
    has_filter = _settings(request).filter is not None
    return JSONResponse({"models": [_served(loaded, of.refused.get(loaded.name), has_filter) for loaded in of.all]})


@router.get(
    "/v1/models/{model}/references/{number}.webp",
    response_class=Response,
    responses={200: {"content": _WEBP, "description": "A thumbnail."}, **_refused(*_ACCESS, 404, 422)},
    tags=["models"],
)
async def reference(
    request: Request,
    caller: _Inspecting,
    model: str,
    number: Annotated[int, Path(ge=0, le=2**31 - 1)],
    identity: Annotated[str | None, Query(description="Digits of the model that the number is of.")] = None,
) -> Response:
    """A normal photo that the model learned from, small."""
    loaded = inspections_of(request).models.named(model)
    thumbnails = loaded.model.references.thumbnails
    if identity not in (None, loaded.identity) or number >= len(thumbnails) or not thumbnails[number]:
        raise Refusal(404, "There is no such picture; the model may have been replaced.")
    headers = {"cache-control": "private, max-age=3600"}
    return Response(thumbnails[number], media_type="image/webp", headers=headers)


@router.get("/v1/drift", response_model=schemas.DriftReports, responses=_refused(*_ACCESS, 422), tags=["record"])
def drift(request: Request, caller: _Reviewing) -> Response:
    """Whether photos changed since each model was calibrated; the page /drift shows the same."""
    return JSONResponse({"models": inspections_of(request).drift.reports()})


@router.get("/metrics", response_class=Response, include_in_schema=False)
def metrics(request: Request, caller: _Admin) -> Response:
    """For Prometheus."""
    text = inspections_of(request).metrics.text()
    return Response(text, headers={"content-type": CONTENT_TYPE_LATEST})


@router.get("/healthz", response_model=schemas.Health, responses=_refused(), tags=["health"])
async def health() -> Response:
    """That the process answers."""
    return JSONResponse({"status": "ok"})


@router.get(
    "/readyz",
    response_model=schemas.Readiness,
    responses={**_refused(), 503: {"model": schemas.Readiness, "description": "No verdict can be had."}},
    tags=["health"],
)
def readiness(request: Request) -> Response:
    """Whether verdicts can be had: models are loaded, the record can be reached, and the service is not stopping."""
    inspections = inspections_of(request)
    is_reachable = inspections.record.is_reachable()
    is_ready = is_reachable and not inspections.line.is_stopping
    content = {
        "status": "ready" if is_ready else "not ready",
        "models": {loaded.name: loaded.identity for loaded in inspections.models.all},
        "refused": dict(inspections.models.refused),
        "record": "ok" if is_reachable else "unreachable",
        "waiting": inspections.line.num_waiting,
    }
    return JSONResponse(content, status_code=200 if is_ready else 503)


def _served(loaded: Loaded, refused: str | None, has_filter: bool) -> dict[str, Any]:
    config = loaded.model.config
    return {
        "name": loaded.name,
        "identity": loaded.identity,
        "is_filter": has_filter and loaded.name == FILTER,
        "detector": config["fit"]["detector"],
        "backbone": config["backbone"]["name"],
        "components": list(loaded.model.components.names) if loaded.model.components else [],
        "num_calibration": loaded.num_calibration,
        "false_alarm_rate": config["decide"]["false_alarm_rate"],
        "uncertain_rate": config["decide"]["uncertain_rate"],
        "notes": list(loaded.model.notes),
        "refused": refused,
    }


def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings
