"""Learning part by part and forgetting: what must hold of every detector that can."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from inlier.build import DETECTORS
from inlier.detectors import patchcore as module
from inlier.detectors.combined import Combined
from inlier.detectors.patchcore import SPARE, PatchCore
from inlier.detectors.photo_neighbors import PhotoNeighbors
from inlier.detectors.protocol import Mergeable, can_merge, kept_numbers, mergeable
from inlier.detectors.reverse_distillation import ReverseDistillation
from inlier.errors import ConfigError, ModelError, NotFittedError
from inlier.features.cache import FeatureSet
from inlier.records import Prediction

MakeFeatures = Callable[..., FeatureSet]
Build = Callable[[], Mergeable]
Maps = dict[int, Tensor]

SHAPES = {2: (6, 8, 8), 3: (10, 4, 4)}
NUM_PHOTOS, NUM_FIRST = 40, 24
OPTIONS: dict[str, dict[str, Any]] = {"patchcore": {"coreset_ratio": 1.0, "max_bank_rows": 10_000}}
"""A bank that holds every patch is merged without loss."""

NAMES = sorted(name for name in DETECTORS if name not in ("reverse-distillation", "combined"))


def _photos(num_photos: int, *, seed: int) -> Maps:
    shared, own = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    return {
        layer: (
            2 * torch.rand(1, *shape, generator=shared) + 0.3 * torch.randn(num_photos, *shape, generator=own)
        ).clamp_min(0)
        for layer, shape in SHAPES.items()
    }


@pytest.fixture(params=NAMES)
def build(request: pytest.FixtureRequest) -> Build:
    def construct() -> Mergeable:
        options = OPTIONS.get(request.param, {})
        return mergeable(DETECTORS[request.param](layers=tuple(SHAPES), **options), name=request.param)

    return construct


@pytest.fixture
def photos(make_features: MakeFeatures) -> FeatureSet:
    """Photos of two classes."""
    return make_features(_photos(NUM_PHOTOS, seed=1), labels=["valve", "piston"] * (NUM_PHOTOS // 2))


@pytest.fixture(scope="module")
def maps() -> Maps:
    return _photos(6, seed=2)


def _same(found: Prediction, expected: Prediction, *, rtol: float) -> bool:
    return torch.allclose(found.score, expected.score, rtol=rtol) and _references(found) == _references(expected)


def _references(prediction: Prediction) -> list[list[int]]:
    return [[reason.reference for reason in reasons] for reasons in prediction.evidence or ()]


@pytest.mark.parametrize("cuts", [(0, 24, 40), (0, 1, 40), (0, 10, 17, 30, 40)])
def test_parts_merged_are_what_all_photos_together_are(
    build: Build, photos: FeatureSet, maps: Maps, cuts: tuple[int, ...]
) -> None:
    parts = [photos.select(range(start, stop)) for start, stop in pairwise(cuts)]
    merged = build().fit_part(parts[0])
    for part, start in zip(parts[1:], cuts[1:-1], strict=True):
        other = build().fit_part(part)
        before = other.predict(maps)
        assert merged.merge(other, num_photos=start) is merged
        assert _same(other.predict(maps), before, rtol=0)
    assert merged.finish() is merged
    assert _same(merged.predict(maps), build().fit(photos).predict(maps), rtol=2e-5)


def test_evidence_names_photos_of_both_parts(build: Build, photos: FeatureSet) -> None:
    merged = build().fit_part(photos.select(range(NUM_FIRST)))
    merged.merge(build().fit_part(photos.select(range(NUM_FIRST, NUM_PHOTOS))), num_photos=NUM_FIRST).finish()
    evidence = merged.predict(photos.read()).evidence
    if evidence is not None:
        assert [reasons[0].reference for reasons in evidence] == list(range(NUM_PHOTOS))


@pytest.mark.parametrize("gone", [(0,), (3, 38), tuple(range(0, 40, 3))])
def test_what_was_forgotten_never_was(build: Build, photos: FeatureSet, maps: Maps, gone: tuple[int, ...]) -> None:
    detector = build().fit(photos)
    features = None if detector.forgets_numbers else photos.select(gone)
    assert detector.remove(gone, features) is detector
    left = sorted({*range(NUM_PHOTOS)} - {*gone})
    assert _same(
        detector.predict(maps), build().fit(photos.select(left)).predict(maps), rtol=1e-6 if features else 2e-5
    )


def test_it_goes_on_learning_after_it_forgot_and_was_saved(build: Build, photos: FeatureSet, maps: Maps) -> None:
    detector = build().fit(photos.select(range(NUM_FIRST)))
    detector.remove([5, 6], photos.select([5, 6]))
    loaded = build().load_state_dict({name: tensor.clone() for name, tensor in detector.state_dict().items()})
    loaded.merge(build().fit_part(photos.select(range(NUM_FIRST, NUM_PHOTOS))), num_photos=NUM_FIRST - 2).finish()
    left = [place for place in range(NUM_PHOTOS) if place not in (5, 6)]
    assert _same(loaded.predict(maps), build().fit(photos.select(left)).predict(maps), rtol=2e-5)


def test_unfitted_ones_neither_merge_nor_forget(build: Build, photos: FeatureSet) -> None:
    fitted = build().fit(photos)
    for change in (
        lambda: build().merge(fitted, num_photos=0),
        lambda: fitted.merge(build(), num_photos=NUM_PHOTOS),
        lambda: build().finish(),
        lambda: build().remove([0], photos.select([0])),
    ):
        with pytest.raises(NotFittedError, match=r"is not fitted; call fit or load_state_dict first\.$"):
            change()


def test_forgetting_all_is_refused(build: Build, photos: FeatureSet) -> None:
    with pytest.raises(ValueError, match=r"must keep at least one photo, and was asked to forget all\.$"):
        build().fit(photos).remove(range(NUM_PHOTOS), photos)


def test_what_forgets_by_features_asks_for_them(build: Build, photos: FeatureSet) -> None:
    detector = build().fit(photos)
    if not detector.forgets_numbers:
        with pytest.raises(ValueError, match=r"forgets photos only when it is given their features again\.$"):
            detector.remove([0])


def _old(detector: Mergeable) -> dict[str, Tensor]:
    """What a model of an earlier version has saved."""
    news = ("seen_", "classes_", "background_", "weight_")
    return {name: of for name, of in detector.state_dict().items() if name.rpartition(".")[2] not in news}


def test_states_of_earlier_versions_score_as_ever(build: Build, photos: FeatureSet, maps: Maps) -> None:
    fitted = build().fit(photos)
    loaded = build().fit(photos.select([0])).load_state_dict(_old(fitted))  # which must not remember what it was
    assert _same(loaded.predict(maps), fitted.predict(maps), rtol=0)
    if isinstance(loaded, PatchCore | PhotoNeighbors):
        name = type(loaded).__name__
        with pytest.raises(ModelError, match=rf"^The saved {name} lacks \w+_; the model is damaged or of another ver"):
            loaded.remove([0])


def test_an_old_bank_merges_with_a_new_one(photos: FeatureSet, maps: Maps) -> None:
    first, second = photos.select(range(NUM_FIRST)), photos.select(range(NUM_FIRST, NUM_PHOTOS))

    def build() -> PatchCore:
        return PatchCore(layers=tuple(SHAPES), **OPTIONS["patchcore"])

    old = build().load_state_dict(_old(build().fit(first)))
    old.merge(build().fit_part(second), num_photos=NUM_FIRST).finish()
    assert _same(old.predict(maps), build().fit(photos).predict(maps), rtol=1e-6)
    assert old.seen_ is not None and old.seen_.tolist() == [NUM_PHOTOS, 64]
    unknown = build().load_state_dict(_old(build().fit(second)))
    with pytest.raises(ModelError, match=r"^The saved PatchCore lacks seen_;"):
        old.merge(unknown, num_photos=NUM_PHOTOS)


def _radius(rows: Tensor, bank: Tensor) -> float:
    return float(torch.cdist(rows.double(), bank.double()).amin(dim=1).max())


def _plain_greedy(rows: Tensor, num_rows: int) -> Tensor:
    """Algorithm 1 of Roth et al. (CVPR 2022), from the row nearest to the mean."""
    picks = [int((rows - rows.mean(dim=0)).norm(dim=1).argmin())]
    distances = (rows - rows[picks[0]]).norm(dim=1)
    while len(picks) < num_rows:
        picks.append(int(distances.argmax()))
        distances = torch.minimum(distances, (rows - rows[picks[-1]]).norm(dim=1))
    return rows[picks]


@pytest.mark.parametrize("num_parts", [2, 4, 8])
@pytest.mark.parametrize("options", [{"coreset_ratio": 0.1}, {"coreset_ratio": 1.0, "max_bank_rows": 100}])
def test_a_coreset_of_coresets_covers_nearly_as_well(
    make_features: MakeFeatures, num_parts: int, options: dict[str, Any]
) -> None:
    photos = make_features(_photos(64, seed=4))

    def build() -> PatchCore:
        return PatchCore(layers=tuple(SHAPES), distance="euclidean", **options)

    rows = PatchCore(layers=tuple(SHAPES), distance="euclidean", coreset_ratio=1.0).fit(photos).memory_bank_
    each = 64 // num_parts
    merged = build().fit_part(photos.select(range(each)))
    for start in range(each, 64, each):
        part = build().fit_part(photos.select(range(start, start + each)))
        assert len(part.memory_bank_) <= SPARE * part.max_bank_rows
        merged.merge(part, num_photos=start)
    bank = merged.finish().memory_bank_
    exact = _plain_greedy(rows, len(build().fit(photos).memory_bank_))
    assert len(bank) == len(exact)
    assert _radius(rows, bank) <= 1.3 * _radius(rows, exact)


def test_merged_banks_keep_to_the_memory_budget(photos: FeatureSet, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [
        PatchCore(layers=tuple(SHAPES), coreset_ratio=1.0, memory_budget_bytes=400_000).fit_part(photos.select([k]))
        for k in range(NUM_PHOTOS)
    ]
    capacity = 400_000 // module._row_bytes(16)
    merged = parts[0]
    for place, part in enumerate(parts[1:], 1):
        merged.merge(part, num_photos=place)
        assert len(merged.memory_bank_) <= capacity
    assert 64 * NUM_PHOTOS > capacity  # it had to
    places = merged.bank_places_
    patches = PatchCore(layers=tuple(SHAPES), coreset_ratio=1.0).fit(photos)
    order = patches.bank_places_.argsort()
    assert torch.equal(merged.memory_bank_, patches.memory_bank_[order][places])


def test_banks_of_other_photos_than_said_or_of_other_grids_are_refused(
    photos: FeatureSet, make_features: MakeFeatures
) -> None:
    def build() -> PatchCore:
        return PatchCore(layers=(2,))

    fitted = build().fit(photos)
    sentence = (
        r"^PatchCore can merge banks of the same width and cells only, and this one has learned 39 photos; got 64 c"
    )
    with pytest.raises(ValueError, match=sentence):
        fitted.merge(build().fit(photos), num_photos=39)
    other = build().fit(make_features({2: torch.rand(3, 6, 4, 4)}))
    with pytest.raises(ValueError, match=r"got 64 cells of 40 photos, width 6 and 16 cells of 3 photos, width 6\.$"):
        fitted.merge(other, num_photos=40)
    neighbors = PhotoNeighbors(layers=(2,)).fit(photos)
    with pytest.raises(
        ValueError, match=r"^PhotoNeighbors can merge photos of the same width only, and .* learned 40;"
    ):
        neighbors.merge(PhotoNeighbors(layers=(3,)).fit(photos), num_photos=40)


def test_a_bank_without_the_last_of_its_photos_is_refused(photos: FeatureSet) -> None:
    detector = PatchCore(layers=(2,), max_bank_rows=1).fit(photos)
    of_row = int(detector.bank_places_) // 64
    with pytest.raises(ValueError, match=r"^No patch of the photos that are left is in the bank of PatchCore; fit it"):
        detector.remove([of_row])


def test_more_photos_than_are_kept_pool_their_covariances(make_features: MakeFeatures, maps: Maps) -> None:
    """Beyond max_photos a merge is close to a fit on all, and far from one that forgot the rest."""
    photos = make_features(_photos(400, seed=5))

    def build() -> PhotoNeighbors:
        return PhotoNeighbors(layers=tuple(SHAPES), max_photos=120, num_neighbors=1)

    merged = build().fit(photos.select(range(200)))
    merged.merge(build().fit(photos.select(range(200, 400))), num_photos=200)
    whole = build().fit(photos)
    assert len(merged.photos_) == 120 and int(merged.seen_) == 400
    assert torch.allclose(merged.mean_, whole.mean_, atol=1e-6)
    expected, found = whole._covariance(), merged._covariance()
    assert abs(found - expected).max() < 0.05 * abs(expected).max()
    merged.remove([0, 399])
    assert int(merged.seen_) == 398 and int(merged.numbers_.max()) < 398
    assert abs(merged._covariance() - found).max() < 1e-6 * abs(found).max()


def test_a_background_counts_for_less_the_more_photos_are_learned(make_features: MakeFeatures, maps: Maps) -> None:
    everything = make_features(_photos(30, seed=6))
    background = everything.select(range(20, 30))
    photos = everything.select(range(20)).before(background)

    def build() -> PhotoNeighbors:
        return PhotoNeighbors(layers=tuple(SHAPES))

    merged = build().fit(photos.select(range(4)))
    merged.merge(build().fit(everything.select(range(4, 20))), num_photos=4)
    whole = build().fit(photos)
    assert merged.towards_.any()
    assert torch.allclose(merged.towards_, whole.towards_, atol=1e-4)
    assert _same(merged.predict(maps), whole.predict(maps), rtol=1e-4)


def test_combined_merges_its_members_and_weighs_their_spreads(photos: FeatureSet, maps: Maps) -> None:
    def build() -> Combined:
        members = [PatchCore(layers=(2,), **OPTIONS["patchcore"]), PhotoNeighbors(layers=(3,))]
        return Combined(members)

    first, second = build().fit_part(photos.select(range(30))), build().fit_part(photos.select(range(30, 40)))
    alone = build().fit_part(photos.select([7]))  # of one photo no spread is known
    centers = 0.75 * first.centers_ + 0.25 * second.centers_
    scales = (0.75 * first.scales_**2 + 0.25 * second.scales_**2).sqrt()
    assert first.forgets_numbers
    assert first.merge(second, num_photos=30).finish() is first
    assert torch.allclose(first.centers_, centers) and torch.allclose(first.scales_, scales)
    assert first.weight_ is not None and first.weight_.tolist() == [40]
    for member, whole in zip(first.members, build().fit(photos).members, strict=True):
        assert _same(member.predict(maps), whole.predict(maps), rtol=2e-5)
    first.merge(alone, num_photos=40)
    assert torch.allclose(first.centers_, centers) and torch.allclose(first.scales_, scales)
    first.remove([40]).remove(range(30, 40))
    rest = build().fit(photos.select(range(30)))
    for member, whole in zip(first.members, rest.members, strict=True):
        assert _same(member.predict(maps), whole.predict(maps), rtol=2e-5)


def test_an_old_combined_counts_its_photos(photos: FeatureSet) -> None:
    def build() -> Combined:
        return Combined([PatchCore(layers=(2,))])

    fitted, other = build().fit(photos), build().fit_part(photos.select(range(10)))
    old = build().load_state_dict(_old(fitted))
    old.merge(other, num_photos=40)
    assert torch.allclose(old.centers_, 0.8 * fitted.centers_ + 0.2 * other.centers_)


def test_what_learns_from_all_at_once_says_so() -> None:
    sentence = r"^reverse-distillation learns from all photos at once: it can neither .* and a combined of these can\.$"
    detector = ReverseDistillation(layers=(2, 3))
    assert not can_merge(detector) and not can_merge(Combined([PatchCore(), detector]))
    assert can_merge(Combined([PatchCore()]))
    with pytest.raises(ConfigError, match=sentence):
        mergeable(detector, name="reverse-distillation")


def test_numbers_close_up() -> None:
    assert kept_numbers([0, 3], 5, owner="It").tolist() == [-1, 0, 1, -1, 2]
    assert kept_numbers([], 2, owner="It").tolist() == [0, 1]
    with pytest.raises(ValueError, match=re.escape("It has learned photos 0 to 4, and cannot forget 5.")):
        kept_numbers([5], 5, owner="It")
