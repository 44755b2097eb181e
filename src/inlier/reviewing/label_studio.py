"""Reviews as Label Studio's JSON: a task a photo, with the model's prediction and each reviewer's annotation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from inlier.reviewing.decisions import Review, ReviewPhoto, Word
from inlier.reviewing.matching import Said, photo_size
from inlier.reviewing.regions import Region, relative_names

_CONDITIONS = {True: "anomalous", False: "normal"}
_LOCAL = "/data/local-files/?d="


def to_label_studio(review: Review) -> list[dict[str, Any]]:
    """A task for each photo. Images are named as Label Studio's local storage does, below the folder of all photos.

    Each reviewer's annotation has his words and what he drew; the model's prediction has its verdict and class.
    """
    words, photos, model = review.words(), review.photos(), review.facts.identity
    tasks = []
    for photo, name in zip(photos, relative_names([of.path for of in photos]), strict=True):
        said = words.get(photo.number, {})
        drawn = {reviewer: review.regions(photo.number, reviewer=reviewer) for reviewer in said}
        size = photo_size(photo.path) if any(drawn.values()) else None
        annotations = [
            {"result": _results(word, drawn[reviewer], size), "meta": {"reviewer": reviewer}}
            for reviewer, word in said.items()
        ]
        tasks.append(
            {
                "id": photo.number,
                "data": {"image": _LOCAL + quote(name), "sha256": photo.digest, "split": photo.split},
                "annotations": annotations,
                "predictions": [_prediction(photo, model)] if photo.p_value is not None else [],
            }
        )
    return tasks


def labelling_config(labels: Iterable[str]) -> str:
    """The labelling interface that these tasks want, to be pasted into a project's settings."""
    names = [*dict.fromkeys(labels)]
    choices = "".join(f'    <Choice value="{escape(name)}"/>\n' for name in names)
    of_class = f'  <Choices name="class" toName="image">\n{choices}  </Choices>\n' if names else ""
    return (
        '<View>\n  <Image name="image" value="$image" zoom="true"/>\n'
        '  <Choices name="condition" toName="image">\n    <Choice value="normal"/>\n    <Choice value="anomalous"/>\n'
        f"  </Choices>\n{of_class}"
        '  <PolygonLabels name="defect" toName="image">\n    <Label value="defect"/>\n  </PolygonLabels>\n'
        '  <PolygonLabels name="interest" toName="image">\n    <Label value="interest"/>\n  </PolygonLabels>\n</View>\n'
    )


def from_label_studio(content: Sequence[Mapping[str, Any]]) -> list[Said]:
    """What a Label Studio export says: one for each annotation that was not cancelled, oldest first.

    Raises:
        KeyError, TypeError, ValueError: It is none.
    """
    said = []
    for task in content:
        data = task["data"]
        for annotation in task.get("annotations") or []:
            if annotation.get("was_cancelled"):
                continue
            results = annotation["result"]
            condition, label = _choice(results, "condition"), _choice(results, "class")
            said.append(
                Said(
                    path=_name(str(data["image"])),
                    digest=str(data.get("sha256") or ""),
                    is_anomalous={"anomalous": True, "normal": False}.get(condition or ""),
                    label=label,
                    reviewer=_reviewer(annotation),
                    regions=tuple(_region(of) for of in results if of.get("type") == "polygonlabels"),
                )
            )
    return said


def _results(word: Word, regions: Sequence[Region], size: tuple[int, int] | None) -> list[dict[str, Any]]:
    results = []
    if word.is_anomalous is not None:
        results.append(_choose("condition", _CONDITIONS[word.is_anomalous]))
    if word.label is not None:
        results.append(_choose("class", word.label))
    for region in regions:
        value = {
            "points": [[round(100 * x, 4), round(100 * y, 4)] for x, y in region.polygon],
            "closed": True,
            "polygonlabels": [region.kind],
        }
        about: dict[str, Any] = {"from_name": region.kind, "to_name": "image", "type": "polygonlabels", "value": value}
        about |= {"original_width": size[0], "original_height": size[1]} if size else {}
        results.append(about | ({"meta": {"text": [region.label]}} if region.label else {}))
    return results


def _prediction(photo: ReviewPhoto, model: str) -> dict[str, Any]:
    results = [_choose("condition", "anomalous" if photo.verdict == "reject" else "normal")]
    if photo.component is not None:
        results.append(_choose("class", photo.component))
    return {"model_version": model, "score": round(1 - (photo.p_value or 0.0), 6), "result": results}


def _choose(name: str, choice: str) -> dict[str, Any]:
    return {"from_name": name, "to_name": "image", "type": "choices", "value": {"choices": [choice]}}


def _choice(results: Iterable[Mapping[str, Any]], name: str) -> str | None:
    chosen = [of["value"]["choices"] for of in results if of.get("type") == "choices" and of.get("from_name") == name]
    return str(chosen[-1][0]) if chosen and chosen[-1] else None


def _region(result: Mapping[str, Any]) -> Region:
    value = result["value"]
    names = [str(name) for name in value.get("polygonlabels") or []]
    is_interest = result.get("from_name") == "interest"
    kind = "interest" if is_interest else "defect"
    text = (result.get("meta") or {}).get("text") or [name for name in names if name != kind]
    corners = tuple((_share(x), _share(y)) for x, y in value["points"])
    return Region("interest" if is_interest else "defect", str(text[0]) if text else "", corners)


def _share(percent: float) -> float:
    return min(1.0, max(0.0, float(percent) / 100))


def _reviewer(annotation: Mapping[str, Any]) -> str:
    named = (annotation.get("meta") or {}).get("reviewer")
    by = annotation.get("completed_by")
    return str(named or (by.get("email") if isinstance(by, Mapping) else by) or "")


def _name(image: str) -> str:
    """The photo that an image's address means: below local storage, or its last part."""
    parts = urlsplit(image)
    local = parse_qs(parts.query).get("d")
    return local[0] if local else parts.path
