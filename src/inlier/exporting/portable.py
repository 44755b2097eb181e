"""FILE.onnx: a fitted model that needs no PyTorch, read and asked for verdicts by ONNX Runtime alone."""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from inlier.config import Config
from inlier.data.images import read_image
from inlier.data.manifest import Photo
from inlier.decision.calibration import Calibration
from inlier.errors import ImageReadError, MissingExtraError, ModelError
from inlier.outputs import as_text
from inlier.records import Box, Decision, Inspection, Verdict

SUFFIX = ".onnx"

METADATA = "inlier"
"""Key of the file's metadata under which the header stands, as JSON."""

KIND, FORMAT_VERSION = "inlier-export", 1

DECISIONS: tuple[Decision, ...] = ("accept", "uncertain", "reject")
"""What the numbers in the output ``verdict`` mean."""

NO_REASONS = "An exported model knows no reasons: the normal photos that a score was compared with are not in the file."

_AHEAD = 16
_REQUIRED = ("score", "p_value", "verdict")


@dataclass(frozen=True, slots=True)
class Opinion:
    """What the file says of one photo.

    Attributes:
        score: Higher is more anomalous.
        p_value: Share of calibration photos at least this anomalous, in (0, 1].
        decision: By the rates that were given when it was exported.
        anomaly_map: Shape (h, w), float32; None where the detector has no place.
        component: Most similar class, where the model knows some.
        component_probability: Of that class, in (0, 1].
    """

    score: float
    p_value: float
    decision: Decision
    anomaly_map: NDArray[np.float32] | None = None
    component: str | None = None
    component_probability: float | None = None


@dataclass(frozen=True, slots=True)
class NoReferences:
    """The normal photos behind an exported model: none are in it."""

    names: tuple[str, ...] = ()

    def crop(self, number: int, box: Box) -> bytes:
        """Nothing, as for a photo without a thumbnail."""
        return b""


@dataclass(frozen=True, eq=False)
class Portable:
    """An exported model.

    Attributes:
        header: What the file says of itself.
        digest: SHA-256 of the file, in hexadecimal.
        session: ONNX Runtime's.
        references: None.

    Example:
        >>> portable = Portable.load(Path("piston.onnx"))  # doctest: +SKIP
        >>> portable.judge(read_image(Path("new.jpg"), min_side=portable.size)).decision  # doctest: +SKIP
        'accept'
    """

    header: Mapping[str, Any]
    digest: str
    session: Any = field(repr=False)
    references: NoReferences = NoReferences()

    @classmethod
    def load(cls, path: Path, *, num_threads: int | None = None) -> Self:
        """Reads what ``inlier export`` wrote.

        Args:
            path: The file.
            num_threads: That compute a photo; None: as many as ``OMP_NUM_THREADS`` says, else one a core.

        Raises:
            MissingExtraError: ONNX Runtime is not installed.
            ModelError: There is no such file, or it is damaged, no model of inlier, or of a version not read here.
        """
        shown = as_text(path)
        try:
            content = path.read_bytes()
        except FileNotFoundError as error:
            raise ModelError(f"The model {shown} does not exist.") from error
        except OSError as error:
            raise ModelError(f"{shown} cannot be read: {error.strerror}.") from error
        return cls.read(content, shown=shown, num_threads=num_threads)

    @classmethod
    def read(cls, content: bytes, *, shown: str, num_threads: int | None = None) -> Self:
        """The same from bytes; ``shown`` names them in sentences."""
        session = _open(content, shown, num_threads)
        header = _header(session, shown)
        _check_graph(session, header, shown)
        return cls(header, hashlib.sha256(content).hexdigest(), session)

    @property
    def config(self) -> Config:
        """The configuration of the model, and the rates at which the file decides."""
        return cast(Config, self.header["config"])

    @property
    def size(self) -> int:
        """Pixels of each side of what the network sees; larger photos may be reduced this far before."""
        return int(self.config["input"]["size"])

    @cached_property
    def calibration(self) -> Calibration:
        """The scores of normal photos that the model had not seen."""
        of = self.header["calibration"]
        return Calibration(np.array(of["scores"], dtype=float), map_maxima=np.array(of["map_maxima"], dtype=float))

    @property
    def facts(self) -> dict[str, Any]:
        """Where the model comes from."""
        return cast("dict[str, Any]", self.header["facts"])

    @property
    def identity(self) -> str:
        """That of the model, and six digits of this file: another export may score a little differently."""
        return f"{self.header['identity']}-{self.digest[:6]}"

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences that a reader must not miss."""
        return (*self.header["notes"], NO_REASONS)

    def judge(self, pixels: NDArray[np.uint8]) -> Opinion:
        """The file's opinion of a photo.

        Args:
            pixels: Shape (H, W, 3), uint8, upright RGB, of any size.

        Raises:
            ValueError: The array has another shape or type.
        """
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
            raise ValueError(f"pixels must be uint8 of shape (H, W, 3), got {pixels.dtype} of shape {pixels.shape}.")
        names = [of.name for of in self.session.get_outputs()]
        found = dict(zip(names, self.session.run(names, {"photo": pixels}), strict=True))
        component, probability = found.get("component"), found.get("component_probability")
        return Opinion(
            float(found["score"]),
            float(found["p_value"]),
            DECISIONS[int(found["verdict"])],
            found.get("map"),
            None if component is None else self.header["components"][int(component)],
            None if probability is None else float(probability),
        )

    def inspect_photos(self, photos: Sequence[Photo], *, workers: int = 2) -> Iterator[Inspection]:
        """One inspection for every photo, in the order given; unreadable ones say why.

        Args:
            photos: Which.
            workers: Threads that decode ahead.
        """
        for photo, pixels in _read(photos, self.size, workers):
            if isinstance(pixels, str):
                yield Inspection(Verdict(as_text(photo.path), None, None, "unreadable", error=as_text(pixels)))
                continue
            of = self.judge(pixels)
            verdict = Verdict(
                as_text(photo.path), of.score, of.p_value, of.decision, of.component, of.component_probability
            )
            yield Inspection(verdict, pixels, of.anomaly_map)


def is_export(path: Path) -> bool:
    """Whether a MODEL argument means an exported model, by its name."""
    return path.suffix.lower() == SUFFIX and not path.is_dir()


def _open(content: bytes, shown: str, num_threads: int | None) -> Any:
    """A session of ONNX Runtime, which is told to keep to itself."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError(
            f'{shown} is run by ONNX Runtime, which is not installed; install it with: pip install "inlier[export]"'
        ) from error
    if hasattr(onnxruntime, "disable_telemetry_events"):
        onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = num_threads or int(os.environ.get("OMP_NUM_THREADS") or 0)
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # it raises classes of its own that share nothing else
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{shown} is damaged, or no ONNX file that can be run here: {reason}") from error


