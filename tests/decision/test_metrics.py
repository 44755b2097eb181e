from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

from inlier.decision.metrics import (
    flagged_share,
    image_ap,
    image_auroc,
    mean_roc_curve,
    roc_curve,
    shortcut_note,
    tpr_at_fpr,
    trivial_auroc,
    within_folds,
)

SCORES = np.array([0.1, 0.4, 0.4, 0.8, 0.4, 0.9], dtype=np.float32)
IS_ANOMALOUS = np.array([False, False, False, False, True, True])


def _photos(seed: int, num_decimals: int, num_photos: int = 300) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    is_anomalous = rng.random(num_photos) < rng.uniform(0.1, 0.9)
    is_anomalous[:2] = False, True
    scores = (rng.normal(size=num_photos) + is_anomalous).round(num_decimals)
    return scores.astype(np.float32), is_anomalous


many_photos = pytest.mark.parametrize(
    ("scores", "is_anomalous"),
    [_photos(seed, num_decimals) for seed in range(5) for num_decimals in (0, 1, 7)]
    + [(np.zeros(5, dtype=np.float32), np.array([True, False, True, True, False]))],
)


def test_auroc_by_hand() -> None:
    # 0.9 beats all four normal photos; 0.4 beats one and ties with two.
    assert image_auroc(SCORES, IS_ANOMALOUS) == (4 + 1 + 2 / 2) / 8


def test_average_precision_by_hand() -> None:
    # At 0.9 one of one, at 0.4 two of five.
    assert image_ap(SCORES, IS_ANOMALOUS) == pytest.approx((1 / 1 + 2 / 5) / 2)


def test_true_positive_rate_by_hand() -> None:
    for fpr, expected in ((0.0, 0.5), (0.25, 0.5), (0.74, 0.5), (0.75, 1.0), (1.0, 1.0)):
        assert tpr_at_fpr(SCORES, IS_ANOMALOUS, fpr=fpr) == expected


def test_one_of_twenty_normal_photos_may_be_flagged_at_five_percent() -> None:
    scores = np.append(np.arange(20.0), 18.5)
    is_anomalous = np.arange(21) == 20
    assert tpr_at_fpr(scores, is_anomalous) == 1.0
    assert tpr_at_fpr(scores[1:], is_anomalous[1:]) == 0.0


def test_roc_curve_by_hand() -> None:
    fpr, tpr, thresholds = roc_curve(SCORES, IS_ANOMALOUS)
    assert fpr.tolist() == [0, 0, 0.25, 0.75, 1]
    assert tpr.tolist() == [0, 0.5, 0.5, 1, 1]
    assert thresholds.tolist() == [np.inf, *SCORES[[5, 3, 1, 0]].tolist()]


@many_photos
def test_metrics_agree_with_scikit_learn(scores: np.ndarray, is_anomalous: np.ndarray) -> None:
    assert image_auroc(scores, is_anomalous) == pytest.approx(
        sklearn_metrics.roc_auc_score(is_anomalous, scores), abs=1e-9
    )
    assert image_ap(scores, is_anomalous) == pytest.approx(
        sklearn_metrics.average_precision_score(is_anomalous, scores), abs=1e-9
    )
    expected = sklearn_metrics.roc_curve(is_anomalous, scores, drop_intermediate=False)
    for ours, theirs in zip(roc_curve(scores, is_anomalous), expected, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-9)
    fpr, tpr, _ = expected
    assert tpr_at_fpr(scores, is_anomalous) == pytest.approx(tpr[fpr <= 0.05].max(), abs=1e-9)


@many_photos
def test_metrics_agree_with_torchmetrics(scores: np.ndarray, is_anomalous: np.ndarray) -> None:
    ranks = torch.tensor(np.unique(scores, return_inverse=True)[1] / 1000)  # it wants them in [0, 1]
    target = torch.tensor(is_anomalous.astype(np.int64))
    assert image_auroc(scores, is_anomalous) == pytest.approx(binary_auroc(ranks, target).item(), abs=1e-6)
    assert image_ap(scores, is_anomalous) == pytest.approx(binary_average_precision(ranks, target).item(), abs=1e-6)


def test_photo_order_changes_nothing() -> None:
    scores, is_anomalous = _photos(0, 1)
    order = np.random.default_rng(0).permutation(len(scores))
    for metric in (image_auroc, image_ap, tpr_at_fpr):
        assert metric(scores[order], is_anomalous[order]) == metric(scores, is_anomalous)


def test_perfect_separation_is_exactly_one() -> None:
    scores = np.arange(30, dtype=np.float32) / 7
    for metric in (image_auroc, image_ap, tpr_at_fpr):
        assert metric(scores, scores > 2) == 1.0


