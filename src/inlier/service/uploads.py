"""The body of a request -> the photos in it, in memory, within limits that are checked before and while it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.message import Message

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser
from starlette.requests import ClientDisconnect, Request

from inlier.service.limits import Room
from inlier.service.refusals import Refusal
from inlier.service.settings import MIB, Limits

RAW_TYPES = (
    "image/jpeg", "image/png", "image/webp", "image/bmp", "image/tiff", "image/heic", "image/heif", "image/gif",
    "image/avif", "application/octet-stream",
)  # fmt: skip
"""Types that a photo as the whole body may be called; what it is, its first bytes tell."""

FORM_TYPE = "multipart/form-data"

MAX_PART_HEADER_BYTES = 4096
_MAX_PART_HEADERS = 8
_MAX_NAME = 200


@dataclass(frozen=True, slots=True)
class Upload:
    """A photo as it came.

    Attributes:
        name: What the client calls it, cleaned; shown, and used for nothing else.
        content: Its bytes.
    """

    name: str
    content: bytes


@asynccontextmanager
async def received(request: Request, limits: Limits, room: Room, *, is_batch: bool) -> AsyncIterator[list[Upload]]:
    """The photos of a request, which take up room until the end of the block.

    Args:
        request: Its body is a photo, or a form whose files are photos.
        limits: What it may be.
        room: For all photos in memory.
        is_batch: Whether several are welcome.

    Raises:
        Refusal: It is too large, too slow, of another type, no form, or holds no photo, or too many.
    """
    largest = limits.max_body_bytes if is_batch else limits.max_bytes + MIB // 4  # a form has a little around it
    content_type, boundary = _content_type(request)
    if content_type != FORM_TYPE and content_type not in RAW_TYPES:
        raise Refusal(
            415, f"Send a photo as {RAW_TYPES[0]}, or another type of picture, or as a file in {FORM_TYPE}.",
            closes=True,
        )  # fmt: skip
    declared = _declared(request)
    if declared is not None and declared > largest:
        raise Refusal(413, f"The request has {declared} bytes; at most {largest} are taken.", closes=True)
    with room.hold() as grow:
        if content_type == FORM_TYPE:
            form = _Form(boundary, limits, max_photos=limits.max_photos if is_batch else 1)
            await _read(request, form.write, grow, largest, limits.body_seconds)
            uploads = form.uploads()
        else:
            chunks: list[bytes] = []
            await _read(request, chunks.append, grow, min(largest, limits.max_bytes), limits.body_seconds)
            uploads = [Upload("photo", b"".join(chunks))]
            chunks.clear()
        yield uploads


async def _read(
    request: Request, take: Callable[[bytes], object], grow: Callable[[int], None], largest: int, seconds: float
) -> None:
    """Gives the body on as it comes; all of it within a time, so that nobody keeps a place by sending slowly."""
    size = 0
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                size += len(chunk)
                if size > largest:
                    raise Refusal(413, f"The request is larger than {largest} bytes.", closes=True)
                grow(len(chunk))
                take(chunk)
    except TimeoutError as error:
        raise Refusal(408, f"The photo did not arrive within {seconds:g} s.", closes=True) from error
    except ClientDisconnect as error:
        raise Refusal(400, "The connection ended before the photo did.", closes=True) from error


def _declared(request: Request) -> int | None:
    """The length that the client says; None if it sends in chunks."""
    text = request.headers.get("content-length")
    if text is None:
        return None if "transfer-encoding" in request.headers else 0
    if not (text.isascii() and text.isdecimal() and len(text) <= 19):
        raise Refusal(400, "The header Content-Length is no number.", closes=True)
    return int(text)


def _content_type(request: Request) -> tuple[str, bytes]:
    """The type of the body, and the boundary of a form's parts."""
    header = Message()
    header["content-type"] = request.headers.get("content-type", RAW_TYPES[-1])
    boundary = header.get_param("boundary")
    if header.get_content_type() == FORM_TYPE and not (isinstance(boundary, str) and 0 < len(boundary) <= 70):
        raise Refusal(400, "The form does not say what is between its parts (boundary).", closes=True)
    return header.get_content_type(), boundary.encode("latin-1", "replace") if isinstance(boundary, str) else b""


