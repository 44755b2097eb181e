from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from starlette.testclient import TestClient

from inlier.service import batching, inspecting
from inlier.service.refusals import Refusal
from inlier.service.settings import Limits

JPEG = {"content-type": "image/jpeg"}


class Gate:
    """Holds the only thread that inspects until it is opened; tells how many photos came together."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open, self.sizes = threading.Event(), list[int]()
        judge = batching.judge

        def held(jobs: list[Any]) -> None:
            self.sizes.append(len(jobs))
            assert self.open.wait(60)
            judge(jobs)

        monkeypatch.setattr(batching, "judge", held)
        monkeypatch.setattr(inspecting, "num_lanes", lambda: 1)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


def ask(client: TestClient, photo: bytes) -> Any:
    return client.post("/v1/inspect", content=photo, headers=JPEG)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_what_waits_is_inspected_together_and_more_is_told_to_come_back(
    make_client: Callable[..., TestClient], photos: list[bytes], gate: Gate
) -> None:
    client = make_client(limits=Limits(max_waiting=11))
    line = client.app.state.inspections.line  # type: ignore[attr-defined]
    with ThreadPoolExecutor(12) as pool:
        first = pool.submit(ask, client, photos[0])
        wait_for(lambda: gate.sizes == [1])
        others = [pool.submit(ask, client, photos[0]) for _ in range(10)]
        wait_for(lambda: line.num_waiting == 11 and line._inspect._queue.qsize() == 10)
        full = ask(client, photos[0])
        assert full.status_code == 429 and full.json()["error"]["code"] == "busy"
        assert int(full.headers["retry-after"]) >= 1
        gate.open.set()
        assert [of.result().status_code for of in (first, *others)] == [200] * 11
    assert gate.sizes == [1, 8, 2]
    assert line.num_waiting == 0
    assert ask(client, photos[0]).status_code == 200


def test_a_verdict_that_takes_too_long_is_503_and_frees_its_place(
    make_client: Callable[..., TestClient], photos: list[bytes], gate: Gate
) -> None:
    client = make_client(limits=Limits(answer_seconds=0.2))
    inspections = client.app.state.inspections  # type: ignore[attr-defined]
    late = ask(client, photos[0])
    assert late.status_code == 503 and late.json()["error"]["code"] == "timeout" and "retry-after" in late.headers
    gate.open.set()
    wait_for(lambda: inspections.line.num_waiting == 0)
    assert ask(client, photos[0]).status_code == 200


def test_stopping_finishes_what_was_taken_and_takes_no_more(
    make_client: Callable[..., TestClient], photos: list[bytes], gate: Gate
) -> None:
    client = make_client()
    line = client.app.state.inspections.line  # type: ignore[attr-defined]
    with ThreadPoolExecutor(1) as pool:
        taken = pool.submit(ask, client, photos[0])
        wait_for(lambda: gate.sizes == [1])
        line.is_stopping = True
        refused = ask(client, photos[0])
        assert refused.status_code == 503 and refused.json()["error"]["code"] == "stopping"
        assert client.get("/readyz").status_code == 503 and client.get("/healthz").status_code == 200
        closing = threading.Thread(target=line.close)
        closing.start()
        gate.open.set()
        assert taken.result().status_code == 200
        closing.join(60)
        assert not closing.is_alive()
    line.close = lambda: None  # it is


def test_a_bug_in_one_batch_ends_its_requests_only(
    make_client: Callable[..., TestClient], photos: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, judge = make_client(), batching.judge

    def fail(jobs: list[Any]) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(batching, "judge", fail)
    assert ask(client, photos[0]).status_code == 500
    monkeypatch.setattr(batching, "judge", judge)
    assert ask(client, photos[0]).status_code == 200


def test_a_verdict_that_cannot_be_recorded_is_not_given(
    make_client: Callable[..., TestClient], photos: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make_client()
    record = client.app.state.inspections.record  # type: ignore[attr-defined]
    written: list[object] = []

    def fail(rows: object) -> None:
        written.append(rows)
        raise Refusal(503, "The verdict cannot be recorded, so it is not given.", code="record_failed")

    monkeypatch.setattr(record, "write", fail)
    answer = ask(client, photos[0])
    assert answer.status_code == 503 and answer.json()["error"]["code"] == "record_failed" and written


def test_the_verdict_is_in_the_record_before_the_answer_leaves(
    make_client: Callable[..., TestClient], photos: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make_client()
    record = client.app.state.inspections.record  # type: ignore[attr-defined]
    write, order = record.write, list[str]()

    def slowly(rows: Any) -> None:
        time.sleep(0.2)
        write(rows)
        order.append("recorded")

    monkeypatch.setattr(record, "write", slowly)
    assert ask(client, photos[0]).status_code == 200
    order.append("answered")
    assert order == ["recorded", "answered"]


def test_batches_are_inspected_beside_each_other(
    make_client: Callable[..., TestClient], photos: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    both_at_work, judge = threading.Barrier(2), batching.judge

    def judged(jobs: list[Any]) -> None:
        both_at_work.wait(60)
        judge(jobs)

    monkeypatch.setattr(batching, "judge", judged)
    monkeypatch.setattr(inspecting, "num_lanes", lambda: 2)
    client = make_client()
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda photo: ask(client, photo), photos[:2]))
    assert [answer.status_code for answer in answers] == [200, 200]


def test_a_closed_loop_does_not_stop_the_line() -> None:
    """Nobody waits any more for a photo whose server is gone; the next one is served."""

    def gone() -> None:
        raise RuntimeError("Event loop is closed")

    async def main() -> int:
        line = batching.Line(Limits(), workers=1, record=lambda jobs: None)
        line.take(1)
        job = batching.Job("0", "a", b"", "ann", batching.Chain(None, {}))
        job.over = gone
        line._end(job)
        line.close()
        return line.num_waiting

    assert asyncio.run(main()) == 0
