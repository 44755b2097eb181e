"""The service against the library: throughput of many clients, the wait of one alone, and memory over many requests.

    python benchmarks/service.py DATA [--model MODEL] [--clients 64] [--seconds 60] [--requests 10000] [--quick]
        [--json FILE.json] [--write docs/service.md]

DATA is a data set; a model is fitted on it with the default settings unless one is given. The service runs in a process
of its own, the clients in another one (asyncio, a connection each, the next photo as soon as the last is answered), so
that all three share the machine's cores as they would with clients on the same machine. What the clients send are the
files themselves.

*Bulk* is ``inspect_photos`` on all photos, in this process, before the clients and after them. *One alone* is a client
that waits for each answer, against ``inspect_photos`` on one photo, in turns. Memory is the service's resident memory,
read once a second.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from urllib.request import urlopen

from inlier.data.manifest import Manifest, Photo
from inlier.model import Model, package_versions
from inlier.workflow import fit, inspect_photos
from intake import machine
from near_duplicates import check_markers, command, put_between, table

SERVE = "import typer; from inlier.cli.serving import serve; typer.run(serve)"
MARKER = "service"
MAX_PHOTOS = 200
MIB = 1 << 20

Record = dict[str, Any]


def main() -> None:
    """Measures, and prints the tables."""
    if sys.argv[1:2] == ["clients"]:
        asyncio.run(run_clients(json.loads(sys.argv[2])))
        return
    arguments = parse()
    if arguments.write:
        check_markers(arguments.write, MARKER)
    data = Manifest.read(arguments.data)
    photos = [Photo(photo.path, "test") for photo in data.photos if isinstance(photo.path, Path)][:MAX_PHOTOS]
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        folder_of_model = arguments.model or scratch / "model"
        if arguments.model is None:
            fit({}, data)[0].save(folder_of_model)
        model = Model.load(folder_of_model)
        results = measure(model, folder_of_model, photos, scratch, arguments)
    about = {
        "command": command(),
        "machine": machine(),
        "versions": package_versions(),
        "data_fingerprint": data.fingerprint(),
        "model": model.identity,
        "detector": model.config["fit"]["detector"],
        "num_photos": len(photos),
    }
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(about | results, indent=1) + "\n", encoding="utf-8")
    text = tables(results, about)
    print(text)
    if arguments.write:
        put_between(arguments.write, MARKER, text)


def parse() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", type=Path, help="a MODEL folder; left out, one is fitted")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--requests", type=int, default=10_000, help="over which memory is read")
    parser.add_argument("--alone", type=int, default=100, help="photos of the client alone")
    parser.add_argument("--quick", action="store_true", help="try it: 3 s, 300 requests")
    parser.add_argument("--json", type=Path, help="write the numbers")
    parser.add_argument("--write", type=Path, help="put the tables between the markers of this page")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seconds, arguments.requests, arguments.alone = 3.0, 300, 20
    return arguments


def measure(
    model: Model, folder: Path, photos: Sequence[Photo], scratch: Path, arguments: argparse.Namespace
) -> Record:
    """All numbers, in one run."""
    for _ in inspect_photos(model, photos[:16]):  # compiled, and warm
        pass
    before = bulk(model, photos, arguments.seconds)
    with service(folder, scratch) as server:
        paths = [str(photo.path) for photo in photos]
        alone = compare_alone(model, photos, server, arguments.alone)
        load = clients(server, paths, arguments.clients, seconds=arguments.seconds)
        curve = memory(server, paths, arguments.clients, arguments.requests)
    after = bulk(model, photos, arguments.seconds)
    bulk_rate = (before + after) / 2
    return {
        "bulk_photos_per_second": {"before": before, "after": after},
        "load": load | {"share_of_bulk": load["photos_per_second"] / bulk_rate},
        "alone": alone,
        "memory": curve,
    }


def bulk(model: Model, photos: Sequence[Photo], seconds: float) -> float:
    """Photos a second of the library, over about so long."""
    began, done = time.perf_counter(), 0
    while (spent := time.perf_counter() - began) < seconds:
        done += sum(1 for _ in inspect_photos(model, photos))
    return done / spent


@dataclass(frozen=True)
class Server:
    """A service that runs."""

    port: int
    pid: int

    @property
    def memory(self) -> int:
        """Resident bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="utf-8")
        return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmRSS:"))