def test_flagged_share_by_hand() -> None:
    labels = ["good", "good", "good", "good", "crack", "scuffing"]
    # Lines at 1/8, 3/8, 5/8, 7/8 of the axis cross the ROC curve right of 0, 0.25, 0.25 and 0.75.
    shares = flagged_share(SCORES, IS_ANOMALOUS, labels, num_thresholds=4)
    assert shares == {"crack": 1 / 4, "good": (0 + 1 + 1 + 3) / 16, "scuffing": 1.0}
    # Lines at 1/4 and 3/4 meet points of the curve, and take them.
    shares = flagged_share(SCORES, IS_ANOMALOUS, labels, num_thresholds=2)
    assert shares == {"crack": 1 / 2, "good": (1 + 3) / 8, "scuffing": 1.0}


def test_flagged_share_agrees_with_drawing_the_lines() -> None:
    scores, is_anomalous = _photos(1, 1)
    labels = np.where(is_anomalous, np.where(scores > 1, "b", "c"), "a").tolist()
    fpr, _, thresholds = roc_curve(scores, is_anomalous)
    flagged: dict[str, list[bool]] = {"a": [], "b": [], "c": []}
    for k in range(100):
        left = max(i for i in range(len(fpr)) if fpr[i] <= (k + 0.5) / 100)
        for score, label in zip(scores, labels, strict=True):
            flagged[label].append(bool(score >= thresholds[left]))
    expected = {label: np.mean(values) for label, values in flagged.items()}
    assert flagged_share(scores, is_anomalous, labels) == pytest.approx(expected)


def test_half_of_many_normal_photos_are_flagged_and_of_anomalous_ones_their_auroc() -> None:
    scores, is_anomalous = _photos(2, 7, num_photos=20_000)
    shares = flagged_share(scores, is_anomalous, np.where(is_anomalous, "bad", "good").tolist())
    assert shares["good"] == pytest.approx(0.5, abs=1e-3)
    assert shares["bad"] == pytest.approx(image_auroc(scores, is_anomalous), abs=1e-3)


def test_the_best_trivial_statistic_counts_in_either_direction() -> None:
    is_anomalous = np.array([False, False, True, True])
    statistics = {
        "aspect": np.array([1.0, 1.0, 1.0, 1.0]),
        "edges": np.array([1.0, 2.0, 3.0, 1.5]),
        "brightness": np.array([4.0, 3.0, 3.5, 1.0]),
    }
    assert trivial_auroc(statistics, is_anomalous) == ("edges", 0.75)
    statistics["brightness"] = np.array([4.0, 3.0, 2.0, 1.0])
    assert trivial_auroc(statistics, is_anomalous) == ("brightness", 1.0)
    assert trivial_auroc({"aspect": statistics["aspect"]}, is_anomalous) == ("aspect", 0.5)


def test_photos_compare_only_within_their_fold() -> None:
    # In fold 0 both normal photos lie below the anomalous one, in fold 7, whose scores are higher, one of two does.
    scores = np.array([1.0, 2.0, 3.0, 11.0, 13.0, 12.0, 14.0, 99.0])
    is_anomalous = np.array([False, False, True, False, False, True, True, True])
    folds = np.array([0, 0, 0, 7, 7, 7, 7, 8])  # the last has no normal photo, and counts for nothing
    assert within_folds(image_auroc, scores, is_anomalous, folds) == (2 * 1 + 4 * 3 / 4) / 6
    assert within_folds(image_auroc, scores - 20 * folds, is_anomalous, folds) == (2 * 1 + 4 * 3 / 4) / 6
    assert np.isnan(within_folds(image_auroc, scores, is_anomalous, np.arange(8)))


def test_the_area_under_the_mean_curve_is_the_mean_area() -> None:
    rng = np.random.default_rng(0)
    for num_decimals in (0, 1, 7):
        scores, is_anomalous = _photos(3, num_decimals)
        folds = rng.integers(4, size=len(scores))
        fpr, tpr = mean_roc_curve(scores, is_anomalous, folds)
        assert (np.diff(fpr) >= 0).all() and (np.diff(tpr) > -1e-12).all()
        assert (fpr[0], tpr[0], fpr[-1]) == (0, 0, 1) and tpr[-1] == pytest.approx(1)
        expected = within_folds(image_auroc, scores, is_anomalous, folds)
        assert sklearn_metrics.auc(fpr, tpr) == pytest.approx(expected, abs=1e-12)


