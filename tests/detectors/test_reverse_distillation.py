from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from inlier.detectors import reverse_distillation
from inlier.detectors.anomaly_map import smooth_map
from inlier.detectors.reverse_distillation import (
    LOSSES,
    NUM_TOGETHER,
    ReverseDistillation,
    combine_maps,
    cosine_distance,
    distillation_loss,
)
from inlier.features.cache import FeatureCache, FeatureSet

MakeFeatures = Callable[..., FeatureSet]
Maps = dict[int, Tensor]

SHAPES = {1: (5, 16, 16), 2: (6, 8, 8), 3: (10, 4, 4)}
SMALL: dict[str, Any] = {
    "num_samples": 320,
    "batch_size": 8,
    "width": 8,
    "student_rate": 2e-3,
    "map_size": 16,
    "sigma": 1.0,
}


def _photos(num_photos: int, *, seed: int) -> Maps:
    """Much the same in all cells of all photos, in a strength of each photo's own, and a little noise."""
    shared, own = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    strength = 0.5 + torch.rand(num_photos, 1, 1, 1, generator=own)
    maps = {}
    for layer, (depth, height, width) in SHAPES.items():
        pattern = torch.randn(1, depth, 1, 1, generator=shared)
        pattern = pattern + 0.2 * torch.randn(1, depth, height, width, generator=shared)
        maps[layer] = strength * pattern + 0.1 * torch.randn(num_photos, depth, height, width, generator=own)
    return maps


def _pairs(seed: int = 0) -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    teacher, student = (
        [torch.randn(2, *shape, generator=generator) for shape in SHAPES.values()] for _ in ("teacher", "student")
    )
    return teacher, student


def _slow_cosine(a: list[float], b: list[float]) -> float:
    dot, lengths = sum(x * y for x, y in zip(a, b, strict=True)), [math.sqrt(sum(x * x for x in v)) for v in (a, b)]
    return dot / (lengths[0] * lengths[1])