@contextmanager
def service(folder: Path, scratch: Path) -> Iterator[Server]:
    """Runs the service until the end of the block."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = [str(folder), "--port", str(port), "--record", str(scratch / "verdicts.db"), "--device", "cpu"]
    with (scratch / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-c", SERVE, *arguments], stderr=log)
    try:
        deadline = time.monotonic() + 300
        while not answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"The service did not start: {(scratch / 'log').read_text(encoding='utf-8')}")
            time.sleep(0.1)
        yield Server(port, process.pid)
    finally:
        process.terminate()
        process.wait(120)


def answers(port: int) -> bool:
    """Whether the service is there."""
    try:
        with urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def compare_alone(model: Model, photos: Sequence[Photo], server: Server, number: int) -> Record:
    """Median milliseconds of one photo, by the library and by the service, in turns."""
    chosen = [photos[k % len(photos)] for k in range(number)]
    library, served = [], []
    for photo in [chosen[0], *chosen]:
        began = time.perf_counter()
        next(inspect_photos(model, [photo], workers=0))
        library.append(1000 * (time.perf_counter() - began))
        served += clients(server, [str(photo.path)], 1, requests=1)["milliseconds"]
    found = {"library_ms": median(library[1:]), "service_ms": median(served[1:])}
    return found | {"ratio": found["service_ms"] / found["library_ms"], "num_photos": number}


def memory(server: Server, paths: list[str], num_clients: int, requests: int) -> Record:
    """Resident MiB of the service while it answers so many requests."""
    told = {"port": server.port, "paths": paths, "clients": num_clients, "requests": requests}
    process = subprocess.Popen([sys.executable, __file__, "clients", json.dumps(told)], stdout=subprocess.PIPE)
    samples = [server.memory]
    while process.poll() is None:
        time.sleep(1 if requests > 1000 else 0.1)
        samples.append(server.memory)
    done = json.loads(process.communicate()[0])
    tenths = [round(samples[round(k * (len(samples) - 1) / 10)] / MIB, 1) for k in range(11)]
    return {"requests": sum(done["statuses"].values()), "statuses": done["statuses"], "mib_at_each_tenth": tenths}


def clients(
    server: Server, paths: list[str], number: int, *, seconds: float | None = None, requests: int | None = None
) -> Record:
    """What so many clients saw, in a process of their own."""
    told = {"port": server.port, "paths": paths, "clients": number, "seconds": seconds, "requests": requests}
    ran = subprocess.run([sys.executable, __file__, "clients", json.dumps(told)], stdout=subprocess.PIPE, check=True)
    found: Record = json.loads(ran.stdout)
    return found


async def run_clients(told: Record) -> None:
    """The clients' process: asks until the time, or the number of requests, is over."""
    bodies = [Path(path).read_bytes() for path in told["paths"]]
    state = {"left": told.get("requests") or sys.maxsize, "next": 0}
    until = time.perf_counter() + (told.get("seconds") or 1e9)
    statuses: Counter[int] = Counter()
    milliseconds: list[float] = []

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", told["port"])
        while state["left"] > 0 and time.perf_counter() < until:
            state["left"] -= 1
            state["next"] += 1
            body = bodies[state["next"] % len(bodies)]
            began = time.perf_counter()
            status = await ask(reader, writer, told["port"], body)
            milliseconds.append(1000 * (time.perf_counter() - began))
            statuses[status] += 1
            if status != 200:  # the service closes the connection of who is refused
                writer.close()
                await asyncio.sleep(0.05)
                reader, writer = await asyncio.open_connection("127.0.0.1", told["port"])
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(told["clients"])))
    spent = time.perf_counter() - began
    ordered = sorted(milliseconds)
    found = {
        "statuses": dict(statuses),
        "photos_per_second": statuses[200] / spent,
        "median_ms": ordered[len(ordered) // 2],
        "p99_ms": ordered[int(0.99 * (len(ordered) - 1))],
    }
    print(json.dumps(found | ({"milliseconds": milliseconds} if told["clients"] == 1 else {})))


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int, body: bytes) -> int:
    """Sends a photo, and reads the answer; returns its status."""
    head = (
        f"POST /v1/inspect HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/octet-stream\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    await writer.drain()
    answer = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length:")
    )
    await reader.readexactly(length)
    return int(answer.split(b" ", 2)[1])


def tables(results: Record, about: Record) -> str:
    """The numbers as Markdown."""
    load, alone, curve = results["load"], results["alone"], results["memory"]
    rates = results["bulk_photos_per_second"]
    statuses = ", ".join(f"{count} x {status}" for status, count in load["statuses"].items())
    rows = [
        ["library, bulk, before and after", f"{rates['before']:.1f} and {rates['after']:.1f} photos/s"],
        ["service, all clients", f"{load['photos_per_second']:.1f} photos/s, {load['share_of_bulk']:.2f} of bulk"],
        ["their wait, median and 99 of 100", f"{load['median_ms']:.0f} and {load['p99_ms']:.0f} ms"],
        ["answers", statuses],
        ["library, one photo", f"{alone['library_ms']:.1f} ms"],
        ["service, one client alone", f"{alone['service_ms']:.1f} ms, {alone['ratio']:.2f} of that"],
        [
            f"memory at each tenth of {curve['requests']} requests",
            " ".join(f"{of:.0f}" for of in curve["mib_at_each_tenth"]) + " MiB",
        ],
    ]
    source = f"`{about['command']}`, {about['detector']}, {about['num_photos']} photos, {about['machine']}."
    return f"{table(['', 'measured'], rows)}\n\n{source}"


if __name__ == "__main__":
    main()
