"""Inspections: a photo of a request -> its verdicts, in the record -> the answer."""

from __future__ import annotations

import logging
import time
import uuid
from pathlib import PurePath
from typing import Any

from inlier.data.shares import num_lanes
from inlier.records import Evidence, Inspection
from inlier.service.batching import Job, Line
from inlier.service.drifting import Drift
from inlier.service.kept import Heat, HeatCache, PhotoFolder
from inlier.service.limits import Rate, Room
from inlier.service.loaded import Loaded, Models
from inlier.service.metrics import Metrics
from inlier.service.records import Record, Row
from inlier.service.refusals import Refusal
from inlier.service.settings import FILTER, Settings
from inlier.service.uploads import Upload

logger = logging.getLogger("inlier.service")

_OUTCOMES = {
    "accept": "looks like the normal photos",
    "uncertain": "looks unusual; a person should look at it",
    "reject": "looks unlike the normal photos",
}


class Inspections:
    """All that stands behind the routes: models, the line, the record, and what is kept.

    Attributes:
        models: Those in use.
        line: Photos that are worked on.
        record: Of all verdicts.
        heat: Of the latest photos.
        drift: Of each model.
        rate: Of each caller.
        room: For photos in memory.
        metrics: Told of all.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        """Opens the record, loads the models and starts the threads.

        Raises:
            InlierError: Something that it needs cannot be used.
        """
        self.metrics = metrics
        self.photos = PhotoFolder(settings.keep_photos) if settings.keep_photos else None
        self.record = Record(settings.record)
        self.drift = Drift(self.record, metrics)
        self.heat = HeatCache()
        self.rate, self.room = Rate(settings.limits.rate), Room(settings.limits.max_held_bytes)
        self.models = Models(settings, metrics, on_change=self.drift.begin)
        lanes = num_lanes() if settings.device == "cpu" else 1
        self.line = Line(settings.limits, workers=settings.workers, record=self._record_jobs, num_lanes=lanes)
        metrics.waiting.set_function(lambda: self.line.num_waiting)
        metrics.held.set_function(lambda: self.room.taken)

    async def inspect(self, uploads: list[Upload], *, caller: str, model: str | None, received_ms: float) -> list[Job]:
        """Judges photos, and returns once all verdicts are in the record.

        Args:
            uploads: The photos.
            caller: Who sent them.
            model: Name of the model asked for; None: as ``Models.chain`` chooses.
            received_ms: How long they took to arrive.

        Raises:
            Refusal: There is no such model, too many photos wait, it takes too long, or the service is stopping.
        """
        chain = self.models.chain(model)
        self.line.take(len(uploads))
        jobs = [Job(uuid.uuid4().hex, of.name, of.content, caller, chain) for of in uploads]
        for job in jobs:
            job.received_ms = received_ms
        await self.line.answer(jobs)
        return jobs

    def answer(self, job: Job) -> dict[str, Any]:
        """The answer on a photo, as ``schemas.Answer`` or ``schemas.Unreadable`` says."""
        if job.error is not None:
            return {"id": job.id, "photo": job.name, "verdict": "unreadable", "error": job.error}
        inspection, judge = _deciding(job)
        verdict = inspection.verdict
        part = None if job.filter is None else _part(job.filter, job.chain.filter)
        component = verdict.component or (part["component"] if part else None)
        return {
            "id": job.id,
            "photo": job.name,
            "verdict": verdict.verdict,
            "score": verdict.score,
            "p_value": verdict.p_value,
            "component": component,
            "component_probability": verdict.component_probability
            if verdict.component
            else (part["component_probability"] if part else None),
            "part": part,
            "message": _message(job, component),
            "reasons": [_reason(judge, reason) for reason in inspection.evidence],
            "model": {"name": judge.name, "identity": judge.identity},
            "heatmap": f"/v1/inspections/{job.id}/heatmap.png" if self.heat.get(job.id) else None,
            "timing_ms": job.timing_ms,
        }

    def heat_of(self, inspection: str, *, caller: str, is_admin: bool) -> Heat:
        """What the heatmap of an inspection is drawn from.

        Raises:
            Refusal: 404: there is none, any more, for this caller.
        """
        heat = self.heat.get(inspection)
        if heat is None or not (is_admin or heat.caller == caller):
            raise Refusal(404, "There is no heatmap of this inspection, or none any more.")
        return heat

    def close(self) -> None:
        """Finishes what was taken, and lets go of everything."""
        self.line.close()
        self.models.close()
        self.record.close()

    def _record_jobs(self, jobs: list[Job]) -> None:
        """Keeps and records photos that were judged, or could not be read: by the line's thread, before any answer."""
        rows: list[Row] = []
        now = time.time()
        for job in jobs:
            kept = None
            if self.photos is not None and job.content:
                try:
                    kept = self.photos.keep(job.digest, job.content)
                except OSError as error:
                    message = "The photo cannot be kept, so no verdict is given."
                    raise Refusal(503, message, code="record_failed", retry_seconds=5) from error
            rows += _rows(job, now, kept)
        self.record.write(rows)
        recorded = time.perf_counter()
        self.metrics.count_batch(min(len(jobs), 8))
        for row in rows:
            self.metrics.count_verdict(row.model, row.verdict)
        for job in jobs:
            job.recorded, job.content = recorded, b""
            self.metrics.time_stages({name: ms / 1000 for name, ms in job.timing_ms.items() if name != "total"})
            self._keep_heat(job)
        self.drift.see(rows)

    def _keep_heat(self, job: Job) -> None:
        if job.error is not None:
            return
        inspection, judge = _deciding(job)
        calibration = judge.model.calibration
        if inspection.pixels is None or inspection.anomaly_map is None or not len(calibration.map_maxima):
            return
        heat = Heat(inspection.pixels, inspection.anomaly_map, calibration.heat_scale(), job.caller)
        self.heat.put(job.id, heat)


