"""What the reviewers say together, and the data as they correct them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from inlier.data.manifest import NORMAL_LABELS, Manifest, Photo, digest_file
from inlier.outputs import number_of
from inlier.reviewing.decisions import Review, ReviewPhoto
from inlier.reviewing.regions import location_key
from inlier.reviewing.words import Word

KINDS = ("joined", "left", "dev_joined", "dev_left", "relabelled")
"""Of changes that a model notices."""

Said = TypeVar("Said")


@dataclass(frozen=True)
class Changes:
    """What decisions change in a data set.

    Attributes:
        joined: Photos of train that are learned from now; as they are labelled now.
        left: Photos of train that are learned from no more; likewise.
        dev_joined: Photos of dev that calibrate now.
        dev_left: Photos of dev that calibrate no more.
        relabelled: Photos whose class changed, as far as they are learned from.
        num_confirmed: Photos that were decided, and stay as they were.
        num_undecided: Photos on which as many reviewers say the one as the other.
        num_of_test: Photos of test that were decided otherwise than the data say; test is left as it is.
        num_missing: Decided photos that the data do not hold, or hold with other bytes.
        digest: SHA-256 of all that was decided, in hexadecimal.
    """

    joined: tuple[Photo, ...] = ()
    left: tuple[Photo, ...] = ()
    dev_joined: tuple[Photo, ...] = ()
    dev_left: tuple[Photo, ...] = ()
    relabelled: tuple[Photo, ...] = ()
    num_confirmed: int = 0
    num_undecided: int = 0
    num_of_test: int = 0
    num_missing: int = 0
    digest: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether a model would be fitted on the same as before."""
        return not (self.joined or self.left or self.dev_joined or self.dev_left or self.relabelled)

    def counts(self) -> dict[str, int]:
        """How many photos of each kind."""
        numbers = ("confirmed", "undecided", "of_test", "missing")
        found = {f"num_{name}": len(getattr(self, name)) for name in KINDS}
        return found | {f"num_{name}": getattr(self, f"num_{name}") for name in numbers}

    def notes(self) -> list[str]:
        """Sentences on decisions that change nothing."""
        notes = []
        if self.num_undecided:
            stay = "it stays" if self.num_undecided == 1 else "they stay"
            notes.append(
                f"On {number_of(self.num_undecided, 'photo')} as many reviewers say the one as the other; "
                f"{stay} as the data have it, until the disagreement is settled."
            )
        if self.num_of_test:
            notes.append(
                f"{number_of(self.num_of_test, 'photo')} of test {'was' if self.num_of_test == 1 else 'were'} decided "
                "otherwise than the data say. Test is left as it is: who decided has seen what the model says, and "
                "that must not change what it is measured by. Correct the data themselves if they are wrong."
            )
        if self.num_missing:
            is_one = self.num_missing == 1
            notes.append(
                f"{number_of(self.num_missing, 'decided photo')} {'is' if is_one else 'are'} not in the data, or "
                f"{'has' if is_one else 'have'} changed since, and {'was' if is_one else 'were'} left out."
            )
        return notes


def effective(review: Review) -> dict[int, Word]:
    """What the reviewers say together of each photo, by number: what more of them say than say anything else.

    Where two things are said by as many, nothing is said; those who say nothing about a question do not count.
    ``num_reviewers`` is how many have decided the photo.
    """
    return {number: _together(words.values()) for number, words in review.words().items()}


def corrected(data: Manifest, review: Review) -> tuple[Manifest, Changes]:
    """The data as the reviewers say, and what that changes.

    Photos keep their splits, so that none joins train whose group is in dev or test. Photos of train that are said to
    be normal join those to learn from, and those said to be anomalous leave them; photos of dev join or leave those to
    calibrate on; photos of test stay as they are. A photo is known by its path, or else by its bytes.

    Args:
        data: The photos, labelled as the review found them.
        review: What was decided.
    """
    said = review.words()
    together = {number: _together(words.values()) for number, words in said.items()}
    decided = [photo for photo in review.photos() if photo.number in said]
    places = _places(data, decided)
    of_normal = {photo.label for photo in data.photos if photo.is_anomalous is False}
    photos = list(data.photos)
    found: dict[str, list[Photo]] = {name: [] for name in KINDS}
    num_confirmed = num_undecided = num_of_test = 0
    for number, place in places.items():
        old = data.photos[place]
        new = _relabelled(old, together[number], of_normal)
        is_tied = _is_tied(said[number].values(), together[number])
        num_undecided += is_tied
        if old.split == "test":
            num_of_test += new != old
            continue
        photos[place] = new
        if kind := _kind(old, new):
            found[kind].append(new)
        else:
            num_confirmed += not is_tied
    changes = Changes(
        **{name: tuple(of) for name, of in found.items()},
        num_confirmed=num_confirmed,
        num_undecided=num_undecided,
        num_of_test=num_of_test,
        num_missing=len(decided) - len(places),
        digest=_digest((photo, together[photo.number]) for photo in decided),
    )
    return Manifest(tuple(photos)), changes


def _together(words: Iterable[Word]) -> Word:
    said = list(words)
    return Word(_most(word.is_anomalous for word in said), _most(word.label for word in said), len(said))


def _most(said: Iterable[Said | None]) -> Said | None:
    ranked = Counter(of for of in said if of is not None).most_common(2)
    is_clear = bool(ranked) and (len(ranked) == 1 or ranked[0][1] > ranked[1][1])
    return ranked[0][0] if is_clear else None


def _is_tied(words: Iterable[Word], together: Word) -> bool:
    return together.is_anomalous is None and any(word.is_anomalous is not None for word in words)


def _places(data: Manifest, decided: Sequence[ReviewPhoto]) -> dict[int, int]:
    """Number of each decided photo that the data hold, and its place there."""
    by_path = {location_key(photo.path): place for place, photo in enumerate(data.photos)}
    found: dict[int, int] = {}
    strays = []
    for photo in decided:
        place = by_path.get(photo.path)
        if place is not None and digest_file(data.photos[place].path) == photo.digest:
            found[photo.number] = place
        else:
            strays.append(photo)
    if strays:
        taken = {*found.values()}
        by_digest = {digest_file(of.path): place for place, of in enumerate(data.photos) if place not in taken}
        found |= {photo.number: by_digest[photo.digest] for photo in strays if photo.digest in by_digest}
    return found


def _relabelled(old: Photo, word: Word, of_normal: Collection[str]) -> Photo:
    """The row after a word; a label that says something else than that word goes."""
    flag = old.is_anomalous if word.is_anomalous is None else word.is_anomalous
    label = old.label
    if flag is False and old.is_anomalous:
        label = label if label in of_normal else ""
    elif flag and not old.is_anomalous:
        label = "" if label.casefold() in NORMAL_LABELS else label
    label = label if word.label is None else word.label
    return replace(old, is_anomalous=flag, label=label, mask=old.mask if flag else None)


def _kind(old: Photo, new: Photo) -> str:
    """What a change does to a model; "" for nothing."""
    was, is_now = old.is_anomalous is not True, new.is_anomalous is not True
    prefix = "dev_" if old.split == "dev" else ""
    if was != is_now:
        return f"{prefix}joined" if is_now else f"{prefix}left"
    return "relabelled" if is_now and not prefix and old.label != new.label else ""


def _digest(decided: Iterable[tuple[ReviewPhoto, Word]]) -> str:
    rows = sorted((photo.digest, photo.path, str(word.is_anomalous), word.label or "") for photo, word in decided)
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
