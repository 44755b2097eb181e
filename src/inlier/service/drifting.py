"""Drift of each model in use: followed verdict by verdict, and laid out for the page and for JSON."""

from __future__ import annotations

import threading
from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inlier.decision.calibration import num_needed
from inlier.decision.drift import ALARM, Watch, expected_counts, gaps, reject_share, uniformity
from inlier.service.loaded import Loaded
from inlier.service.metrics import Metrics
from inlier.service.records import Record, Row, iso_time

NUM_RECENT = 500
"""Photos that "of late" means."""

NUM_BINS = 10
NUM_PERIODS = 40
MIN_PHOTOS = 20
"""Fewer say nothing, and are shown as they are."""

LEVEL = 0.01
"""p-value of a test of the latest photos below which the page points at it; only the watch rings an alarm."""

_NUM_POINTS = 200


class Drift:
    """The watches of all models, and what they are told."""

    def __init__(self, record: Record, metrics: Metrics) -> None:
        """Knows no model yet.

        Args:
            record: What was judged before.
            metrics: Told of each model after every transaction.
        """
        self._record, self._metrics = record, metrics
        self._watches: dict[tuple[str, str], Watch] = {}
        self._evidence: dict[tuple[str, str], array[float]] = {}  # after each photo
        self._recent: dict[tuple[str, str], deque[float]] = {}
        self._lock = threading.Lock()

    def begin(self, loaded: Loaded) -> None:
        """Takes up a model, with all that it judged before."""
        if not loaded.num_calibration:
            return
        key = loaded.name, loaded.identity
        with self._lock:
            if key in self._watches:
                return
            watch = self._watches[key] = Watch(loaded.num_calibration)
            rows = self._record.of_model(*key)
            self._evidence[key] = array("f", watch.see_all([p_value for _, p_value, _ in rows]))
            self._recent[key] = deque((verdict == "reject" for _, _, verdict in rows[-NUM_RECENT:]), NUM_RECENT)
            self._show(key)

    def see(self, rows: Sequence[Row]) -> None:
        """Follows verdicts that are recorded."""
        with self._lock:
            seen = set()
            for row in rows:
                key = row.model, row.identity
                if row.p_value is not None and key in self._watches:
                    self._watches[key].see(row.p_value)
                    self._evidence[key].append(self._watches[key].evidence)
                    self._recent[key].append(row.verdict == "reject")
                    seen.add(key)
            for key in seen:
                self._show(key)

    def reports(self) -> list[dict[str, Any]]:
        """What is known of each model that judged anything, the latest first."""
        return [
            self._report(*of)
            for of in self._record.models()
            if of[2]  # without calibration every p-value is 1
        ]

    def _show(self, key: tuple[str, str]) -> None:
        watch, recent = self._watches[key], self._recent[key]
        share = sum(recent) / len(recent) if recent else 0.0
        self._metrics.show_drift(
            key[0], reject_share=share, evidence=watch.evidence, is_alarm=watch.alarm_at is not None
        )

    def _report(self, model: str, identity: str, num_calibration: int, rate: float, count: int) -> dict[str, Any]:
        rows = self._record.of_model(model, identity)
        times, values = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
        with self._lock:
            watch, evidence = self._watches.get((model, identity)), self._evidence.get((model, identity))
        if watch is None or evidence is None:  # of a model that was in use once
            watch = Watch(num_calibration)
            evidence = array("f", watch.see_all(values.tolist()))
        recent = values[-NUM_RECENT:]
        share, (distance, chance) = (
            reject_share(recent, num_calibration, rate=rate),
            uniformity(recent, num_calibration),
        )
        counts = np.histogram(_bins(recent, num_calibration), np.arange(NUM_BINS + 1))[0]
        expected = expected_counts(len(recent), num_calibration, num_bins=NUM_BINS)
        return {
            "model": model,
            "identity": identity,
            "num_calibration": num_calibration,
            "num_photos": len(values),
            "num_recent": len(recent),
            "false_alarm_rate": rate,
            "first": iso_time(times[0]),
            "last": iso_time(times[-1]),
            "reject_share": asdict(share),
            "uniformity": {"distance": distance, "p_value": chance},
            "histogram": [
                {"from": k / NUM_BINS, "count": int(counts[k]), "mean": of[0], "low": of[1], "high": of[2]}
                for k, of in enumerate(expected)
            ],
            "periods": _periods(times, values, num_calibration, rate),
            "evidence": watch.evidence,
            "alarm_evidence": float(np.log10(ALARM)),
            "alarm": None
            if watch.alarm_at is None
            else {"photo": watch.alarm_at, "at": iso_time(times[min(watch.alarm_at, len(times)) - 1])},
            "curve": _thinned(evidence),
            "sentence": _sentence(watch, share.p_value, chance, len(recent), num_calibration, rate),
        }


def _bins(values: NDArray[np.float64], num_calibration: int) -> NDArray[np.int64]:
    """The bin of each p-value, by its upper end, as ``expected_counts`` counts."""
    upper = (gaps(values, num_calibration) + 1) / (num_calibration + 1)
    places: NDArray[np.int64] = np.ceil(upper * NUM_BINS - 1e-9).astype(np.int64)
    return np.minimum(places, NUM_BINS) - 1


def _periods(
    times: NDArray[np.float64], values: NDArray[np.float64], num_calibration: int, rate: float
) -> list[dict[str, Any]]:
    """The share rejected in each of some stretches of equally many photos, oldest first."""
    found = []
    for part in np.array_split(np.arange(len(values)), max(1, min(NUM_PERIODS, len(values) // MIN_PHOTOS))):
        share = reject_share(values[part], num_calibration, rate=rate)
        begin, end = iso_time(times[part[0]]), iso_time(times[part[-1]])
        found.append({"from": begin, "to": end, "num_photos": len(part), **asdict(share)})
    return found


def _thinned(evidence: Sequence[float]) -> list[tuple[int, float]]:
    """Points of a curve, the first and the last among them."""
    places = np.unique(np.linspace(0, len(evidence) - 1, min(_NUM_POINTS, len(evidence))).astype(int))
    return [(int(place) + 1, round(evidence[place], 3)) for place in places]


def _sentence(watch: Watch, share: float, chance: float, number: int, num_calibration: int, rate: float) -> str:
    """What to make of it, for a person."""
    if watch.alarm_at is not None:
        return (
            f"The photos changed: the alarm rang at photo {watch.alarm_at}. Look at what is rejected now; if it is "
            "normal, fit the model again with such photos."
        )
    if number < MIN_PHOTOS:
        return f"Too few photos to say anything: {number} so far."
    if num_calibration < num_needed(rate):
        return f"Quiet; but with {num_calibration} calibration photos none can be rejected at {rate:g}."
    if min(share, chance) < LEVEL:
        return f"No alarm, but the latest {number} photos look unusual; keep an eye on them."
    return f"Quiet: the latest {number} photos look like those of the calibration."
