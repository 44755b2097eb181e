"""How far the reviewers agree, on whether photos are anomalous and on what they show."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from inlier.decision.agreement import cohen_kappa, fleiss_kappa
from inlier.decision.intervals import Interval
from inlier.outputs import number_of
from inlier.reviewing.decisions import Review

Question = Literal["condition", "class"]


@dataclass(frozen=True, slots=True)
class Pair:
    """How far two reviewers agree on the photos that both decided.

    Attributes:
        first: One of them.
        second: The other one.
        num_photos: Photos on which both said something.
        num_alike: Those on which they said the same.
        kappa: Cohen's, with a 95 % interval; None where it is not defined.
    """

    first: str
    second: str
    num_photos: int
    num_alike: int
    kappa: Interval | None


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far all reviewers agree on a question.

    Attributes:
        question: ``condition``: is it anomalous? ``class``: what does it show?
        pairs: Of each two reviewers who decided the same photos.
        num_photos: Photos on which two or more said something.
        kappa: Fleiss', with a 95 % interval; None where it is not defined.
    """

    question: Question
    pairs: tuple[Pair, ...]
    num_photos: int
    kappa: Interval | None

    @property
    def sentence(self) -> str:
        """What it comes to."""
        about = "whether photos are anomalous" if self.question == "condition" else "what photos show"
        if not self.num_photos:
            return f"No photo has two reviewers' word on {about} yet."
        on = f"on {number_of(self.num_photos, 'photo')} that two or more decided"
        if self.kappa is None:
            return f"All reviewers say one and the same {on}, so that no kappa tells how far they agree on {about}."
        interval = f"{self.kappa.value:.2f} (95 % interval {self.kappa.low:.2f} to {self.kappa.high:.2f})"
        return f"Fleiss' kappa on {about} is {interval}, {on}; 1 is full agreement, 0 what chance would do."


def measure_agreement(review: Review, *, question: Question = "condition", seed: int = 0) -> Agreement:
    """How far the reviewers agree by themselves: words said when a disagreement was known do not count.

    Args:
        review: What was decided.
        question: On what.
        seed: Of the intervals.
    """
    words = _blind_words(review, question)
    rated = {photo: said for photo, said in words.items() if len(said) > 1}
    choices = sorted({choice for said in rated.values() for choice in said.values()})
    codes = {choice: code for code, choice in enumerate(choices)}
    ratings = np.array([_tally(said, codes) for said in rated.values()], dtype=np.int64)  # (N, C)
    reviewers = sorted({name for said in rated.values() for name in said})
    pairs = tuple(
        pair
        for first, second in combinations(reviewers, 2)
        if (pair := _pair(rated, codes, first, second, seed)).num_photos
    )
    return Agreement(question, pairs, len(rated), fleiss_kappa(ratings, seed=seed) if rated else None)


def _blind_words(review: Review, question: Question) -> dict[int, dict[str, str]]:
    """What each said of a photo as long as no two differed; who says something for the first time is blind too."""
    words: defaultdict[int, dict[str, str]] = defaultdict(dict)
    for decision in review.decisions():
        said = decision.label if question == "class" else decision.is_anomalous
        if decision.undone or said is None:
            continue
        of_photo = words[decision.photo]
        if decision.reviewer not in of_photo or len(set(of_photo.values())) == 1:
            of_photo[decision.reviewer] = str(said)
    return dict(words)


def _tally(said: Mapping[str, str], codes: Mapping[str, int]) -> list[int]:
    counts = Counter(said.values())
    return [counts[choice] for choice in codes]


def _pair(rated: Mapping[int, Mapping[str, str]], codes: Mapping[str, int], first: str, second: str, seed: int) -> Pair:
    both = [(codes[said[first]], codes[said[second]]) for said in rated.values() if first in said and second in said]
    chosen = np.array(both, dtype=np.int64).reshape(-1, 2)
    num_alike = int((chosen[:, 0] == chosen[:, 1]).sum())
    return Pair(first, second, len(both), num_alike, cohen_kappa(chosen[:, 0], chosen[:, 1], seed=seed))