def test_distances_and_losses_are_the_papers_cell_by_cell() -> None:
    """Eq. 1 and 2 of the paper, and the loss of the authors' code, transcribed without a tensor operation."""
    teacher, student = _pairs()
    for photo in range(2):
        flattened, per_position = 0.0, 0.0
        for wanted, got in zip(teacher, student, strict=True):
            channels, height, width = wanted.shape[1:]
            total = 0.0
            for row in range(height):
                for column in range(width):
                    vectors = [
                        [float(of[photo, channel, row, column]) for channel in range(channels)] for of in (wanted, got)
                    ]
                    distance = 1 - _slow_cosine(*vectors)
                    assert float(cosine_distance(wanted, got)[photo, row, column]) == pytest.approx(distance, abs=1e-5)
                    total += distance
            per_position += total / (height * width)
            flattened += 1 - _slow_cosine(wanted[photo].flatten().tolist(), got[photo].flatten().tolist())
        for loss, expected in (("flattened", flattened), ("per-position", per_position)):
            found = distillation_loss(teacher, student, loss=loss)  # type: ignore[arg-type]
            assert float(found[photo]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_perfect_student_has_no_loss_and_an_opposite_one_the_most(loss: Any) -> None:
    teacher, _ = _pairs()
    assert distillation_loss(teacher, teacher, loss=loss).tolist() == pytest.approx([0, 0], abs=1e-5)
    opposite = [-features for features in teacher]
    assert distillation_loss(teacher, opposite, loss=loss).tolist() == pytest.approx([6, 6], abs=1e-5)


def test_lengths_of_cells_count_in_the_flattened_loss_alone() -> None:
    teacher = [torch.tensor([[[[1.0, 3.0]], [[0.0, 0.0]]]])]  # two cells, both to the right
    student = [torch.tensor([[[[1.0, 1.0]], [[0.0, 0.0]]]])]
    assert float(distillation_loss(teacher, student, loss="per-position")) == pytest.approx(0, abs=1e-6)
    expected = 1 - 4 / math.sqrt(10 * 2)
    assert float(distillation_loss(teacher, student, loss="flattened")) == pytest.approx(expected, abs=1e-6)


def test_maps_are_summed_or_multiplied_after_they_are_enlarged() -> None:
    fine = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    coarse = torch.tensor([[[10.0]]])
    summed = combine_maps([fine, coarse], combination="sum", size=2)
    product = combine_maps([fine, coarse], combination="product", size=2)
    assert summed.tolist() == [[[11.0, 12.0], [13.0, 14.0]]]
    assert product.tolist() == [[[10.0, 20.0], [30.0, 40.0]]]
    enlarged = combine_maps([fine], combination="sum", size=4)
    assert enlarged[0, 0].tolist() == [1.0, 1.25, 1.75, 2.0]  # bilinear, cells' centres kept


@pytest.fixture
def maps() -> Maps:
    """New photos; in photo 2 one corner of each layer is turned around."""
    maps = _photos(5, seed=2)
    for layer, (_, height, width) in SHAPES.items():
        maps[layer][2, :, : height // 4, : width // 4] *= -1
    return maps


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("layers", [(1, 2), (2, 3), (1, 2, 3)])
def test_an_odd_corner_stands_out_and_is_found(
    make_features: MakeFeatures, maps: Maps, layers: tuple[int, ...], loss: Any
) -> None:
    detector = ReverseDistillation(layers=layers, loss=loss, **SMALL).fit(make_features(_photos(24, seed=1)))
    prediction = detector.predict(maps)
    normal = prediction.score[[0, 1, 3, 4]]
    assert float(prediction.score[2]) > 1.2 * float(normal.max())
    assert prediction.anomaly_map is not None
    row, column = divmod(int(prediction.anomaly_map[2].argmax()), 16)
    assert row < 8 and column < 8


def test_training_lowers_the_loss_of_photos_that_were_held_out(
    make_features: MakeFeatures, monkeypatch: pytest.MonkeyPatch
) -> None:
    histories = []

    def spy(*arguments: Any, **keywords: Any) -> Any:
        histories.append(train(*arguments, **keywords))
        return histories[-1]

    train = reverse_distillation.train
    monkeypatch.setattr(reverse_distillation, "train", spy)
    detector = ReverseDistillation(layers=(2, 3), **SMALL)
    detector.fit(make_features(_photos(24, seed=1)))
    looks = [row["held_out_loss"] for row in histories[0] if "held_out_loss" in row]
    assert looks[-1] < 0.7 * looks[0]
    assert len(looks) == 20 and len(histories[0]) == 40
    detector.fit(make_features(_photos(24, seed=1), ["one", "two"] * 12))  # too few groups to hold one out
    assert not any("held_out_loss" in row for row in histories[1])


def test_the_map_is_the_sum_over_scoring_layers_and_the_score_its_pool(make_features: MakeFeatures, maps: Maps) -> None:
    features = make_features(_photos(8, seed=1))
    layers = (1, 2, 3)
    options = {**SMALL, "num_samples": 64}
    whole = ReverseDistillation(layers=layers, scoring_layers=layers, pooling="max", **options).fit(features)
    alone = {}
    for layer in layers:
        one = ReverseDistillation(layers=layers, scoring_layers=(layer,), pooling="max", **options)
        alone[layer] = one.load_state_dict(whole.state_dict()).predict(maps).anomaly_map
    prediction = whole.predict(maps)
    assert prediction.anomaly_map is not None
    assert torch.allclose(prediction.anomaly_map, sum(alone.values()), atol=1e-5)  # type: ignore[arg-type]
    assert torch.equal(prediction.score, prediction.anomaly_map.flatten(1).amax(dim=1))

    teacher = [maps[layer] for layer in layers]
    with torch.no_grad():
        student = whole.student_(whole.bottleneck_(teacher), [features.shape[-2:] for features in teacher])
    product = ReverseDistillation(
        layers=layers, scoring_layers=(1, 3), combination="product", pooling="mean", **options
    ).load_state_dict(whole.state_dict())
    first, third = (
        F.interpolate(cosine_distance(teacher[place], student[place])[:, None], size=(16, 16), mode="bilinear")[:, 0]
        for place in (0, 2)
    )
    expected = smooth_map(first * third, size=16, sigma=1.0)
    prediction = product.predict(maps)
    assert prediction.anomaly_map is not None
    assert torch.allclose(prediction.anomaly_map, expected, atol=1e-5)
    assert torch.allclose(prediction.score, expected.mean(dim=(1, 2)), atol=1e-5)


def test_of_three_layers_and_more_the_finest_does_not_score_unless_named() -> None:
    assert ReverseDistillation(layers=(1, 2, 3)).scoring_layers == (2, 3)
    assert ReverseDistillation(layers=(1, 2, 3, 4)).scoring_layers == (2, 3, 4)
    assert ReverseDistillation(layers=(4, 2)).scoring_layers == (2, 4)
    assert ReverseDistillation(layers=(3,)).scoring_layers == (3,)
    assert ReverseDistillation(layers=(1, 2, 3), scoring_layers=(3, 1)).scoring_layers == (1, 3)


def test_an_interrupted_fit_goes_on_and_ends_the_same(
    make_features: MakeFeatures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = make_features(_photos(12, seed=1))
    options = {"layers": (2, 3), **SMALL}
    whole = ReverseDistillation(**options).fit(features).state_dict()
    asked: list[int] = []

    def broken(*arguments: Any, **keywords: Any) -> Tensor:
        asked.append(0)
        if len(asked) == 30:
            raise KeyboardInterrupt
        return loss(*arguments, **keywords)

    loss = reverse_distillation.distillation_loss
    monkeypatch.setattr(reverse_distillation, "distillation_loss", broken)
    with pytest.raises(KeyboardInterrupt):
        ReverseDistillation(checkpoints=tmp_path, **options).fit(features)
    assert len(list(tmp_path.iterdir())) == 1
    resumed = ReverseDistillation(checkpoints=tmp_path, **options).fit(features).state_dict()
    assert 30 < len(asked) < 30 + 60  # of 40 steps and 20 looks some had been done
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_each_fold_and_each_setting_has_a_checkpoint_of_its_own(make_features: MakeFeatures, tmp_path: Path) -> None:
    features, others = make_features(_photos(12, seed=1)), make_features(_photos(12, seed=2))
    options = {"layers": (2, 3), **SMALL, "num_samples": 32, "checkpoints": tmp_path}
    ReverseDistillation(**options).fit(features)
    ReverseDistillation(**options).fit(features.select(list(reversed(range(12)))))  # the same photos
    assert len(list(tmp_path.iterdir())) == 1
    ReverseDistillation(**options).fit(features.select(range(11)))
    ReverseDistillation(**options).fit(others)
    ReverseDistillation(**{**options, "student_rate": 1e-3}).fit(features)
    detector = ReverseDistillation(**options, seed=1).fit(features)
    assert len(list(tmp_path.iterdir())) == 5
    detector.fit(features)  # what it has learned is no setting
    assert len(list(tmp_path.iterdir())) == 5


def test_the_seed_decides(make_features: MakeFeatures, maps: Maps) -> None:
    features = make_features(_photos(12, seed=1))
    options = {"layers": (2, 3), **SMALL, "num_samples": 64}
    first, again, other = (
        ReverseDistillation(**options, seed=seed).fit(features).predict(maps).score for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.allclose(first, other)


def test_networks_are_rebuilt_from_the_shapes_of_what_was_saved(make_features: MakeFeatures, maps: Maps) -> None:
    fitted = ReverseDistillation(layers=(1, 2, 3), **{**SMALL, "width": 7, "num_samples": 32})
    fitted.fit(make_features(_photos(4, seed=1)))
    other = ReverseDistillation(layers=(1, 2, 3), map_size=16, sigma=1.0).load_state_dict(fitted.state_dict())
    assert torch.equal(other.predict(maps).score, fitted.predict(maps).score)


@pytest.mark.parametrize(
    ("keywords", "sentence"),
    [
        ({"layers": (2, 2)}, "layers of ReverseDistillation must be different whole numbers from 1 on, got [2, 2]."),
        ({"scoring_layers": (1,)}, "scoring_layers of ReverseDistillation must be different ones of its layers, [2, 3"),
        ({"scoring_layers": (3, 3)}, "scoring_layers of ReverseDistillation must be different ones of its layers, [2"),
        ({"loss": "cosine"}, "loss of ReverseDistillation must be one of flattened, per-position, got 'cosine'."),
        ({"combination": "mean"}, "combination of ReverseDistillation must be one of sum, product, got 'mean'."),
        ({"pooling": "min"}, "pooling of ReverseDistillation must be one of max, mean, top, got 'min'."),
        ({"top_ratio": 0.0}, "top_ratio of ReverseDistillation must be in (0, 1], got 0.0."),
        ({"held_out_ratio": 1.0}, "held_out_ratio of ReverseDistillation must be in (0, 1), got 1.0."),
        ({"sigma": -1.0}, "sigma of ReverseDistillation must be at least 0, got -1.0."),
        ({"betas": (0.9,)}, "betas of ReverseDistillation must be two numbers in [0, 1), got [0.9]."),
        ({"betas": (0.9, 1.0)}, "betas of ReverseDistillation must be two numbers in [0, 1), got [0.9, 1.0]."),
        ({"bottleneck_rate": 0.0}, "bottleneck_rate of ReverseDistillation must be above 0, got 0.0."),
        ({"student_rate": math.inf}, "student_rate of ReverseDistillation must be above 0, got inf."),
        ({"cycle_factor": 0.5}, "cycle_factor of ReverseDistillation must be at least 1, got 0.5."),
        ({"batch_size": 0}, "batch_size of ReverseDistillation must be at least 1, got 0."),
        ({"num_samples": 0}, "num_samples of ReverseDistillation must be at least 1, got 0."),
        ({"map_size": 0}, "map_size of ReverseDistillation must be at least 1, got 0."),
        ({"width": 0}, "width of ReverseDistillation must be at least 1, got 0."),
        ({"patience": 0}, "patience of ReverseDistillation must be at least 1, got 0."),
        ({"seed": -1}, "seed of ReverseDistillation must be at least 0, got -1."),
    ],
)
def test_parameters_out_of_range_are_refused(keywords: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}"):
        ReverseDistillation(**keywords)


def test_photos_are_judged_a_few_at_a_time_and_as_they_would_be_alone(make_features: MakeFeatures) -> None:
    generator = torch.Generator().manual_seed(0)
    num_photos = NUM_TOGETHER + 3
    maps = {
        2: torch.rand(num_photos, 6, 8, 8, generator=generator),
        3: torch.rand(num_photos, 8, 4, 4, generator=generator),
    }
    detector = ReverseDistillation(layers=(2, 3), num_samples=32, width=8).fit(make_features(maps))
    together = detector.predict(maps).score
    singly = [{layer: of[place : place + 1] for layer, of in maps.items()} for place in range(num_photos)]
    alone = [detector.predict(one).score for one in singly]
    assert torch.allclose(together, torch.cat(alone), rtol=1e-5)


def test_whoever_watches_sees_a_detector_that_predicts_and_changes_nothing() -> None:
    maps = {2: torch.rand(4, 6, 8, 8), 3: torch.rand(4, 8, 4, 4)}
    seen: list[tuple[float, float]] = []

    def watch(detector: ReverseDistillation, share: float) -> None:
        seen.append((share, float(detector.predict(maps).score.mean())))

    with FeatureCache(dtype=torch.float32) as cache:
        cache.append(maps, groups=list("abcd"))
        plain = ReverseDistillation(layers=(2, 3), num_samples=160, batch_size=4).fit(cache.features())
        watched = ReverseDistillation(layers=(2, 3), num_samples=160, batch_size=4, watch=watch).fit(cache.features())
    assert [share for share, _ in seen] == pytest.approx([number / 20 for number in range(1, 21)])
    assert len({score for _, score in seen}) > 10
    assert torch.equal(plain.predict(maps).score, watched.predict(maps).score)
    assert seen[-1][1] == pytest.approx(float(watched.predict(maps).score.mean()), rel=1e-5)
