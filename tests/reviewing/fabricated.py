"""Reviews of photos that are not there, for the tests of what is decided on them."""

from __future__ import annotations

from pathlib import Path

from inlier.reviewing.decisions import Review, ReviewPhoto


def photo_of(number: int) -> ReviewPhoto:
    """Every third is rejected, every second taken for a valve; labels of 4 and 9 look wrong."""
    is_valve = number % 2 == 0
    return ReviewPhoto(
        number=number,
        path=f"/photos/{number}.jpg",
        split="dev" if number == 5 else "train",
        group="",
        digest=f"{number:064x}",
        given_label="valve" if is_valve else "pump",
        given_anomalous=False,
        score=float(number),
        p_value=1 / number,
        verdict="reject" if number % 3 == 0 else "accept",
        component="valve" if is_valve else None,
        component_probability=0.9 if is_valve else None,
        suspicion={4: 0.4, 9: 0.9}.get(number, 0.0),
        suspicion_reason={4: "It looks odd.", 9: "It looks very odd."}.get(number, ""),
        doubt=number * 7 % 10 / 10,
    )


def create(url: str, num_photos: int) -> Review:
    """A review of so many photos."""
    return Review.create(
        url,
        model=Path("/models/pumps"),
        identity="abcdefabcdef",
        data=Path("photos"),
        fingerprint="1" * 64,
        labels=["valve", "pump"],
        rates=(0.05, 0.2),
        photos=[photo_of(number) for number in range(1, num_photos + 1)],
    )
