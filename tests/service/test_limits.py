from __future__ import annotations

import pytest

from inlier.service.limits import Rate, Room
from inlier.service.refusals import Refusal


def test_a_bucket_holds_two_seconds_worth_and_fills_at_its_rate() -> None:
    now = 100.0
    rate = Rate(5.0, clock=lambda: now)
    for _ in range(10):
        rate.take("app")
    rate.take("other", 10)  # has a bucket of its own
    with pytest.raises(Refusal, match="5 photos a second") as refused:
        rate.take("app", 3)
    assert refused.value.status_code == 429 and refused.value.headers == {"Retry-After": "1", "Connection": "close"}
    now += 0.75
    rate.take("app", 3)
    with pytest.raises(Refusal):
        rate.take("app")
    now += 1000
    rate.take("app", 10)
    with pytest.raises(Refusal):
        rate.take("app")


def test_a_slow_rate_says_when_to_come_back_and_none_bounds_nothing() -> None:
    rate = Rate(0.1, clock=lambda: 0.0)
    rate.take("app")
    with pytest.raises(Refusal) as refused:
        rate.take("app")
    assert refused.value.headers is not None and refused.value.headers["Retry-After"] == "10"
    Rate(None).take("app", 10**9)


def test_room_is_for_what_came_and_free_again_afterwards() -> None:
    room = Room(100)
    with room.hold() as one, room.hold() as other:
        one(60)
        other(40)
        assert room.taken == 100
        with pytest.raises(Refusal, match="being received") as refused:
            one(1)
        assert refused.value.status_code == 429
    assert room.taken == 0
