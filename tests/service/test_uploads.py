"""Hostile and odd bodies: each is a 4xx with a sentence, and leaves nothing behind."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from inlier.service.settings import MIB, Limits
from inlier.service.uploads import clean_name

JPEG = {"content-type": "image/jpeg"}
BOUNDARY = "----boundary"
FORM = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}


def form(*parts: bytes) -> bytes:
    """A form of parts, each with its head."""
    edge = b"--" + BOUNDARY.encode()
    return b"".join(edge + b"\r\n" + part + b"\r\n" for part in parts) + edge + b"--\r\n"


def file_part(name: bytes, content: bytes) -> bytes:
    return b'Content-Disposition: form-data; name="photo"; filename="' + name + b'"\r\n\r\n' + content


def refused(
    client: TestClient, content: bytes | Iterator[bytes], headers: dict[str, str], path: str = ""
) -> tuple[int, str]:
    """Status and code of an answer that must be an error with a sentence."""
    answer = client.post(f"/v1/inspect{path}", content=content, headers=headers)
    error = answer.json()["error"]
    assert set(error) == {"code", "message", "request_id"} and error["request_id"] == answer.headers["x-request-id"]
    assert error["message"].endswith(".") and "Traceback" not in answer.text
    inspections = client.app.state.inspections  # type: ignore[attr-defined]
    assert inspections.room.taken == inspections.line.num_waiting == 0
    return answer.status_code, error["code"]


def bomb(width: int, height: int) -> bytes:
    """A small PNG of very many black pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packer = zlib.compressobj(9)
    row = bytes(1 + width)
    rows = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_a_decompression_bomb_is_refused_by_its_header(client: TestClient) -> None:
    content = bomb(20_000, 5_000)
    assert len(content) < MIB
    tracemalloc.start()
    assert refused(client, content, {"content-type": "image/png"}) == (422, "unreadable")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 20 * MIB
    header = (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + b"IHDR"
        + struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 6, 0, 0, 0)
    )
    assert refused(client, header + bytes(64), JPEG) == (422, "unreadable")


def test_pixels_are_bounded_by_the_settings(make_client: Callable[..., TestClient]) -> None:
    client = make_client(limits=Limits(max_pixels=5000))
    buffer = io.BytesIO()
    Image.new("RGB", (100, 51)).save(buffer, "PNG")
    answer = client.post("/v1/inspect", content=buffer.getvalue(), headers=JPEG)
    assert answer.status_code == 422 and "is 100 x 51 px; at most 5000 px in all are taken" in answer.text


def test_a_length_beyond_the_limit_is_refused_unread(client: TestClient) -> None:
    assert refused(client, b"x", JPEG | {"content-length": str(10 << 30)}) == (413, "too_large")
    assert refused(client, b"x", JPEG | {"content-length": "9" * 30}) == (400, "bad_request")


def test_a_photo_larger_than_it_said_is_refused_at_the_limit(make_client: Callable[..., TestClient]) -> None:
    client = make_client(limits=Limits(max_bytes=MIB))
    assert refused(client, (bytes(100_000) for _ in range(13)), JPEG) == (413, "too_large")
    assert refused(client, form(file_part(b"a.jpg", bytes(MIB + 10))), FORM) == (413, "too_large")


@pytest.mark.parametrize(
    "kind",
    ["text/plain", "application/json", "application/x-www-form-urlencoded", "video/mp4", "image/svg+xml", "x", ""],
)
def test_other_types_are_refused(client: TestClient, kind: str) -> None:
    assert refused(client, b"{}", {"content-type": kind}) == (415, "wrong_type")


def test_a_photo_without_a_type_is_taken(client: TestClient, photos: list[bytes]) -> None:
    assert client.post("/v1/inspect", content=photos[0]).status_code == 200


@pytest.mark.parametrize(
    "content", [b"", b"x", b"\xff\xd8\xff", b"<svg/>", b"%PDF-1.4", b"PK\x03\x04", bytes(100_000)], ids=repr
)
def test_what_is_no_photo_is_unreadable(client: TestClient, content: bytes) -> None:
    assert refused(client, content[:100], JPEG) == (422, "unreadable")


