"""A fitted model as an ONNX graph: a photo of any size -> score, p-value, verdict, map and component.

The graph is joined from four pieces. The first and the last are written here in ONNX's own notation, for they do what
PyTorch's exporter does not see: the exact integers of an antialiased resize, and the decision. Those between are the
network and the detector, as PyTorch exports them for photos of the one size that the network sees.
"""

from __future__ import annotations

import importlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from inlier.errors import ConfigError, MissingExtraError
from inlier.exporting.forwards import ComponentForward, Maps, Shapes, forward_of
from inlier.features.backbone import Backbone
from inlier.model import Model

OPSET, IR_VERSION = 18, 9

TRUNK = "trunk/"
"""What the names of the network's nodes begin with."""

_SQUARE = """
<ir_version: {ir}, opset_import: ["" : {opset}]>
square (uint8[height, width, 3] photo) => (float[1, 3, {size}, {size}] square) <
  double half = {{0.5}}, double one = {{1.0}}, double zero = {{0.0}}, double two = {{2.0}}, double side = {{{size}.0}},
  double limit = {{32767.5}}, double log_two = {{0.6931471805599453}}, double most = {{22.0}},
  float float_half = {{0.5}}, float darkest = {{0.0}}, float brightest = {{255.0}}, int64[1] across = {{1}}
>
{{
  shape = Shape (photo)
{weights}
  colours = Transpose <perm = [2, 0, 1]> (photo)
  pixels = Cast <to = 1> (colours)
  turned_width = Transpose <perm = [1, 0]> (weights_width)
  narrow = MatMul (pixels, turned_width)
  narrow_up = Add (narrow, float_half)
  narrow_whole = Floor (narrow_up)
  narrow_levels = Clip (narrow_whole, darkest, brightest)
  small = MatMul (weights_height, narrow_levels)
  small_up = Add (small, float_half)
  small_whole = Floor (small_up)
  levels = Clip (small_whole, darkest, brightest)
  scaled = Mul (levels, factor)
  normalised = Sub (scaled, offset)
  first = Constant <value_ints = [0]> ()
  square = Unsqueeze (normalised, first)
}}
"""
_WEIGHTS = """
  place_{side} = Constant <value_int = {axis}> ()
  count_{side} = Gather (shape, place_{side})
  length_{side} = Cast <to = 11> (count_{side})
  scale_{side} = Div (length_{side}, side)
  support_{side} = Max (scale_{side}, one)
  starts_{side} = Range (zero, length_{side}, one)
  pixels_{side} = Add (starts_{side}, half)
  centres_{side} = Mul (cells, scale_{side})
  signed_{side} = Sub (pixels_{side}, centres_{side})
  apart_{side} = Abs (signed_{side})
  share_{side} = Div (apart_{side}, support_{side})
  tent_{side} = Sub (one, share_{side})
  inside_{side} = Max (tent_{side}, zero)
  sums_{side} = ReduceSum <keepdims = 1> (inside_{side}, across)
  exact_{side} = Div (inside_{side}, sums_{side})
  largest_{side} = ReduceMax <keepdims = 0> (exact_{side})
  room_{side} = Div (limit, largest_{side})
  log_room_{side} = Log (room_{side})
  bits_{side} = Div (log_room_{side}, log_two)
  whole_bits_{side} = Floor (bits_{side})
  precision_{side} = Min (whole_bits_{side}, most)
  unit_{side} = Pow (two, precision_{side})
  units_{side} = Mul (exact_{side}, unit_{side})
  units_up_{side} = Add (units_{side}, half)
  rounded_{side} = Floor (units_up_{side})
  fixed_{side} = Div (rounded_{side}, unit_{side})
  weights_{side} = Cast <to = 1> (fixed_{side})
"""
"""Antialiased bilinear weights (side, pixels) as PyTorch has them for uint8: in 16 bits, of as fine a unit as fits."""

