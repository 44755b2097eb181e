from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from inlier.data.manifest import Manifest, Photo
from inlier.decision.intervals import Interval
from inlier.downstream import STRIDE, CopyScores, DevScores, labelled_dev
from inlier.errors import ConfigError, ManifestError
from inlier.features.backbone import Backbone
from inlier.gate import Gate, Measure, _by_anomalies, _by_copies, downstream_auroc, judge

QUICK: dict[str, dict[str, Any]] = {
    "input": {"size": 32},
    "backbone": {"precision": "float32"},
    "gate": {"detector": "photo-neighbors", "max_photos": 40},
    "photo-neighbors": {"layers": [1], "power": 1.0, "is_whitened": False},
}
"""One detector that looks at the maps of one layer, averaged."""


class Colours(Backbone):
    """A backbone whose only map is the photo's colours, each times a factor."""

    def __init__(self, *factors: float) -> None:
        torch.nn.Module.__init__(self)
        self.name, self.layers, self.precision = "colours", (1,), "float32"
        self.mean, self.std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        self.factors = torch.nn.Parameter(torch.tensor(factors))
        self.seen = 0

    def extract(self, images: Tensor) -> dict[int, Tensor]:
        self.seen += len(images)
        return {1: images * self.factors.detach()[:, None, None]}


SEES, IS_BLIND = (1.0, 1.0, 1.0), (0.0, 1.0, 0.05)  # the anomalies below are redder


