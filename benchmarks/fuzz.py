"""Whether any bytes make the decoder or the reader of archives crash: they give a picture or a reason, nothing else.

    python benchmarks/fuzz.py [--minutes 10] [--seed 0] [--out out/fuzz/crash.bin]

Small valid photos in every format, and a zip archive of some, are mutated: bytes changed, cut out, put in, taken from
another file; the checksums of half of the PNG files are then set right. A child process reads them, so that a decoder
in C that dies of it is noticed too: whatever the child dies of, an exception that is no ImageReadError, a signal, or an
input that takes more than 30 seconds, its bytes are kept and another child goes on. The exit status is 1 if there was
any.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import sys
import tempfile
import time
import warnings
import zipfile
import zlib
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pillow_heif
from PIL import Image

from inlier.data.images import decode, open_image
from inlier.data.intake.sources import find_sources, open_source
from inlier.errors import ImageReadError

PATIENCE_SECONDS = 30
REPORT_SECONDS = 30
FORMATS: tuple[tuple[str, dict[str, object]], ...] = (
    ("JPEG", {}),
    ("JPEG", {"progressive": True}),
    ("PNG", {}),
    ("WEBP", {}),
    ("WEBP", {"lossless": True}),
    ("GIF", {}),
    ("BMP", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("TIFF", {"compression": "jpeg"}),
    ("TIFF", {"compression": "tiff_adobe_deflate"}),
    ("HEIF", {}),
    ("AVIF", {}),
)
INTERESTING = tuple(
    bytes.fromhex(text) for text in ("00", "ff", "7f", "80", "ffff", "ffffffff", "7fffffff", "00000000")
)


def main() -> None:
    """Mutates and reads until the time is up, and prints what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/fuzz/crash.bin"), help="name of kept inputs; numbered")
    arguments = parser.parse_args()
    files = seeds()
    rng = np.random.default_rng(arguments.seed)
    outcomes: Counter[str] = Counter()
    crashes: list[str] = []
    start = reported = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        child = Child(Path(folder))
        while time.monotonic() - start < 60 * arguments.minutes:
            content = mutate(rng, files)
            outcome, is_crash = child.read(content)
            outcomes[f"{kind(content)}: {outcome}"] += 1
            if is_crash:
                kept = arguments.out.with_stem(f"{arguments.out.stem}-{len(crashes)}")
                kept.parent.mkdir(parents=True, exist_ok=True)
                kept.write_bytes(content)
                crashes.append(f"{kept}: {outcome}")
                child = Child(Path(folder))
            if time.monotonic() - reported > REPORT_SECONDS:
                reported = time.monotonic()
                print(f"{reported - start:.0f} s, {outcomes.total()} inputs, {len(crashes)} crashes", flush=True)
        child.stop()
    seconds = time.monotonic() - start
    print(f"{outcomes.total()} inputs in {seconds:.0f} s, {outcomes.total() / seconds:.0f}/s, seed {arguments.seed}")
    for outcome, number in sorted(outcomes.items()):
        print(f"{number:9} {outcome}")
    print("\n".join(crashes) or "No crash.")
    sys.exit(1 if crashes else 0)


