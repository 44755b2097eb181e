"""Eight-bit convolutions for the network of an export, by static quantisation; distances stay as they are."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inlier.data.images import read_image
from inlier.data.manifest import Manifest, Photo
from inlier.errors import ImageReadError, ManifestError
from inlier.model import Model

MAX_PHOTOS = 64
"""Photos by which the range of each activation is found."""


def quantize(model: Model, trunk: Any, photos: Iterable[Photo]) -> Any:
    """The network's graph with convolutions of eight bits: weights by channel, activations by the ranges that they had.

    The convolution of the photo's colours, and those that filter each channel by itself, stay in float32: they have few
    of the weights, and would do most of the harm. Seven of a weight's eight bits are used, so that no processor's sums
    of 16 bits overflow, and all give the same.

    Args:
        model: Whose network it is.
        trunk: Of ``graph.build_trunk``.
        photos: Normal ones, by which the ranges of activations are found.

    Raises:
        ManifestError: None of the photos can be read.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    squares = [*_squares(model, photos)]
    if not squares:
        raise ManifestError("None of the photos could be read that --int8 needs to find the range of each activation.")
    logging.getLogger("onnxruntime").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="inlier-") as folder:
        given, ready, done = (Path(folder) / f"{name}.onnx" for name in ("given", "ready", "done"))
        onnx.save(trunk, given)
        quant_pre_process(str(given), str(ready), skip_symbolic_shape=True)  # joins convolutions and normalisations
        quantize_static(
            str(ready),
            str(done),
            _Reader(squares),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=_delicate(onnx.load(str(ready))),
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        return onnx.load(str(done))


def photos_to_quantize(data: Manifest) -> list[Photo]:
    """Normal photos by which ranges are found, spread over those of ``train``, else of ``dev``.

    Raises:
        ManifestError: There are none.
    """
    normal = data.normal()
    photos = normal.select("train").photos or normal.select("dev").photos
    if not photos:
        raise ManifestError("--int8 needs normal photos in train or dev, which show the range of each activation.")
    return list(photos[:: -(-len(photos) // MAX_PHOTOS)])


def _delicate(network: Any) -> list[str]:
    """Names of the convolutions that take a photo's three colours, or channels in groups."""
    graph = network.graph
    channels = {of.name: int(of.dims[1]) for of in graph.initializer if len(of.dims) == 4}  # of a weight, in a group
    grouped = [node.name for node in graph.node if any(of.name == "group" and of.i > 1 for of in node.attribute)]
    first = [node.name for node in graph.node if node.op_type == "Conv" and channels.get(node.input[1]) == 3]
    return [*first, *(name for name in grouped if name not in first)]


class _Reader:
    """Squares one after the other, as ONNX Runtime's quantisation asks for them."""

    def __init__(self, squares: Iterable[NDArray[np.float32]]) -> None:
        self._squares = iter(squares)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next square, or None."""
        square = next(self._squares, None)
        return None if square is None else {"square": square}


def _squares(model: Model, photos: Iterable[Photo]) -> Iterator[NDArray[np.float32]]:
    transform = model.transform
    for photo in photos:
        try:
            pixels = read_image(photo.path, min_side=transform.size)
        except ImageReadError:
            continue
        yield transform.to_tensor(pixels).numpy()[None]
