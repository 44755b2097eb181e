"""The pages for a person: the start, with a photo to try; drift; logging in and out."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Annotated, Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import RedirectResponse, Response

from inlier.service.access import COOKIE, LOCAL, SESSION_SECONDS, Access, Caller, require
from inlier.service.api import inspect_uploads, inspections_of
from inlier.service.assets import render
from inlier.service.charts import evidence_chart, histogram_chart, periods_chart
from inlier.service.records import iso_time
from inlier.service.refusals import Refusal
from inlier.service.settings import FILTER, Settings
from inlier.service.uploads import received

_NUM_LATEST = 12
_MAX_FORM_BYTES = 4096
_PLACE = re.compile(r"/(?!/)[A-Za-z0-9/_-]*")

router = APIRouter(include_in_schema=False)

_Inspecting = Annotated[Caller, Depends(require("inspect"))]
_Reviewing = Annotated[Caller, Depends(require("review"))]
_NextQuery = Annotated[str, Query(alias="next", max_length=200)]


@router.get("/")
def start(request: Request, caller: _Inspecting) -> Response:
    """What is served, a photo to try, and the latest verdicts."""
    return render("service_index.html", **_frame(request, caller, "start"), **_overview(request, caller), tried=None)


@router.post("/")
async def try_photo(request: Request, caller: _Inspecting) -> Response:
    """The same, with the verdict on a photo."""
    settings: Settings = request.app.state.settings
    inspections, began = inspections_of(request), time.perf_counter()
    inspections.rate.take(caller.name)
    async with received(request, settings.limits, inspections.room, is_batch=False) as uploads:
        model = request.query_params.get("model") or None
        (job,) = await inspect_uploads(request, uploads, caller, model, began)
    values = await asyncio.to_thread(_overview, request, caller)
    frame = _frame(request, caller, "start")
    return render("service_index.html", **frame, **values, tried=inspections.answer(job))


@router.get("/drift")
def drift(request: Request, caller: _Reviewing) -> Response:
    """Whether photos changed since each model was calibrated."""
    reports = inspections_of(request).drift.reports()
    charts = [(report, periods_chart(report), histogram_chart(report), evidence_chart(report)) for report in reports]
    return render("service_drift.html", **_frame(request, caller, "drift"), charts=charts)


@router.get("/login")
async def login_page(request: Request, to: _NextQuery = "/") -> Response:
    """Asks for a key, or for a name where nobody needs a key."""
    access: Access = request.app.state.access
    return render("service_login.html", is_open=access.is_open, to=_place(to), problem="")


@router.post("/login")
async def log_in(request: Request) -> Response:
    """Gives the browser a cookie that stands for the key."""
    access: Access = request.app.state.access
    form = await _read_form(request)
    to = _place(form.get("next", "/"))
    try:
        _, cookie = access.log_in(form.get("key", "").strip())
    except Refusal as error:
        problem = str(error.detail)
        return render("service_login.html", status=error.status_code, is_open=access.is_open, to=to, problem=problem)
    answer = RedirectResponse(to, status_code=303)
    answer.set_cookie(COOKIE, cookie, max_age=SESSION_SECONDS, httponly=True, samesite="strict", secure=access.is_tls)
    return answer


@router.post("/logout")
async def log_out() -> Response:
    """Takes the cookie away."""
    answer = RedirectResponse("/login", status_code=303)
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return answer


def _frame(request: Request, caller: Caller, kind: str) -> dict[str, Any]:
    """What every page shows."""
    access: Access = request.app.state.access
    settings: Settings = request.app.state.settings
    return {
        "kind": kind,
        "caller": None if access.is_open and caller.name == LOCAL else caller.name,
        "has_review": settings.review is not None and caller.may("review"),
        "has_drift": caller.may("review"),
    }


def _overview(request: Request, caller: Caller) -> dict[str, Any]:
    """Models, and the latest verdicts that this caller may see."""
    settings: Settings = request.app.state.settings
    inspections = inspections_of(request)
    latest = inspections.record.latest(10 * _NUM_LATEST)
    rows = [row for _, row in latest if caller.may("admin") or row.caller == caller.name]
    has_filter = settings.filter is not None
    return {
        "models": [(of, has_filter and of.name == FILTER, of.model.notes) for of in inspections.models.all],
        "has_choice": len(inspections.models.all) > 1 and not has_filter,
        "latest": [(row, iso_time(row.at)[:19].replace("T", " ")) for row in rows[:_NUM_LATEST]],
        "refused": dict(inspections.models.refused),
    }


def _place(to: str) -> str:
    """Where to go after logging in: a page of this service, and no other site."""
    return to if _PLACE.fullmatch(to) else "/"


async def _read_form(request: Request) -> dict[str, str]:
    """The fields of a small form.

    Raises:
        Refusal: It is too large, or too slow.
    """
    settings: Settings = request.app.state.settings
    content = b""
    try:
        async with asyncio.timeout(settings.limits.body_seconds):
            async for chunk in request.stream():
                content += chunk
                if len(content) > _MAX_FORM_BYTES:
                    raise Refusal(413, "The form is too large.", closes=True)
    except TimeoutError as error:
        raise Refusal(408, "The form did not arrive in time.", closes=True) from error
    fields = parse_qs(content.decode("utf-8", errors="replace"), max_num_fields=10)
    return {name: values[0] for name, values in fields.items()}