@dataclass(slots=True)
class _Part:
    """A part of a form, while it comes."""

    headers: dict[bytes, bytes] = field(default_factory=dict)
    name: bytes = b""
    value: bytes = b""
    content: bytearray | None = None
    file_name: str = ""


class _Form:
    """A form, parsed as it comes: its files are kept, its other fields are passed over."""

    def __init__(self, boundary: bytes, limits: Limits, *, max_photos: int) -> None:
        self._limits, self._max_photos = limits, max_photos
        self._num_parts, self._part, self._is_whole = 0, _Part(), False
        self._found: list[Upload] = []
        callbacks = {
            "on_part_begin": self._begin,
            "on_header_field": self._on_field,
            "on_header_value": self._on_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers,
            "on_part_data": self._on_data,
            "on_part_end": self._on_part_end,
            "on_end": self._on_end,
        }
        try:
            self._parser = MultipartParser(
                boundary,
                callbacks,  # type: ignore[arg-type]
                max_header_count=_MAX_PART_HEADERS,
                max_header_size=MAX_PART_HEADER_BYTES,
            )
        except FormParserError as error:
            raise Refusal(400, "The form's boundary cannot be used.", closes=True) from error

    def write(self, chunk: bytes) -> None:
        """Parses the next bytes."""
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise Refusal(400, "The form is damaged, or a part has too long a head.", closes=True) from error

    def uploads(self) -> list[Upload]:
        """The files, once all is there."""
        if not self._is_whole:
            raise Refusal(400, "The form is cut short.", closes=True)
        if not self._found:
            raise Refusal(422, "The form has no file; send the photo as one, such as `-F photo=@photo.jpg`.")
        return self._found

    def _begin(self) -> None:
        self._part = _Part()
        self._num_parts += 1
        if self._num_parts > self._limits.max_parts:
            raise Refusal(413, f"The form has more than {self._limits.max_parts} parts.", closes=True)

    def _on_field(self, data: bytes, start: int, end: int) -> None:
        self._part.name += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._part.value += data[start:end]

    def _on_header_end(self) -> None:
        self._part.headers[self._part.name.lower()] = self._part.value
        self._part.name = self._part.value = b""

    def _on_headers(self) -> None:
        disposition = Message()
        disposition["content-disposition"] = _text(self._part.headers.get(b"content-disposition", b""))
        file_name = disposition.get_filename()
        if file_name is None:
            return
        if len(self._found) >= self._max_photos:
            more = "Send several to /v1/inspect/batch." if self._max_photos == 1 else ""
            raise Refusal(413, f"At most {self._max_photos} photos are taken at once. {more}".strip(), closes=True)
        self._part.file_name, self._part.content = clean_name(file_name), bytearray()

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._part.content is None:
            return
        self._part.content += memoryview(data)[start:end]
        if len(self._part.content) > self._limits.max_bytes:
            raise Refusal(413, f"A photo is larger than {self._limits.max_bytes} bytes.", closes=True)

    def _on_part_end(self) -> None:
        if self._part.content is not None:
            self._found.append(Upload(self._part.file_name, bytes(self._part.content)))
            self._part = _Part()

    def _on_end(self) -> None:
        self._is_whole = True


def clean_name(name: str) -> str:
    """What a client calls a photo, as a short line of text without folders: for people to read, never for a path."""
    last = name.replace("\\", "/").rpartition("/")[2]
    text = "".join(character if character.isprintable() else "�" for character in last)
    return text[:_MAX_NAME].encode("utf-8", errors="replace").decode() or "photo"


def _text(value: bytes) -> str:
    """A header's value in one line; browsers send names as UTF-8."""
    return value.decode("utf-8", errors="replace").replace("\r", " ").replace("\n", " ")