def seeds() -> list[bytes]:
    """A small valid photo in every format, and an archive of the first three."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8))
    files = []
    for name, options in FORMATS:
        buffer = io.BytesIO()
        if name == "HEIF":
            pillow_heif.from_pillow(image).save(buffer)
        else:
            image.save(buffer, name, **options)
        files.append(buffer.getvalue())
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, content in enumerate(files[:3]):
            archive.writestr(f"roll/{number}.jpg", content)
        archive.writestr("manifest.csv", "path,label,mask\nroll/0.jpg,good,roll/2.jpg\nroll/1.jpg,good,\n")
    return [*files, buffer.getvalue()]


def mutate(rng: np.random.Generator, files: list[bytes]) -> bytes:
    """One of the files with one to eight changes, half of them among the first 200 bytes."""
    content = bytearray(files[rng.integers(len(files))])
    for _ in range(rng.integers(1, 9)):
        start = int(rng.integers(min(len(content), 200 if rng.random() < 0.5 else len(content)) + 1))
        stop = min(len(content), start + int(rng.integers(1, 2 ** rng.integers(1, 8))))
        match rng.integers(7):
            case 0:
                content[start:stop] = rng.bytes(stop - start)
            case 1:
                del content[start:stop]
            case 2:
                content[start:start] = rng.bytes(stop - start)
            case 3:
                content[start:start] = content[start:stop] * int(rng.integers(1, 20))
            case 4:
                value = INTERESTING[rng.integers(len(INTERESTING))]
                content[start : start + len(value)] = value
            case 5:
                if start < len(content):
                    content[start] ^= 1 << int(rng.integers(8))
            case _:
                other = files[rng.integers(len(files))]
                at = int(rng.integers(len(other)))
                content[start:stop] = other[at : at + stop - start]
    if rng.random() < 0.1:
        del content[int(rng.integers(len(content) + 1)) :]
    return mend(bytes(content)) if rng.random() < 0.5 else bytes(content)


def mend(content: bytes) -> bytes:
    """A PNG file with its checksums set right, so that what is behind them is read too; else as it is."""
    mended, at = bytearray(content), 8
    while content.startswith(b"\x89PNG") and at + 12 <= len(content):
        end = at + 8 + int.from_bytes(content[at : at + 4], "big")
        mended[end : end + 4] = zlib.crc32(content[at + 4 : end]).to_bytes(4, "big") if end + 4 <= len(content) else b""
        at = end + 4
    return bytes(mended)


def kind(content: bytes) -> str:
    """What a mutated file still looks like."""
    marks = {b"\xff\xd8": "JPEG", b"\x89PN": "PNG", b"RIFF": "WebP", b"GIF8": "GIF", b"BM": "BMP", b"II*": "TIFF"}
    found = next((name for mark, name in marks.items() if content.startswith(mark)), "")
    return found or ("HEIF or AVIF" if content[4:8] == b"ftyp" else "zip" if b"PK\x05\x06" in content else "other")


class Child:
    """A process that reads what it is sent."""

    def __init__(self, folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, inner = context.Pipe()
        self.process = context.Process(target=serve, args=(inner, folder), daemon=True)
        self.process.start()
        inner.close()

    def read(self, content: bytes) -> tuple[str, bool]:
        """What came of some bytes, and whether that is a crash, after which the child is gone."""
        try:
            self.pipe.send_bytes(content)
            if self.pipe.poll(PATIENCE_SECONDS):
                outcome = self.pipe.recv()
                if not outcome.startswith("raised "):
                    return outcome, False
            else:
                outcome = f"took more than {PATIENCE_SECONDS} s"
        except (EOFError, OSError):
            self.process.join()
            outcome = f"killed by signal {-(self.process.exitcode or 0)}"
        self.process.kill()
        self.process.join()
        return outcome, True

    def stop(self) -> None:
        """Ends the child."""
        self.process.kill()
        self.process.join()


def serve(pipe: Connection, folder: Path) -> None:
    """Reads what comes through the pipe, as a photo and where it may be one as an archive, and answers."""
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff writes a line for every fault that it finds
    while True:
        content = pipe.recv_bytes()
        try:
            answer = read_photo(io.BytesIO(content))
            if b"PK" in content:
                answer = read_archive(content, folder)
        except BaseException as error:
            answer = f"raised {type(error).__name__}: {error}"
        pipe.send(answer)


def read_photo(file: io.BytesIO) -> str:
    """What came of a photo, in a word or two."""
    try:
        with open_image(file) as opened:
            decode(opened, longest_side=64)
    except ImageReadError as error:
        return str(error).partition(":")[0].rstrip("0123456789 ")[:40] if "px" not in str(error) else "size refused"
    return "a picture"


def read_archive(content: bytes, folder: Path) -> str:
    """What came of an archive: how the last of its files fared."""
    (folder / "roll.zip").write_bytes(content)
    answer = "no member"
    for source in find_sources([folder]):
        try:
            with open_source(source) as file:
                answer = read_photo(io.BytesIO(file.read()))
        except ImageReadError as error:
            answer = str(error).partition(":")[0][:60]
    return answer


if __name__ == "__main__":
    main()
