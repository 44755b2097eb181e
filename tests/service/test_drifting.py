from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from inlier.decision.drift import Watch
from inlier.model import Model
from inlier.service.drifting import NUM_RECENT, Drift
from inlier.service.loaded import Loaded
from inlier.service.metrics import Metrics
from inlier.service.records import Record, Row


@pytest.fixture
def loaded(model: Model) -> Loaded:
    return Loaded("parts", model, model.identity)


def rows(loaded: Loaded, gaps: list[int], *, start: int = 0) -> list[Row]:
    """Verdicts on photos that fall into these gaps between the calibration scores."""
    size = loaded.num_calibration + 1
    return [
        Row(
            inspection=f"{start + number:032x}",
            step="condition",
            at=1.8e9 + 60 * (start + number),
            caller="app",
            photo="a.jpg",
            digest="d" * 64,
            kept=None,
            model=loaded.name,
            identity=loaded.identity,
            num_calibration=loaded.num_calibration,
            false_alarm_rate=0.05,
            score=0.0,
            p_value=(1 + gap) / size,
            verdict="reject" if (1 + gap) / size <= 0.05 else "accept",
        )
        for number, gap in enumerate(gaps)
    ]


def test_evidence_goes_on_after_a_restart_as_if_there_were_none(loaded: Loaded, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    gaps = random.integers(loaded.num_calibration + 1, size=120).tolist()
    record = Record(f"sqlite:///{tmp_path / 'record.db'}")
    one = Drift(record, Metrics())
    one.begin(loaded)
    first = rows(loaded, gaps[:70])
    record.write(first)
    one.see(first)
    other = Drift(record, Metrics())
    other.begin(loaded)
    second = rows(loaded, gaps[70:], start=70)
    record.write(second)
    for drift in (one, other):
        drift.see(second)
    (report,), (again,) = one.reports(), other.reports()
    assert report == again
    watch = Watch(loaded.num_calibration)
    watch.see_all([row.p_value for row in first + second if row.p_value])
    assert report["evidence"] == watch.evidence and report["num_photos"] == 120
    assert report["curve"][0][0] == 1 and report["curve"][-1][0] == 120
    assert sum(bin["count"] for bin in report["histogram"]) == 120
    assert sum(period["num_photos"] for period in report["periods"]) == 120
    assert report["alarm"] is None and report["sentence"].startswith("Quiet")
    record.close()


def test_a_change_rings_the_alarm_and_tells_when(loaded: Loaded, tmp_path: Path) -> None:
    record, metrics = Record(f"sqlite:///{tmp_path / 'record.db'}"), Metrics()
    drift = Drift(record, metrics)
    drift.begin(loaded)
    random = np.random.default_rng(1)
    normal = rows(loaded, random.integers(loaded.num_calibration + 1, size=60).tolist())
    changed = rows(loaded, [0] * 60, start=60)
    for part in (normal, changed):
        record.write(part)
        drift.see(part)
    (report,) = drift.reports()
    assert 60 < report["alarm"]["photo"] < 110
    assert report["first"] < report["alarm"]["at"] < report["last"]
    assert report["sentence"].startswith(f"The photos changed: the alarm rang at photo {report['alarm']['photo']}.")
    assert report["reject_share"]["p_value"] < 1e-6 and report["histogram"][0]["count"] > report["histogram"][0]["high"]
    assert b'inlier_drift_alarm{model="parts"} 1.0' in metrics.text()
    record.close()


def test_former_models_are_reported_from_the_record(loaded: Loaded, tmp_path: Path) -> None:
    record = Record(f"sqlite:///{tmp_path / 'record.db'}")
    record.write(rows(loaded, [3] * (NUM_RECENT + 10)))
    (report,) = Drift(record, Metrics()).reports()
    assert (report["num_photos"], report["num_recent"]) == (NUM_RECENT + 10, NUM_RECENT)
    assert len(report["curve"]) <= 200 and len(report["periods"]) <= 40
    record.close()


def test_the_page_and_json_show_it(make_client: Callable[..., TestClient], photos: list[bytes]) -> None:
    client = make_client()
    assert "No verdicts so far." in client.get("/drift").text
    for photo in photos:
        client.post("/v1/inspect", content=photo)
    (report,) = client.get("/v1/drift").json()["models"]
    assert report["num_photos"] == len(photos) and report["model"] == "parts"
    page = client.get("/drift").text
    assert report["identity"] in page and page.count("<svg") == 3 and "style=" not in page
