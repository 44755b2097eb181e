from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from inlier import selection
from inlier.data.manifest import Manifest
from inlier.decision.intervals import Interval
from inlier.errors import ConfigError, ManifestError
from inlier.model import Model
from inlier.selection import MIN_GROUPS, Selection, Trial, lead, select
from inlier.workflow import fit

Scores = NDArray[np.float32]

CONFIG: dict[str, dict[str, Any]] = {
    "input": {"size": 64},
    "backbone": {"precision": "float32"},
    "fit": {"detector": "baseline"},
    "select": {"candidates": ["photo-subspace"]},
}
"""Detectors that need no patches, so that a test takes a second."""


def drawn_scores(num_photos: int, *, gap: float, seed: int) -> Scores:
    """Of photos and two copies each, which score higher by about the gap."""
    scores = np.random.default_rng(seed).normal(size=(num_photos, 3)).astype(np.float32)
    scores[:, 1:] += gap
    return scores


def names(num_photos: int, *, per_group: int) -> list[str]:
    return [f"part-{number // per_group:03d}" for number in range(num_photos)]


def auroc_by_pairs(scores: Scores, folds: NDArray[np.int64]) -> float:
    """scikit-learn's in each fold, each counting as much as it has pairs."""
    total = pairs = 0.0
    for fold in np.unique(folds):
        own, copies = scores[folds == fold, 0], scores[folds == fold, 1:].ravel()
        flags = np.repeat([0, 1], [len(own), len(copies)])
        total += len(own) * len(copies) * roc_auc_score(flags, np.concatenate([own, copies]))
        pairs += len(own) * len(copies)
    return float(total / pairs)


def judge(scores: Mapping[str, Scores], groups: list[str]) -> Selection:
    folds = np.arange(len(groups)) % 2
    return selection._judge({name: {"fit": {"detector": name}} for name in scores}, scores, folds, groups, 0)


def test_a_lead_is_the_difference_of_two_aurocs_within_folds() -> None:
    folds = np.array([0] * 9 + [1] * 13 + [2] * 2)
    first, second = drawn_scores(24, gap=1.0, seed=1).round(1), drawn_scores(24, gap=0.4, seed=2).round(1)  # with ties
    found = lead(first, second, folds, names(24, per_group=2))
    assert found.value == pytest.approx(auroc_by_pairs(first, folds) - auroc_by_pairs(second, folds), abs=1e-12)
    assert found.low <= found.value <= found.high
    back = lead(second, first, folds, names(24, per_group=2))
    assert (back.value, back.low, back.high) == pytest.approx((-found.value, -found.high, -found.low))


def test_the_order_of_photos_changes_no_lead_and_scale_neither() -> None:
    folds, groups = np.arange(30) % 3, names(30, per_group=1)
    first, second = drawn_scores(30, gap=1, seed=1), drawn_scores(30, gap=0, seed=2)
    order = np.random.default_rng(0).permutation(30)
    shuffled = lead(first[order], second[order], folds[order], [groups[place] for place in order])
    assert shuffled == lead(first, second, folds, groups)
    offsets = np.array([0, 100, -100], dtype=np.float32)[folds, None]  # scores of two folds need not compare
    assert lead(8 * first + offsets, second, folds, groups) == shuffled


def test_a_detector_has_no_lead_over_itself() -> None:
    scores = drawn_scores(20, gap=0.5, seed=0)
    found = lead(scores, scores, np.arange(20) % 2, names(20, per_group=1))
    assert (found.value, found.low, found.high) == (0, 0, 0)


def test_photos_of_one_group_count_as_one_observation() -> None:
    folds = np.arange(60) % 2
    first, second = drawn_scores(60, gap=1, seed=1), drawn_scores(60, gap=0.5, seed=2)
    repeated = np.arange(60) // 6 * 6 + np.arange(60) % 2  # six photos of each part, and three are alike
    alone = lead(first[repeated], second[repeated], folds, names(60, per_group=1))
    grouped = lead(first[repeated], second[repeated], folds, names(60, per_group=6))
    assert grouped.value == pytest.approx(alone.value)
    assert grouped.high - grouped.low > 1.3 * (alone.high - alone.low)


def test_of_equals_a_challenger_leads_by_more_than_chance_as_rarely_as_it_says() -> None:
    num_wrong = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        photos = rng.normal(size=(30, 1))  # what makes a photo odd for every detector
        first, *others = (
            (photos + 0.7 * rng.normal(size=(30, 3)) + [0, 0.5, 0.5]).astype(np.float32) for _ in range(4)
        )
        leads = [lead(of, first, np.arange(30) % 2, names(30, per_group=1), num_leads=3) for of in others]
        num_wrong += any(of.low > 0 for of in leads)
    assert num_wrong / 200 <= 0.025 + 2 * np.sqrt(0.025 * 0.975 / 200)  # one of the two sides