_DECISION = """
<ir_version: {ir}, opset_import: ["" : {opset}]>
decision (float[1] scores) => (float score, float p_value, int64 verdict) <int64[1] only = {{0}}, int64 one = {{1}}>
{{
  given = Squeeze (scores, only)
  score = Add (given, shift)
  compared = Sub (score, slack)
  reached = GreaterOrEqual (normal_scores, compared)
  reached_numbers = Cast <to = 7> (reached)
  num_reached = ReduceSum <keepdims = 0> (reached_numbers, only)
  rank = Add (num_reached, one)
  rank_number = Cast <to = 1> (rank)
  p_value = Div (rank_number, num_ranks)
  is_accepted = LessOrEqual (compared, uncertain_above)
  is_not_rejected = LessOrEqual (compared, rejected_above)
  is_flagged = Not (is_accepted)
  is_rejected = Not (is_not_rejected)
  flagged_number = Cast <to = 7> (is_flagged)
  rejected_number = Cast <to = 7> (is_rejected)
  verdict = Add (flagged_number, rejected_number)
}}
"""
"""As ``Calibration``, with a slack; a score that is no number is rejected."""

SLACK = 1e-4
"""How far a score may be above a calibration score and still tie with it, as a share of these scores' spread.

A calibration photo ties with itself in Python, and here would not where its score is off by the last digit. Ties make a
p-value larger, so that no more normal photos are rejected than promised.
"""


def check_installed() -> None:
    """Refuses, before the work, an export without the packages that it needs.

    Raises:
        MissingExtraError: One is not installed.
    """
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise MissingExtraError(f'Exporting needs {name}; install it with: pip install "inlier[export]"') from error


def build_trunk(model: Model) -> tuple[Any, Shapes]:
    """The network as a graph, ``square`` (1, 3, S, S) -> ``map_l`` (1, C, h, w) for each layer l; and these shapes.

    Raises:
        ConfigError: The network cannot be exported.
    """
    backbone = model.backbone
    blank = torch.zeros(1, 3, *(2 * [model.config["input"]["size"]]))
    shapes = {layer: tuple(of.shape[1:]) for layer, of in backbone.extract(blank).items()}
    names = [f"map_{layer}" for layer in backbone.layers]
    return _exported(_Trunk(backbone), (blank,), ["square"], names, what=backbone.name), shapes


def build_head(model: Model, shapes: Shapes) -> Any:
    """Detector and components as a graph: the maps -> ``scores`` (1,), and ``maps`` and components if there are any.

    Raises:
        ConfigError: The detector cannot be exported.
    """
    head = _Head(model, shapes)
    example = tuple(torch.zeros(1, *shapes[layer]) for layer in sorted(shapes))
    names = [f"map_{layer}" for layer in sorted(shapes)]
    return _exported(head, example, names, head.outputs, what=model.config["fit"]["detector"])


def join(model: Model, trunk: Any, head: Any, metadata: Mapping[str, str], *, shift: float = 0.0) -> Any:
    """The whole graph, checked: ``photo`` -> ``score``, ``p_value``, ``verdict``, ``map``, ``component`` and more.

    Args:
        model: Fitted.
        trunk: Of ``build_trunk``, or a quantised one.
        head: Of ``build_head``.
        metadata: Stands in the file.
        shift: What is added to the scores of a quantised network.
    """
    import onnx
    from onnx.compose import add_prefix, merge_models

    pieces = [
        add_prefix(_square(model), "photo/"),
        add_prefix(_unified(trunk), TRUNK),
        add_prefix(_unified(head), "head/"),
        add_prefix(_decision(model, shift), "decision/"),
    ]
    outputs = [of.name for of in pieces[2].graph.output]
    maps = {of.name.removeprefix("head/") for of in pieces[2].graph.input}
    given = [of.name.removeprefix(TRUNK) for of in pieces[1].graph.output if of.name.removeprefix(TRUNK) in maps]
    whole = merge_models(pieces[0], pieces[1], io_map=[("photo/square", f"{TRUNK}square")])
    io_map = [(f"{TRUNK}{name}", f"head/{name}") for name in given]
    whole = merge_models(whole, pieces[2], io_map=io_map, outputs=outputs)
    kept = [f"decision/{name}" for name in ("score", "p_value", "verdict")] + outputs[1:]
    whole = merge_models(whole, pieces[3], io_map=[("head/scores", "decision/scores")], outputs=kept)
    _rename(whole, {"photo/photo": "photo", **{name: name.partition("/")[2] for name in kept}})
    whole.producer_name, whole.producer_version = "inlier", ""
    onnx.helper.set_model_props(whole, dict(metadata))
    onnx.checker.check_model(whole, full_check=True)
    return whole


def score_spread(model: Model) -> float:
    """Standard deviation of the calibration scores; of fewer than two, or equal ones, a hundredth of their size."""
    scores = model.calibration.normal_scores
    spread = float(np.std(scores)) if len(scores) else 0.0
    return spread or 0.01 * (float(np.abs(scores).mean()) if len(scores) else 1.0) or 0.01