def a_photo(path: Path, colour: tuple[float, float, float], **facts: Any) -> Photo:
    noise = np.random.default_rng(int(path.stem)).normal(0, 2, size=(40, 40, 3))
    Image.fromarray(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)).save(path)
    return Photo(path, **facts)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """30 normal photos to learn from, in dev 20 normal and 20 redder ones, and one in test that nobody may see."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    made = []
    for number in range(70):
        split = "train" if number < 30 else "dev"
        is_anomalous = number >= 50
        colour = (100 + rng.normal(0, 4) + 25 * is_anomalous, 100 + rng.normal(0, 4), 100 + rng.normal(0, 4))
        made.append(
            a_photo(folder / f"{number}.png", colour, split=split, is_anomalous=is_anomalous, group=f"part {number}")
        )
    return Manifest((*made, Photo(folder / "secret.png", "test", is_anomalous=True)))


def test_a_backbone_that_sees_the_damage_helps_and_one_that_is_blind_to_it_hurts(photos: Manifest) -> None:
    gate = judge(QUICK, photos, Colours(*IS_BLIND), Colours(*SEES))
    (measure,) = gate.measures
    assert (gate.verdict, measure.kind, gate.detector) == ("helps", "anomalies", "photo-neighbors")
    assert (measure.num_photos, measure.num_groups, gate.num_adapted_to) == (40, 40, 0)
    assert measure.gain.value == pytest.approx(measure.adapted - measure.frozen) and measure.gain.low > 0
    assert measure.adapted > 0.9 > 0.8 > measure.frozen
    reverse = judge(QUICK, photos, Colours(*SEES), Colours(*IS_BLIND))
    assert reverse.verdict == "hurts"
    (mirrored,) = reverse.measures
    assert mirrored.gain == Interval(-measure.gain.value, -measure.gain.high, -measure.gain.low)
    assert reverse.sentence.startswith(
        "The adapted backbone hurts photo-neighbors; AUROC on labelled photos of dev: 1.000 frozen, 0."
    )


def test_a_backbone_that_is_the_same_has_no_evidence(photos: Manifest) -> None:
    gate = judge(QUICK, photos, Colours(*SEES), Colours(*SEES))
    assert gate.verdict == "no evidence"
    assert gate.measures[0].gain == Interval(0.0, 0.0, 0.0)
    assert gate.sentence.startswith("There is no evidence that the adapted backbone helps photo-neighbors; AUROC on")
    assert "+0.0 points (95 %: +0.0 to +0.0; 40 photos of 40 groups)" in gate.sentence


def test_photos_that_it_was_adapted_to_are_counted_and_named(photos: Manifest) -> None:
    seen = [replace(photo, is_anomalous=None, label="") for photo in photos.select("dev").photos[:7]]
    gate = judge(QUICK, photos, Colours(*SEES), Colours(*SEES), adapted_to=(*seen, *photos.select("train").photos))
    assert gate.num_adapted_to == 7
    assert gate.sentence.endswith(" 7 of these photos were among those adapted to, without labels.")
    assert gate.to_json()["num_adapted_to"] == 7


def test_the_interval_reaches_as_far_as_the_test_and_the_bootstrap_do() -> None:
    rng = np.random.default_rng(1)
    photos = [Photo(Path(f"{n}"), "dev", is_anomalous=n % 2 == 1, group=f"part {n // 4}") for n in range(80)]
    flags = np.array([bool(photo.is_anomalous) for photo in photos])
    scores = rng.normal(size=(2, 80)) + np.array([[0.8], [1.3]]) * flags
    from inlier.decision.compare import compare_aurocs

    (_, _), (difference,) = compare_aurocs(scores, flags, [photo.group for photo in photos], seed=0)
    measure, note = _by_anomalies(DevScores(scores, photos), seed=0)
    assert difference.ahead == 1
    assert measure.gain.low == min(difference.gain.low, difference.resampled.low)
    assert measure.gain.high == max(difference.gain.high, difference.resampled.high)
    assert (note, measure.num_groups) == ("", 20)
    few = [replace(photo, group=f"part {n // 20}") for n, photo in enumerate(photos)]
    assert "only show a large difference" in _by_anomalies(DevScores(scores, few), seed=0)[1]


def test_equally_good_backbones_are_seldom_said_to_help_or_hurt() -> None:
    found = []
    for draw in range(20):
        rng = np.random.default_rng(draw)
        photos = [Photo(Path(f"{n}"), "dev", is_anomalous=n % 2 == 1, group=f"part {n // 4}") for n in range(80)]
        shared, flags = rng.normal(size=80), np.arange(80) % 2
        scores = 0.7 * shared + 0.7 * rng.normal(size=(2, 80)) + flags
        measure, _ = _by_anomalies(DevScores(scores, photos), seed=0)
        found.append(Gate("d", (measure,)).verdict)
    assert found.count("no evidence") >= 17


def a_measure(low: float, high: float) -> Measure:
    return Measure("altered copies", 0.5, 0.5 + (low + high) / 2, Interval((low + high) / 2, low, high), 20, 20)


@pytest.mark.parametrize(
    ("ends", "verdict"),
    [
        ([(0.01, 0.1)], "helps"),
        ([(0.0, 0.1)], "no evidence"),
        ([(-0.1, 0.0)], "no evidence"),
        ([(-0.1, -0.01)], "hurts"),
        ([(0.01, 0.1), (-0.1, 0.1)], "helps"),
        ([(0.01, 0.1), (-0.1, -0.01)], "hurts"),
        ([], "no evidence"),
    ],
)
def test_the_verdict_is_where_the_intervals_lie(ends: list[tuple[float, float]], verdict: str) -> None:
    assert Gate("combined", tuple(a_measure(*of) for of in ends)).verdict == verdict


@pytest.fixture(scope="module")
def patterned(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Manifest]:
    """Normal photos with a pattern, so that a piece in the wrong place shows: of two components, with no anomalies."""

    def make(num_train: int, num_dev: int, *, has_labels: bool = True) -> Manifest:
        folder, made = tmp_path_factory.mktemp("patterned"), []
        for number in range(num_train + num_dev):
            pixels = np.full((48, 48, 3), 90, dtype=np.float64)
            pixels[:, :24] = (160, 90, 90) if number % 2 else (90, 90, 160)
            pixels += np.random.default_rng(number).normal(0, 3, size=pixels.shape)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
            label = ("piston", "valve")[number % 2] if has_labels else ""
            made.append(
                Photo(
                    folder / f"{number}.png",
                    "train" if number < num_train else "dev",
                    label=label,
                    is_anomalous=False if has_labels else None,
                    group=f"part {number}",
                )
            )
        return Manifest(tuple(made))

    return make


def test_without_anomalies_copies_and_names_stand_in(patterned: Callable[..., Manifest]) -> None:
    data = patterned(14, 12)
    gate = judge(QUICK, data, Colours(*SEES), Colours(*SEES), adapted_to=data.select("train").photos)
    assert [(of.kind, of.num_photos, of.num_groups) for of in gate.measures] == [
        ("altered copies", 12, 12),
        ("component names", 12, 12),
    ]
    assert (gate.verdict, gate.num_adapted_to) == ("no evidence", 0)  # dev alone is judged, as it is enough
    assert gate.measures[1].frozen == 1.0
    assert "label some photos of dev, normal and anomalous ones" in gate.sentence
    assert gate.to_json()["measures"][0]["gain"]["value"] == 0


def test_with_few_dev_photos_all_are_judged_by_detectors_that_have_not_seen_them(
    patterned: Callable[..., Manifest],
) -> None:
    data = patterned(14, 4, has_labels=False)
    gate = judge(QUICK, data, Colours(*SEES), Colours(*SEES), adapted_to=data.select("train").photos)
    assert [(of.kind, of.num_photos) for of in gate.measures] == [("altered copies", 18)]
    assert gate.num_adapted_to == 14
    assert "14 of these photos were among those adapted to." in gate.sentence


def test_too_few_groups_judge_nothing_and_lose_nothing(patterned: Callable[..., Manifest]) -> None:
    gate = judge(QUICK, patterned(5, 2), Colours(*SEES), Colours(*SEES))
    assert (gate.verdict, gate.measures) == ("no evidence", ())
    assert gate.sentence == (
        "There is no evidence that the adapted backbone helps photo-neighbors. There is nothing to judge it by: dev "
        "has no labelled normal and anomalous photos, and the normal ones that could be read are of fewer than 10 "
        "groups, 7."
    )


def test_without_normal_photos_to_learn_from_nothing_is_judged(photos: Manifest) -> None:
    gate = judge(QUICK, Manifest(photos.select("dev").photos), Colours(*SEES), Colours(*SEES))
    assert gate.note == "There is nothing to judge it by: the split train has no normal photos."


def test_a_gain_on_copies_is_found_and_names_share_the_level() -> None:
    rng = np.random.default_rng(0)
    shift = np.arange(STRIDE) > 0
    scores = np.stack([rng.normal(size=(40, STRIDE)) + gain * shift for gain in (0.3, 3.0)])
    photos, groups = [Photo(Path(f"{n}"), "dev") for n in range(40)], [f"part {n}" for n in range(40)]
    rightly = np.array([[False] * 20 + [True] * 20, [True] * 39 + [False]])
    found = CopyScores(scores, photos, groups, np.zeros(40, dtype=np.int64), np.arange(40), rightly)
    copies, names = _by_copies(found, seed=0)
    assert copies.gain.low > 0 and copies.adapted > 0.9 > copies.frozen
    assert (names.frozen, names.adapted) == (0.5, 0.975)
    assert names.gain.value == pytest.approx(0.475) and names.gain.low > 0
    alone = found._replace(named=np.zeros(0, dtype=np.int64), is_named_rightly=np.zeros((2, 0), dtype=np.bool_))
    (single,) = _by_copies(alone, seed=0)
    assert copies.gain.low < single.gain.low  # two intervals that hold together are wider


def test_a_trial_is_judged_by_its_auroc_on_dev(photos: Manifest) -> None:
    gate = judge(QUICK, photos, Colours(*IS_BLIND), Colours(*SEES))
    assert downstream_auroc(QUICK, photos, Colours(*SEES)) == gate.measures[0].adapted
    assert downstream_auroc(QUICK, photos, Colours(*IS_BLIND)) == gate.measures[0].frozen
    normal = Manifest(tuple(photo for photo in photos.photos if photo.is_anomalous is False))
    with pytest.raises(ManifestError, match=r"^A trial is judged by labelled photos of dev, and it lacks normal or "):
        downstream_auroc(QUICK, normal, Colours(*SEES))


def test_only_photos_of_dev_whose_label_is_known_are_judged(photos: Manifest) -> None:
    some = [replace(photo, is_anomalous=None) for photo in photos.select("dev").photos[:5]]
    data = Manifest((*photos.select("train").photos, *some, *photos.select("dev").photos[5:]))
    assert len(labelled_dev(data)) == 35
    assert judge(QUICK, data, Colours(*SEES), Colours(*SEES)).measures[0].num_photos == 35


def test_no_more_normal_photos_are_looked_at_than_asked_and_photos_of_test_never(photos: Manifest) -> None:
    config = QUICK | {"gate": QUICK["gate"] | {"max_photos": 12}}
    backbone = Colours(*SEES)
    downstream_auroc(config, photos, backbone)
    assert backbone.seen == 12 + 40


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ({"detector": "patchcor"}, r"^inlier has no detector named patchcor; did you mean patchcore\?$"),
        ({"max_photos": 1}, r"^max_photos of \[gate\] must be greater than or equal to 2, got 1\.$"),
        ({"detectr": "combined"}, r"^\[gate\] has no key named detectr; did you mean detector\?$"),
        ({"detector": "patchcore"}, r"^The gate looks at layers \[1, 2, 3\], and colours has no \[2, 3\]\.$"),
    ],
)
def test_what_the_gate_cannot_use_is_one_sentence(photos: Manifest, section: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        judge(QUICK | {"gate": section}, photos, Colours(*SEES), Colours(*SEES))


def test_weights_that_changed_since_a_backbone_last_computed_count(photos: Manifest) -> None:
    sections: Mapping[str, Any] = QUICK | {"photo-neighbors": {"layers": [1, 2], "power": 1.0}}
    frozen = Backbone("resnet10t", layers=(1, 2), is_pretrained=False)
    adapted = copy.deepcopy(frozen)
    adapted.extract(torch.zeros(1, 3, 32, 32))  # keeps a copy of its weights
    with torch.no_grad():
        for parameter in adapted.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)), alpha=0.5)
    assert judge(sections, photos, frozen, adapted).measures[0].gain != Interval(0.0, 0.0, 0.0)