def test_the_largest_proven_lead_wins_and_of_equal_ones_the_first() -> None:
    groups = names(40, per_group=1)
    weak, strong = drawn_scores(40, gap=0.2, seed=1), drawn_scores(40, gap=3, seed=2)
    found = judge({"weak": weak, "weaker": drawn_scores(40, gap=0.1, seed=3), "strong": strong, "twin": strong}, groups)
    assert [trial.name for trial in found.trials] == ["weak", "weaker", "strong", "twin"]
    assert (found.chosen, found.config) == (2, {"fit": {"detector": "strong"}})
    assert found.trials[0].gain is None
    gain = found.trials[2].gain
    assert gain is not None
    assert found.reason == (
        f"strong finds altered copies more often than weak, by {100 * gain.value:.1f} points "
        f"(at least {100 * gain.low:.1f})."
    )
    assert found.trials[2].auroc.value == pytest.approx(auroc_by_pairs(strong, np.arange(40) % 2))
    assert found.trials[2].auroc.low < found.trials[2].auroc.value <= found.trials[2].auroc.high


def test_what_chance_explains_changes_nothing() -> None:
    found = judge(
        {"first": drawn_scores(40, gap=1, seed=1), "other": drawn_scores(40, gap=1.1, seed=5)}, names(40, per_group=1)
    )
    assert found.trials[1].gain is not None and found.trials[1].gain.value > 0
    assert found.chosen == 0
    assert found.reason == "first is kept: no other candidate finds altered copies more often than chance explains."


def test_copies_that_drown_among_photos_choose_nothing() -> None:
    photos = 30 * np.random.default_rng(0).normal(size=(40, 1)).astype(np.float32)
    weak, strong = (photos + drawn_scores(40, gap=gap, seed=1) * [1, 0.1, 0.1] for gap in (0, 20))
    found = judge({"weak": weak.astype(np.float32), "strong": strong.astype(np.float32)}, names(40, per_group=1))
    assert found.trials[1].gain is not None and found.trials[1].gain.low > 0
    assert found.chosen == 0
    assert found.reason == (
        "weak is kept: photos differ so much that no candidate finds altered copies (no AUROC reaches 0.6), so copies "
        "cannot tell which one finds damage."
    )


def test_the_table_shows_each_candidate_its_lead_and_the_choice() -> None:
    found = Selection(
        (
            Trial("combined", {}, Interval(0.7, 0.65, 0.75), None),
            Trial("subspace", {}, Interval(0.81234, 0.7, 0.9), Interval(0.11234, 0.01, 0.2)),
        ),
        chosen=1,
        num_photos=40,
        num_groups=20,
    )
    assert found.table().splitlines() == [
        "candidate  AUROC on altered copies   lead in points",
        "combined   0.700 (0.650 to 0.750)",
        "subspace   0.812 (0.700 to 0.900)    +11.2 (+1.0 to +20.0)    <- chosen",
        "subspace finds altered copies more often than combined, by 11.2 points (at least 1.0).",
    ]


def test_few_groups_choose_nothing() -> None:
    scores = {"weak": drawn_scores(40, gap=0, seed=1), "strong": drawn_scores(40, gap=5, seed=2)}
    assert judge(scores, names(40, per_group=4)).chosen == 1
    found = judge(scores, names(40, per_group=5))
    assert found.chosen == 0
    assert found.reason == f"weak is kept: 8 groups of photos are too few to choose by ({MIN_GROUPS})."


def without(data: Manifest, *, is_anomalous: bool, split: str) -> Manifest:
    """The same with photos that do not exist in place of those that must not be looked at."""
    photos = (
        replace(photo, path=Path(f"{photo.path}.gone"))
        if photo.split == split or photo.is_anomalous is is_anomalous
        else photo
        for photo in data.photos
    )
    return Manifest(tuple(photos))


def test_neither_the_test_nor_anomalies_nor_order_nor_workers_decide(data: Manifest) -> None:
    first = select(CONFIG, data)
    assert [trial.name for trial in first.trials] == ["baseline", "photo-subspace"]
    assert (first.num_photos, first.chosen) == (26, 0)
    assert first.trials[0].config["input"] == {"size": 64}
    assert "select" not in first.config
    assert all(0.5 < trial.auroc.value < 1 for trial in first.trials)
    again = select(CONFIG, Manifest(without(data, is_anomalous=True, split="test").photos[::-1]), workers=0)
    assert again.to_json() == first.to_json()
    other = select({**CONFIG, "fit": {"detector": "baseline", "seed": 1}}, data)
    assert other.to_json() != first.to_json()


def test_at_most_so_many_photos_are_looked_at(data: Manifest) -> None:
    told: dict[str, list[int]] = {}

    def progress(task: str, total: int) -> Any:
        told[task] = [total]
        return told[task].append

    section = {"candidates": [{"input": {"size": 32}}], "max_photos": 10}
    found = select({**CONFIG, "select": section}, data, progress=progress)
    assert found.num_photos == 10
    assert [trial.name for trial in found.trials] == ["baseline", "baseline, input.size=32"]
    assert {task: (total, sum(steps)) for task, (total, *steps) in told.items()} == {
        "Altering photos": (20, 20), "Comparing": (2, 2),
    }  # fmt: skip


