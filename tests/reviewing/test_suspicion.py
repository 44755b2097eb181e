from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from inlier.data.manifest import Photo
from inlier.reviewing.suspicion import Suspicion, suspect


def test_each_kind_of_suspicion_has_its_size_and_its_sentence() -> None:
    flags: list[tuple[str, bool | None]] = [("good", False), ("", None), ("crack", True), ("", True), ("good", False)]
    photos = [Photo(Path(f"{i}.jpg"), "train", label, flag) for i, (label, flag) in enumerate(flags)]
    found = suspect(
        photos,
        scores=np.array([9.0, 8.0, 1.0, 3.0, 2.0]),
        p_values=np.array([0.02, 0.02, 0.9, 0.4, 0.3]),
        embeddings=np.eye(5, dtype=np.float32),
        kin=[],
        rate=0.2,
    )
    assert [of.value for of in found] == pytest.approx([0.98, 0.98, 0.81, 0.0, 0.0])
    assert found[0].value > found[1].value  # of equal p-values the higher score goes first
    assert [of.reason for of in found] == [
        "It counts as normal, and looks odder than 98% of the normal photos.",
        "It counts as normal, and looks odder than 98% of the normal photos.",
        "It is labelled crack, and 90% of the normal photos look odder.",
        "",
        "",
    ]


def test_photos_deep_among_another_label_are_suspicious() -> None:
    rng = np.random.default_rng(0)
    labels = ["pump"] * 15 + ["valve"] * 15 + ["pump"]
    embeddings = rng.normal(scale=0.1, size=(31, 8)).astype(np.float32)
    embeddings[:15, 0] += 1
    embeddings[15:, 1] += 1
    photos = [Photo(Path(f"{i}.jpg"), "train", label, False) for i, label in enumerate(labels)]
    normal = np.full(31, 0.5)
    found = suspect(photos, scores=normal, p_values=normal, embeddings=embeddings, kin=[], rate=0.2)
    assert [i for i, of in enumerate(found) if "nearest are valve" in of.reason] == [30]
    assert max(range(31), key=lambda i: found[i].value) == 30
    assert found[30].value >= 0.95
    both = Suspicion(0.95, "It is labelled pump.") | Suspicion(0.5, "It is odd.")
    assert both.value == pytest.approx(0.975)
    assert both.reason == "It is labelled pump. It is odd."


def test_a_photo_far_from_all_else_is_suspicious_whatever_the_detector_says() -> None:
    rng = np.random.default_rng(1)
    embeddings = rng.normal(scale=0.1, size=(41, 8)).astype(np.float32) + np.eye(8, dtype=np.float32)[0]
    embeddings[40] = np.eye(8)[1]
    photos = [Photo(Path(f"{i}.jpg"), "train", "good", False) for i in range(41)]
    nothing = np.full(41, 0.5)
    found = suspect(photos, scores=nothing, p_values=nothing, embeddings=embeddings, kin=[], rate=0.2)
    assert max(range(41), key=lambda i: found[i].value) == 40
    assert found[40].value == pytest.approx(1 - 1 / 41)
    assert found[40].reason == "Even the photos most like it are less so than those of 98% of the others."
    assert sum(of.value > 0 for of in found) <= 9  # a share of the rate at most
    crack = [*photos[:40], Photo(Path("40.jpg"), "train", "crack", True)]
    found = suspect(crack, scores=nothing, p_values=nothing, embeddings=embeddings, kin=[], rate=0.2)
    assert "most like it" not in found[40].reason  # it is to be unlike the normal ones