def test_a_photo_cut_short_says_so(client: TestClient, photos: list[bytes]) -> None:
    answer = client.post("/v1/inspect", content=photos[0][: len(photos[0]) // 2], headers=JPEG)
    assert answer.status_code == 422
    assert answer.json()["error"]["message"] == (
        "The photo cannot be read: truncated: the file ends before the picture does."
    )


def test_a_hundred_thousand_parts_are_refused_early(client: TestClient) -> None:
    parts = form(*[b'Content-Disposition: form-data; name="x"\r\n\r\ny'] * 100_000)
    assert refused(client, parts, FORM) == (413, "too_large")
    in_one = b'Content-Disposition: form-data; name="photo"; filename="' + b"a" * 100_000 + b'"\r\n\r\nx'
    assert refused(client, form(in_one), FORM) == (400, "bad_request")
    many = b"".join(b"X-%d: y\r\n" % number for number in range(1000)) + b"\r\nx"
    assert refused(client, form(many), FORM) == (400, "bad_request")


@pytest.mark.parametrize(
    ("content", "headers", "expected"),
    [
        (b"", FORM, (400, "bad_request")),
        (b"--", FORM, (400, "bad_request")),
        (form(file_part(b"a.jpg", b"x"))[:-20], FORM, (400, "bad_request")),
        (form(b'Content-Disposition: form-data; name="a"\r\n\r\nb'), FORM, (422, "invalid")),
        (form(b"\r\n"), FORM, (422, "invalid")),
        (form(file_part(b"a", b"x"), file_part(b"b", b"y")), FORM, (413, "too_large")),
        (b"x", {"content-type": "multipart/form-data"}, (400, "bad_request")),
        (b"x", {"content-type": "multipart/form-data; boundary="}, (400, "bad_request")),
        (b"x", {"content-type": f"multipart/form-data; boundary={'b' * 500}"}, (400, "bad_request")),
        (b"x", {"content-type": "multipart/form-data; boundary*=utf-9''%ff"}, (400, "bad_request")),
        (form(b"No colon here\r\n\r\nx"), FORM, (400, "bad_request")),
    ],
)
def test_a_damaged_form_is_refused(
    client: TestClient, content: bytes, headers: dict[str, str], expected: tuple[int, str]
) -> None:
    assert refused(client, content, headers) == expected


def test_a_form_in_small_pieces_is_the_same_form(client: TestClient, photos: list[bytes]) -> None:
    whole = form(b'Content-Disposition: form-data; name="note"\r\n\r\nhello', file_part(b"a.jpg", photos[0]))
    pieces = (whole[place : place + 7] for place in range(0, len(whole), 7))
    answer = client.post("/v1/inspect", content=pieces, headers=FORM)
    assert answer.status_code == 200 and answer.json()["photo"] == "a.jpg"
    assert answer.json()["score"] == client.post("/v1/inspect", content=photos[0]).json()["score"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"../../etc/passwd", "passwd"),
        (b"C:\\\\photos\\\\7.jpg", "7.jpg"),
        ("grün.jpg".encode(), "grün.jpg"),
        (b"gr\xfcn.jpg", "gr�n.jpg"),
        (b"/", "photo"),
        (b"a\x00b\x1b[31m.jpg", "a�b�[31m.jpg"),
        (b"a<script>alert(1)", "a<script>alert(1)"),
        (b"n" * 1000, "n" * 200),
    ],
)
def test_names_are_text_to_read_and_no_paths(client: TestClient, photos: list[bytes], name: bytes, shown: str) -> None:
    answer = client.post("/v1/inspect", content=form(file_part(name, photos[0])), headers=FORM)
    assert (answer.status_code, answer.json()["photo"]) == (200, shown)


def test_odd_characters_become_one_that_can_be_shown() -> None:
    assert clean_name("a\nb\udcffc") == "a�b�c" and clean_name("") == "photo"


def test_room_for_photos_in_memory_is_bounded(make_client: Callable[..., TestClient], photos: list[bytes]) -> None:
    client = make_client(limits=Limits(max_held_bytes=1000))
    assert refused(client, photos[0], JPEG) == (429, "busy")


def test_broken_photos_never_break_the_service(client: TestClient, photos: list[bytes]) -> None:
    """A corpus of photos with bytes changed, removed and added, the same in each run."""
    random = np.random.default_rng(8)
    buffer = io.BytesIO()
    Image.open(io.BytesIO(photos[0])).save(buffer, "PNG")
    statuses = []
    for number in range(300):
        content = bytearray((photos[0], buffer.getvalue())[number % 2])
        for _ in range(int(random.integers(1, 12))):
            place = int(random.integers(len(content)))
            kind = random.integers(3)
            if kind == 0:
                content[place] = int(random.integers(256))
            elif kind == 1:
                del content[place : place + int(random.integers(1, 200))]
            else:
                content[place:place] = random.bytes(int(random.integers(1, 50)))
        answer = client.post("/v1/inspect", content=bytes(content), headers=JPEG)
        statuses.append(answer.status_code)
        assert answer.status_code in (200, 422), answer.text
    assert statuses.count(422) > 50 and statuses.count(200) > 20