def test_candidates_that_are_the_same_are_tried_once_and_names_differ(data: Manifest) -> None:
    listed = ["baseline", {"baseline": {"power": 2.0}}, {"fit": {"detector": "baseline"}, "baseline": {"power": 2.0}}]
    candidates = selection._candidates(
        {"fit": {"detector": "baseline"}}, [*listed, "subspace"], device="cpu", layers=(3,)
    )
    assert list(candidates) == ["baseline", "baseline, baseline.power=2.0", "subspace"]
    assert candidates["subspace"]["subspace"]["layers"] == [3]
    assert selection._unique("a", ["a", "a (2)"]) == "a (3)"


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ({"candidates": [5]}, r"candidates of \[select\] must be names of detectors, or tables .* \}, got 5\."),
        ({"candidates": [{"size": 5}]}, r"candidates of \[select\] must be names .*, got \{'size': 5\}\."),
        ({"candidates": [{}]}, r"candidates of \[select\] must be names .*, got \{\}\."),
        ({"candidates": ["patchcor"]}, "inlier has no detector named patchcor; did you mean patchcore?"),
        ({"candidates": [{"input": {"siz": 5}}]}, r"\[input\] has no key named siz; did you mean size?"),
        ({"candidates": "patchcore"}, r"candidates of \[select\] must be a valid list, got 'patchcore'\."),
        ({"max_photos": 1}, r"max_photos of \[select\] must be greater than or equal to 2, got 1\."),
        ({"candidate": []}, r"\[select\] has no key named candidate; did you mean candidates?"),
    ],
)
def test_candidates_that_cannot_be_used_are_refused(data: Manifest, section: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        select({**CONFIG, "select": section}, data)


def test_photos_of_one_group_cannot_choose(data: Manifest) -> None:
    photos = tuple(replace(photo, split="train", group="visit") for photo in data.select("train").photos)
    with pytest.raises(ManifestError, match=r"photos of at least two groups are needed, got 18 of 1\."):
        select(CONFIG, Manifest(photos))
    gone = tuple(replace(photo, path=Path(f"{photo.path}.gone")) for photo in photos)
    with pytest.raises(ManifestError, match=r"photos of at least two groups are needed, got 0 of 0\."):
        select(CONFIG, Manifest(gone))


def test_a_model_keeps_what_was_compared(data: Manifest, tmp_path: Path) -> None:
    found = select(CONFIG, data)
    fitted, _ = fit(found.config, data)
    model = found.kept_in(fitted)
    assert model.config["fit"]["detector"] == "baseline"
    assert model.facts["selection"] == found.to_json()
    assert model.facts["selection"]["chosen"] == "baseline"
    assert [of["name"] for of in model.facts["selection"]["candidates"]] == [trial.name for trial in found.trials]
    model.save(tmp_path / "model")
    loaded = Model.load(tmp_path / "model")
    assert loaded.facts == model.facts and loaded.identity == model.identity


def test_the_command_shows_the_comparison_and_keeps_it(
    inlier: Callable[..., Any], dataset: Path, tmp_path: Path
) -> None:
    config = tmp_path / "inlier.toml"
    config.write_text(
        '[fit]\ndetector = "baseline"\n[select]\nmax_photos = 12\ncandidates = [{ baseline.power = 2.0 }]\n'
        '[input]\nsize = 64\n[backbone]\nprecision = "float32"\n'
    )
    ran = inlier("fit", dataset, "--config", config, "--select", "synthetic", "--out", tmp_path / "model")
    assert ran.status == 0
    facts = Model.load(tmp_path / "model").facts["selection"]
    assert [of["name"] for of in facts["candidates"]] == ["baseline", "baseline, baseline.power=2.0"]
    assert (facts["by"], facts["num_photos"]) == ("synthetic", 12)
    head, first, second, reason = ran.err.splitlines()[:4]
    assert head.startswith("candidate ") and "<- chosen" in (first, second)[facts["chosen"] != "baseline"]
    assert f"{facts['candidates'][1]['auroc']['value']:.3f}" in second
    assert reason == facts["reason"]
    assert "candidate" not in ran.out


def test_the_command_chooses_in_no_other_way(inlier: Callable[..., Any], dataset: Path, tmp_path: Path) -> None:
    ran = inlier("fit", dataset, "--select", "best", "--out", tmp_path / "model")
    assert (ran.status, ran.err) == (2, "inlier: --select must be synthetic, got best.\n")
    both = ("--select", "synthetic", "--background", dataset)
    ran = inlier("fit", dataset, *both, "--out", tmp_path / "model")
    assert ran.err.startswith("inlier: --select compares configurations without a background; leave out --select or")