def test_the_mean_curve_by_hand() -> None:
    # Fold 0: up at once, then right. Fold 1: right to 1/2, up to 1/2, right to 1, up. Two pairs against four.
    scores = np.array([1.0, 0.0, 2.0, 3.0, 1.0, 2.0, 0.0])
    is_anomalous = np.array([False, False, True, False, False, True, True])
    folds = np.array([0, 0, 0, 1, 1, 1, 1])
    fpr, tpr = mean_roc_curve(scores, is_anomalous, folds)
    assert fpr.tolist() == [0, 0, 0.5, 0.5, 1, 1]
    assert tpr == pytest.approx([0, 1 / 3, 1 / 3, 2 / 3, 2 / 3, 1])


def test_flagged_shares_of_folds_are_their_own() -> None:
    scores, is_anomalous = _photos(4, 1)
    labels = np.where(is_anomalous, np.where(scores > 1, "b", "c"), "a").tolist()
    folds = np.arange(len(scores)) % 3
    shifted = scores + 10 * folds.astype(np.float32)
    expected: dict[str, float] = {}
    for fold in range(3):
        of_fold = folds == fold
        inside = [label for label, is_in in zip(labels, of_fold, strict=True) if is_in]
        for label, share in flagged_share(scores[of_fold], is_anomalous[of_fold], inside).items():
            expected[label] = expected.get(label, 0) + share * inside.count(label) / labels.count(label)
    assert flagged_share(shifted, is_anomalous, labels, folds=folds) == pytest.approx(expected, abs=1e-6)
    alone = flagged_share(scores, is_anomalous, labels, folds=np.where(np.arange(len(scores)) == 2, 1, 0))
    assert alone.keys() == {"a", "b", "c"}  # a fold of one photo has no curve, and that photo no share


AUROC = {"value": 0.912, "low": 0.881, "high": 0.94}


@pytest.mark.parametrize(
    ("trivial", "is_said"),
    [(0.7, False), (0.86, False), (0.87, True), (0.95, True)],  # 0.912 - 0.05 = 0.862; low is 0.881
)
def test_a_trivial_statistic_that_does_nearly_as_well_is_said(trivial: float, is_said: bool) -> None:
    note = shortcut_note(AUROC, {"statistic": "brightness", "auroc": trivial})
    assert (note is not None) == is_said
    if note:
        assert note.startswith(
            f"A trivial statistic of the photos (brightness) alone reaches an AUROC of {trivial:.3f}, against 0.912 "
            "here: the result may come from how the photos were taken"
        )


def test_a_wide_interval_that_reaches_the_trivial_statistic_is_said() -> None:
    wide = {"value": 0.9, "low": 0.6, "high": 0.97}
    assert "(edges) alone reaches" in (shortcut_note(wide, {"statistic": "edges", "auroc": 0.61}) or "")
    assert shortcut_note(None, None) is None


METRICS: list[Callable[..., object]] = [image_auroc, image_ap, tpr_at_fpr, roc_curve]


@pytest.mark.parametrize("metric", METRICS)
def test_photos_that_cannot_be_measured_are_refused(metric: Callable[..., object]) -> None:
    name = metric.__name__
    with pytest.raises(ValueError, match=rf"^{name} needs at least one normal and one anomalous photo, got 0 and 6\.$"):
        metric(SCORES, np.ones(6, dtype=bool))
    with pytest.raises(ValueError, match=rf"^{name} needs at least one normal and one anomalous photo, got 6 and 0\.$"):
        metric(SCORES, np.zeros(6, dtype=bool))
    with pytest.raises(ValueError, match=rf"^scores and is_anomalous of {name} must both .*, got \(6,\) and \(5,\)\.$"):
        metric(SCORES, IS_ANOMALOUS[:5])
    with pytest.raises(ValueError, match=rf"^is_anomalous of {name} must be bool, got int64\.$"):
        metric(SCORES, IS_ANOMALOUS.astype(np.int64))
    with pytest.raises(ValueError, match=rf"^scores of {name} must be finite, got 1 of 6 that are not\.$"):
        metric(np.where(SCORES > 0.8, np.nan, SCORES), IS_ANOMALOUS)


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"fpr of tpr_at_fpr must be in \[0, 1\], got 1\.5\."):
        tpr_at_fpr(SCORES, IS_ANOMALOUS, fpr=1.5)
    labels = ["a"] * 6
    with pytest.raises(ValueError, match=r"num_thresholds of flagged_share must be at least 1, got 0\."):
        flagged_share(SCORES, IS_ANOMALOUS, labels, num_thresholds=0)
    with pytest.raises(ValueError, match=r"labels of flagged_share must be one for each of 6 scores, got 5\."):
        flagged_share(SCORES, IS_ANOMALOUS, labels[:5])
    with pytest.raises(ValueError, match=r"flagged_share needs at least one normal and one anomalous"):
        flagged_share(SCORES, np.zeros(6, dtype=bool), labels)
    with pytest.raises(ValueError, match=r"statistics of trivial_auroc must hold at least one statistic"):
        trivial_auroc({}, IS_ANOMALOUS)
