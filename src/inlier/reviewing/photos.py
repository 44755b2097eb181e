"""What a review holds, row by row."""

from __future__ import annotations

from dataclasses import dataclass, field

from inlier.reviewing.words import Word


@dataclass(frozen=True, slots=True)
class ReviewFacts:
    """What is reviewed.

    Attributes:
        model: Folder of the model that was asked, as an absolute path; "" where it was not saved.
        identity: Its id.
        data: The data set, as an absolute path or a URL; "" if it was read from none.
        fingerprint: Its SHA-256.
        labels: Classes that photos may be given, in the order of the keys 1 to 9.
        rates: False-alarm rate and uncertain rate at which the model decided.
        made: When, ISO 8601 in UTC.
        normal: Labels that mean a normal photo, as the data were read.
        notes: Sentences on what the model's word is worth here.
    """

    model: str
    identity: str
    data: str
    fingerprint: str
    labels: tuple[str, ...]
    rates: tuple[float, float]
    made: str
    normal: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReviewPhoto:
    """A photo: what the data say of it, and what the model says.

    Attributes:
        number: Its key.
        path: Where it lies, absolute, or a URL.
        split: train, dev or test.
        group: What never straddles splits; "" if it stands alone.
        digest: SHA-256 of its bytes.
        given_label: Label of the data; "" if none.
        given_anomalous: Whether the data call it anomalous; None if they do not say.
        score: Of a detector that has not learned from its group; None if unreadable.
        p_value: Share of calibration photos at least this anomalous, in (0, 1].
        verdict: accept, uncertain, reject or unreadable.
        component: Class that the model takes it for; None where it knows none.
        component_probability: Probability of that class, in [0, 1].
        suspicion: How much its label looks wrong, in [0, 1]; 0: not at all.
        suspicion_reason: Why, in a sentence; "" where it does not.
        doubt: Distance of log p from the log of the nearest threshold, >= 0; 0 is most doubtful.
    """

    number: int
    path: str
    split: str
    group: str
    digest: str
    given_label: str
    given_anomalous: bool | None
    score: float | None
    p_value: float | None
    verdict: str
    component: str | None
    component_probability: float | None
    suspicion: float
    suspicion_reason: str
    doubt: float


@dataclass(frozen=True, slots=True)
class Choice:
    """What a reviewer chose for a photo.

    Attributes:
        photo: Its number.
        is_anomalous: Whether it is anomalous; None: says nothing about that.
        label: The class that it shows; None: says nothing about that.
    """

    photo: int
    is_anomalous: bool | None = None
    label: str | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision of one reviewer on one photo; it is never changed, only undone.

    Attributes:
        number: Its key; later ones are higher.
        photo: Number of the photo.
        reviewer: Who.
        at: When, ISO 8601 in UTC.
        is_anomalous: As in ``Choice``.
        label: Likewise.
        page: The submission that it came with.
        undone: Whether the reviewer took it back.
    """

    number: int
    photo: int
    reviewer: str
    at: str
    is_anomalous: bool | None
    label: str | None
    page: str
    undone: bool


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A photo on which reviewers differ.

    Attributes:
        photo: Its number.
        words: What each says now, by reviewer.
    """

    photo: int
    words: dict[str, Word]


@dataclass(frozen=True, slots=True)
class Tally:
    """How many photos there are, and how many of these a reviewer is done with."""

    total: int = 0
    decided: int = 0

    @property
    def left(self) -> int:
        """How many are still to be decided."""
        return self.total - self.decided


@dataclass(frozen=True, slots=True)
class Counts:
    """How far a reviewer is with a queue.

    Attributes:
        total: Photos of the queue.
        decided: Those that the reviewer is done with.
        by_verdict: The same for each verdict.
        by_component: The same for each predicted class; "" for none.
        seconds_per_photo: How fast lately, breaks left out; None before the second page.
    """

    total: int
    decided: int
    by_verdict: dict[str, Tally] = field(default_factory=dict)
    by_component: dict[str, Tally] = field(default_factory=dict)
    seconds_per_photo: float | None = None

    @property
    def left(self) -> int:
        """How many are still to be decided."""
        return self.total - self.decided


@dataclass(frozen=True, slots=True)
class RefitRecord:
    """A refit of which the reviewers said yes.

    Attributes:
        number: Its key.
        at: When, ISO 8601 in UTC.
        reviewer: Who said yes.
        parent: Id of the model before.
        identity: Id of the model made.
        decisions: Digest of the decisions that it used.
        model: Where it was written.
    """

    number: int
    at: str
    reviewer: str
    parent: str
    identity: str
    decisions: str
    model: str
