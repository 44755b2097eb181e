"""Reviews as COCO files: images, with what reviewers say of each, and polygons with their categories."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from inlier.reviewing.decisions import Review
from inlier.reviewing.effective import effective
from inlier.reviewing.matching import Said, photo_size
from inlier.reviewing.regions import KINDS, Region, relative_names

_CONDITIONS = {True: "anomalous", False: "normal"}


def to_coco(review: Review) -> dict[str, Any]:
    """The photos that can be read, with what the reviewers say together as tags, and all that was drawn.

    File names count from the folder that holds all photos. Beside COCO's own fields an image has ``tags`` (normal or
    anomalous, and the class), ``is_anomalous``, ``label``, ``split`` and ``sha256``.
    """
    words, photos = effective(review), review.photos()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    categories: dict[tuple[str, str], int] = {}
    drawn = dict(review.marked())
    for photo, name in zip(photos, relative_names([of.path for of in photos]), strict=True):
        size = photo_size(photo.path)
        if size is None:
            continue
        word = words.get(photo.number)
        is_anomalous, label = (word.is_anomalous, word.label) if word else (None, None)
        condition = None if is_anomalous is None else _CONDITIONS[is_anomalous]
        images.append(
            {
                "id": photo.number,
                "file_name": name,
                "width": size[0],
                "height": size[1],
                "tags": [tag for tag in (condition, label) if tag],
                "is_anomalous": is_anomalous,
                "label": label,
                "split": photo.split,
                "sha256": photo.digest,
            }
        )
        for region in drawn.get(photo.path, ()):
            key = region.label or region.kind, region.kind
            category = categories.setdefault(key, len(categories) + 1)
            annotations.append(_annotation(len(annotations) + 1, photo.number, category, region, size))
    return {
        "info": {"description": "A review by inlier", "version": "1", "model": review.facts.identity},
        "licenses": [],
        "categories": [
            {"id": number, "name": name, "supercategory": kind} for (name, kind), number in categories.items()
        ],
        "images": images,
        "annotations": annotations,
    }


def from_coco(content: Mapping[str, Any]) -> list[Said]:
    """What a COCO file says of its images.

    Raises:
        KeyError, TypeError, ValueError: It is none.
    """
    categories = {of["id"]: (of["name"], of.get("supercategory", "")) for of in content.get("categories", [])}
    regions: dict[Any, list[Region]] = {}
    sizes = {image["id"]: (float(image["width"]), float(image["height"])) for image in content["images"]}
    for of in content.get("annotations", []):
        regions.setdefault(of["image_id"], []).extend(_regions(of, categories, sizes[of["image_id"]]))
    return [
        Said(
            path=str(image["file_name"]),
            digest=str(image.get("sha256") or ""),
            is_anomalous=_flag(image),
            label=None if image.get("label") is None else str(image["label"]),
            regions=tuple(regions.get(image["id"], ())),
        )
        for image in content["images"]
    ]


def _annotation(number: int, image: int, category: int, region: Region, size: tuple[int, int]) -> dict[str, Any]:
    corners = [(round(x, 2), round(y, 2)) for x, y in region.pixels(size)]
    xs, ys = zip(*corners, strict=True)
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "segmentation": [[of for corner in corners for of in corner]],
        "bbox": [min(xs), min(ys), round(max(xs) - min(xs), 2), round(max(ys) - min(ys), 2)],
        "area": round(_area(corners), 2),
        "iscrowd": 0,
    }


def _area(corners: Sequence[tuple[float, float]]) -> float:
    """Of a polygon, by the shoelace formula."""
    following = (*corners[1:], corners[0])
    return abs(sum(x * next_y - next_x * y for (x, y), (next_x, next_y) in zip(corners, following, strict=True))) / 2


def _regions(
    annotation: Mapping[str, Any], categories: Mapping[Any, tuple[str, str]], size: tuple[float, float]
) -> list[Region]:
    """Its polygons; a run-length mask, of which there is none in what inlier writes, has no corners to take."""
    name, above = categories[annotation["category_id"]]
    kind = above if above in KINDS else "defect"
    polygons = annotation.get("segmentation") or []
    if not isinstance(polygons, list):
        return []
    found = []
    for flat in polygons:
        corners = [(_share(x, size[0]), _share(y, size[1])) for x, y in zip(flat[::2], flat[1::2], strict=True)]
        label = "" if name == kind else re.sub(r"\s+", " ", str(name))
        found.append(Region(kind, label, tuple(corners)))
    return found


def _share(pixels: float, of: float) -> float:
    return min(1.0, max(0.0, float(pixels) / of))


def _flag(image: Mapping[str, Any]) -> bool | None:
    flag = image.get("is_anomalous")
    if flag is None:
        tags = image.get("tags") or []
        return True if "anomalous" in tags else False if "normal" in tags else None
    return bool(flag)