def _deciding(job: Job) -> tuple[Inspection, Loaded]:
    """The inspection that the answer is about, and its model: the condition's, or else the filter's."""
    inspection = job.condition or job.filter
    assert inspection is not None and job.judge is not None
    return inspection, job.judge


def _part(seen: Inspection, loaded: Loaded | None) -> dict[str, Any]:
    assert loaded is not None
    verdict = seen.verdict
    return {
        "is_known": verdict.verdict != "reject",
        "verdict": verdict.verdict,
        "score": verdict.score,
        "p_value": verdict.p_value,
        "component": verdict.component if verdict.verdict != "reject" else None,
        "component_probability": verdict.component_probability if verdict.verdict != "reject" else None,
        "model": {"name": loaded.name, "identity": loaded.identity},
    }


def _message(job: Job, component: str | None) -> str:
    if job.filter is not None and job.filter.verdict.verdict == "reject":
        return "Not a part that we know."
    name = component or "The photo"
    if job.condition is None:
        return f"{name}: there is no model of its condition."
    return f"{name} {_OUTCOMES[job.condition.verdict.verdict]}."


def _reason(loaded: Loaded, reason: Evidence) -> dict[str, Any]:
    references = loaded.model.references
    has_picture = bool(references.thumbnails) and bool(references.thumbnails[reason.reference])
    picture = f"/v1/models/{loaded.name}/references/{reason.reference}.webp?identity={loaded.identity}"
    return {
        "box": list(reason.box),
        "reference": reason.reference,
        "reference_name": PurePath(references.names[reason.reference]).name,
        "reference_box": list(reason.reference_box),
        "distance": reason.distance,
        "reference_picture": picture if has_picture else None,
    }


def _rows(job: Job, now: float, kept: str | None) -> list[Row]:
    steps: list[tuple[str, Loaded, Inspection | None]] = []
    if job.error is not None:
        steps.append((FILTER if job.chain.filter else "condition", job.chain.all[0], None))
    if job.filter is not None and job.chain.filter is not None:
        steps.append((FILTER, job.chain.filter, job.filter))
    if job.condition is not None and job.judge is not None:
        steps.append(("condition", job.judge, job.condition))
    return [_row(job, now, kept, *step) for step in steps]


def _row(job: Job, now: float, kept: str | None, step: str, loaded: Loaded, inspection: Inspection | None) -> Row:
    verdict = inspection.verdict if inspection else None
    return Row(
        inspection=job.id,
        step=step,
        at=now,
        caller=job.caller,
        photo=job.name,
        digest=job.digest,
        kept=kept,
        model=loaded.name,
        identity=loaded.identity,
        num_calibration=loaded.num_calibration,
        false_alarm_rate=loaded.model.config["decide"]["false_alarm_rate"],
        score=verdict.score if verdict else None,
        p_value=verdict.p_value if verdict else None,
        verdict=verdict.verdict if verdict else "unreadable",
        component=verdict.component if verdict else None,
        component_probability=verdict.component_probability if verdict else None,
        error=job.error,
    )