def _header(session: Any, shown: str) -> dict[str, Any]:
    try:
        header = json.loads(session.get_modelmeta().custom_metadata_map[METADATA])
    except (KeyError, ValueError) as error:
        raise ModelError(f"{shown} is an ONNX file, but none that `inlier export` wrote.") from error
    if not isinstance(header, dict) or header.get("kind") != KIND:
        raise ModelError(f"{shown} is an ONNX file, but none that `inlier export` wrote.")
    if header.get("format_version") != FORMAT_VERSION:
        raise ModelError(
            f"{shown} has format version {header.get('format_version')}, and this inlier reads {FORMAT_VERSION}; "
            "export the model again, or use the version of inlier that wrote it."
        )
    return header


def _check_graph(session: Any, header: Mapping[str, Any], shown: str) -> None:
    """Raises ModelError unless the graph and the header are what they are to each other in an exported model."""
    inputs = [(of.name, of.type, len(of.shape)) for of in session.get_inputs()]
    outputs = {of.name for of in session.get_outputs()}
    is_sound = inputs == [("photo", "tensor(uint8)", 3)] and outputs.issuperset(_REQUIRED)
    try:
        is_sound &= header["config"]["input"]["size"] >= 1 and ("component" in outputs) == bool(header["components"])
        is_sound &= header["config"]["decide"].keys() == {"false_alarm_rate", "uncertain_rate"}
        rest = (header["config"]["fit"]["detector"], header["config"]["backbone"]["name"], header["facts"].items())
        is_sound &= len(rest) == 3 and isinstance(header["notes"], list) and isinstance(header["identity"], str)
        Calibration(np.array(header["calibration"]["scores"]), map_maxima=np.array(header["calibration"]["map_maxima"]))
    except (KeyError, TypeError, ValueError, AttributeError):
        is_sound = False
    if not is_sound:
        raise ModelError(f"{shown} is damaged: what it says of itself does not fit what is in it.")


def _read(photos: Sequence[Photo], size: int, workers: int) -> Iterator[tuple[Photo, NDArray[np.uint8] | str]]:
    """Each photo with its pixels, or the reason why it has none; threads decode a few ahead."""
    if not workers or len(photos) < 2:
        yield from ((photo, _pixels(photo, size)) for photo in photos)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    pending: deque[tuple[Photo, Future[NDArray[np.uint8] | str]]] = deque()
    try:
        for photo in photos:
            pending.append((photo, pool.submit(_pixels, photo, size)))
            if len(pending) > _AHEAD:
                first, pixels = pending.popleft()
                yield first, pixels.result()
        while pending:
            first, pixels = pending.popleft()
            yield first, pixels.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _pixels(photo: Photo, size: int) -> NDArray[np.uint8] | str:
    try:
        return read_image(photo.path, min_side=size)
    except ImageReadError as error:
        return str(error)
