from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from inlier import embedding
from inlier.data.images import read_image
from inlier.data.manifest import Manifest, Photo
from inlier.decision.heatmap import decode
from inlier.embedding import Embedder, embed_all
from inlier.features.pooling import embed_photos
from inlier.features.runtime import best_runtime

TINY = {"input": {"size": 64}, "backbone": {"precision": "float32"}}


def test_an_embedding_is_what_photo_neighbors_pools(data: Manifest) -> None:
    photos = list(data.photos[:3])
    embedder = Embedder(TINY, None, "cpu")
    embed_all([embedder], photos, 0, lambda steps: None)
    images = [embedder.transform.to_tensor(read_image(photo.path, min_side=64)) for photo in photos]
    maps = embedder.backbone.extract(torch.stack(images))
    expected = embed_photos([maps[3], maps[4]], power=3.0)
    np.testing.assert_allclose(embedder.embeddings(), expected.numpy(), rtol=1e-4, atol=1e-6)


def test_the_section_of_photo_neighbors_and_the_layers_hold(data: Manifest) -> None:
    embedder = Embedder({**TINY, "photo-neighbors": {"power": 1.0}}, (2,), "cpu")
    embed_all([embedder], data.photos[:1], 0, lambda steps: None)
    assert embedder.layers == (2,)
    maps = embedder.backbone.extract(embedder.transform.to_tensor(read_image(data.photos[0].path, min_side=64))[None])
    np.testing.assert_allclose(embedder.embeddings(), embed_photos([maps[2]], power=1.0).numpy(), rtol=1e-4, atol=1e-6)
    assert embedder.facts() == {
        "name": "efficientnet_lite0", "weights": None, "precision": "float32", "runtime": best_runtime("cpu"),
        "layers": [2], "size": 64,
    }  # fmt: skip


def test_photos_pass_once_for_all_backbones_and_the_unreadable_are_named(data: Manifest, tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    photos = [data.photos[0], Photo(tmp_path / "empty.jpg", "train"), *data.photos[1:12]]
    embedders = [Embedder(TINY, None, "cpu"), Embedder({**TINY, "input": {"size": 32}}, (1,), "cpu")]
    told: list[int] = []
    readable, thumbnails, unreadable = embed_all(embedders, photos, 2, told.append)
    assert readable == [photos[0], *photos[2:]] and sum(told) == 13
    assert [(photo.path.name, reason) for photo, reason in unreadable] == [("empty.jpg", "the file is empty")]
    assert [len(embedder.embeddings()) for embedder in embedders] == [12, 12]
    assert len(thumbnails) == 12 and max(decode(thumbnails[0]).shape) <= 128


def test_many_photos_have_small_thumbnails_and_very_many_none(data: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "_MANY_PHOTOS", 3)
    _, thumbnails, _ = embed_all([Embedder(TINY, None, "cpu")], data.photos[:4], 0, lambda steps: None)
    assert [max(decode(thumbnail).shape) for thumbnail in thumbnails] == [64] * 4
    monkeypatch.setattr(embedding, "MAX_THUMBNAILS", 3)
    assert embed_all([Embedder(TINY, None, "cpu")], data.photos[:4], 0, lambda steps: None)[1] == []
