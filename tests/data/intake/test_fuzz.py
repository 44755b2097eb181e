from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inlier.data.images import decode, open_image
from inlier.data.intake.archives import open_archive
from inlier.data.intake.sources import find_sources, open_source
from inlier.errors import ImageReadError

from .broken import encoded, zipped

PHOTOS = (
    encoded("JPEG"),
    encoded("JPEG", progressive=True),
    *(encoded(kind) for kind in ("PNG", "WEBP", "GIF", "BMP", "TIFF", "HEIF", "AVIF")),
    encoded("WEBP", lossless=True),
    encoded("TIFF", compression="tiff_lzw"),
)
ARCHIVE = zipped(("a/1.png", encoded("PNG")), ("manifest.csv", b"path,label\na/1.png,good\n"))

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, on metadata, which no photo is refused for
fuzzed = settings(
    derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@st.composite
def mutated(draw: st.DrawFn, files: tuple[bytes, ...]) -> bytes:
    """One of the files, with bytes changed, cut out, put in, or taken from another."""
    content = bytearray(draw(st.sampled_from(files)))
    for _ in range(draw(st.integers(1, 4))):
        # Half of all changes fall among the first bytes, where headers are.
        start = draw(st.integers(0, len(content)) | st.integers(0, min(len(content), 100)))
        stop = min(len(content), start + draw(st.integers(0, 64)))
        match draw(st.sampled_from(("change", "cut", "insert", "splice", "end"))):
            case "change":
                content[start:stop] = draw(st.binary(min_size=stop - start, max_size=stop - start))
            case "cut":
                del content[start:stop]
            case "insert":
                content[start:start] = draw(st.binary(max_size=64) | st.just(bytes(64)) | st.just(b"\xff" * 8))
            case "splice":
                other = draw(st.sampled_from(files))
                content[start:] = other[draw(st.integers(0, len(other))) :]
            case "end":
                del content[start:]
    return bytes(content)


@given(mutated(PHOTOS))
@settings(fuzzed, max_examples=600)
def test_any_bytes_are_a_picture_or_a_reason(content: bytes) -> None:
    try:
        with open_image(io.BytesIO(content)) as file:
            image = decode(file, longest_side=32)
        assert image.mode == "RGB"
        assert max(image.size) <= 32
    except ImageReadError as error:
        assert str(error)


@given(mutated((ARCHIVE,)))
@settings(fuzzed, max_examples=600)
def test_any_archive_gives_bytes_or_reasons(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "roll.zip"
    path.write_bytes(content)
    sources = list(find_sources([tmp_path]))
    assert sources
    assert len({source.name for source in sources}) == len(sources)
    for source in sources:
        try:
            with open_source(source) as file:
                assert len(file.read()) == source.size
        except ImageReadError as error:
            assert str(error)
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_mutated_is_valid(tmp_path: Path) -> None:
    (tmp_path / "roll.zip").write_bytes(ARCHIVE)
    archive = open_archive(tmp_path / "roll.zip")
    for content in (*PHOTOS, archive.read("good.jpg"), archive.read("a/1.png")):
        with open_image(io.BytesIO(content)) as file:
            assert decode(file, longest_side=32).size == (32, 27)