class _Trunk(nn.Module):
    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, square: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.backbone(square))


class _Head(nn.Module):
    def __init__(self, model: Model, shapes: Shapes) -> None:
        super().__init__()
        self.layers = sorted(shapes)
        self.detector = forward_of(model.detector, shapes)
        self.components = None if model.components is None else ComponentForward(model.components)
        with torch.no_grad():
            has_map = self.detector({layer: torch.zeros(1, *shapes[layer]) for layer in shapes})[1] is not None
        self.outputs = ["scores"] + ["map"] * has_map
        self.outputs += [] if self.components is None else ["component", "component_probability"]

    def forward(self, *maps: Tensor) -> tuple[Tensor, ...]:
        of_layer: Maps = dict(zip(self.layers, maps, strict=True))
        score, anomaly_map = self.detector(of_layer)
        found = (score,) if anomaly_map is None else (score, anomaly_map[0])
        if self.components is None:
            return found
        component, probability = self.components(of_layer)
        return (*found, component[0], probability[0])


def _exported(
    module: nn.Module, example: Sequence[Tensor], inputs: Sequence[str], outputs: Sequence[str], *, what: str
) -> Any:
    """A network as PyTorch exports it, for inputs of these very shapes."""
    try:
        with _silence(), torch.no_grad():
            program = torch.onnx.export(
                module.eval(),
                tuple(example),
                input_names=list(inputs),
                output_names=list(outputs),
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
            )
    except Exception as error:  # an exporter raises whatever it likes
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(f"{what} cannot be exported: PyTorch's exporter says: {reason}") from error
    assert program is not None  # it is with dynamo=True
    return program.model_proto


def _square(model: Model) -> Any:
    """``photo``, (H, W, 3), uint8 -> ``square``, (1, 3, S, S), as ``Transform.to_tensor`` makes it."""
    transform = model.transform
    weights = "".join(_WEIGHTS.format(side=side, axis=axis) for axis, side in enumerate(("height", "width")))
    text = _SQUARE.format(ir=IR_VERSION, opset=OPSET, size=transform.size, weights=weights)
    mean, std = (np.array(of, dtype=np.float32)[:, None, None] for of in (transform.mean, transform.std))
    cells = np.arange(0.5, transform.size)[:, None]  # (S, 1)
    return _parsed(text, {"cells": cells, "factor": (1 / (255 * std)).astype(np.float32), "offset": mean / std})


def _decision(model: Model, shift: float) -> Any:
    """``scores``, (1,) -> ``score``, ``p_value`` and ``verdict``: 0 accept, 1 uncertain, 2 reject."""
    calibration, rates = model.calibration, model.config["decide"]
    scores = calibration.normal_scores.astype(np.float32)
    constants = {
        "normal_scores": scores if len(scores) else np.array([-np.inf], dtype=np.float32),  # which no photo is below
        "num_ranks": np.array(len(scores) + 1, dtype=np.float32),
        "uncertain_above": np.array(calibration.threshold(rates["uncertain_rate"]), dtype=np.float32),
        "shift": np.array(shift, dtype=np.float32),
        "slack": np.array(SLACK * score_spread(model), dtype=np.float32),
        "rejected_above": np.array(calibration.threshold(rates["false_alarm_rate"]), dtype=np.float32),
    }
    return _parsed(_DECISION.format(ir=IR_VERSION, opset=OPSET), constants)


def _parsed(text: str, constants: Mapping[str, Any]) -> Any:
    import onnx

    parsed = onnx.parser.parse_model(text)
    parsed.graph.initializer.extend(onnx.numpy_helper.from_array(of, name) for name, of in constants.items())
    return parsed


def _unified(graph: Any) -> Any:
    """The same graph, of the version that all pieces must share to be joined."""
    import onnx

    if next(of.version for of in graph.opset_import if not of.domain) != OPSET:
        graph = onnx.version_converter.convert_version(graph, OPSET)
    graph.ir_version = IR_VERSION
    return graph


def _rename(whole: Any, names: Mapping[str, str]) -> None:
    """Gives inputs, outputs and whatever refers to them other names."""
    graph = whole.graph
    for value in (*graph.input, *graph.output):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        for of in (node.input, node.output):
            of[:] = [names.get(name, name) for name in of]


@contextmanager
def _silence() -> Iterator[None]:
    """Without what an exporter prints and logs of its steps."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
