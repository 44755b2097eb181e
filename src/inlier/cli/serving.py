"""``inlier serve`` and ``inlier keys``: the HTTP service, and who may call it."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from inlier.cli.options import DeviceOption, JsonOption, choose_device, print_json, say, show
from inlier.errors import ConfigError, MissingExtraError

ServedArgument = Annotated[
    list[Path],
    typer.Argument(
        help="Folders that `inlier fit` wrote; each goes by its name, or by NAME=FOLDER.", metavar="MODEL..."
    ),
]
FilterOption = Annotated[
    Path | None,
    typer.Option(
        help="A model that sees each photo first: is it a part that is known, and which? The others are named by "
        "component and judge its condition.",
        metavar="MODEL",
    ),
]
HostOption = Annotated[str, typer.Option(help="Address to listen on; any but 127.0.0.1 needs --keys.")]
PortOption = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")]
KeysOption = Annotated[Path | None, typer.Option(help="File of API keys, which callers then need.", metavar="FILE")]
AllowHostOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Host name under which the service may be called; may be given several times.",
        show_default="any with --keys, else this machine's",
    ),
]
RecordOption = Annotated[
    str, typer.Option(help="Database of all verdicts: a file of SQLite, or a URL such as postgresql://...")
]
KeepOption = Annotated[
    Path | None, typer.Option(help="Keep every photo in this folder; without it none is kept.", metavar="DIR")
]
ReviewOption = Annotated[
    str | None, typer.Option(help="Database of a review, whose pages are shown under /review.", metavar="DB")
]
MaxBytesOption = Annotated[str, typer.Option(help="Largest photo that is taken, such as 20MiB.")]
MaxPixelsOption = Annotated[int, typer.Option(min=256, help="Pixels of the largest photo that is decoded.")]
RateOption = Annotated[
    float | None, typer.Option(min=0.001, help="Photos a second for each key.", show_default="no bound")
]
QueueOption = Annotated[int, typer.Option(min=1, help="Photos that may wait; more are told to try again.")]
TimeoutOption = Annotated[float, typer.Option(min=0.1, help="Seconds in which a verdict must be there.")]
HttpsOption = Annotated[bool, typer.Option("--https", help="Browsers come by HTTPS, through a proxy in front.")]
FalseAlarmOption = Annotated[
    float | None, typer.Option(help="Share of normal photos that may be rejected.", show_default="each model's")
]
UncertainOption = Annotated[
    float | None,
    typer.Option(help="Share of normal photos that may be rejected or uncertain.", show_default="each model's"),
]
ServedRayOption = Annotated[
    str | None,
    typer.Option(
        "--ray", help="Serve on a Ray cluster: auto for the one at hand, or its address.", metavar="auto|ADDRESS"
    ),
]
ReplicasOption = Annotated[int | None, typer.Option(min=1, help="With --ray: how many.", show_default="1")]
DecodersOption = Annotated[int, typer.Option("--workers", min=1, help="Threads that decode photos.")]


def serve(
    models: ServedArgument,
    filter: FilterOption = None,
    host: HostOption = "127.0.0.1",
    port: PortOption = 8000,
    keys: KeysOption = None,
    allow_host: AllowHostOption = None,
    record: RecordOption = "inlier-verdicts.db",
    keep_photos: KeepOption = None,
    review: ReviewOption = None,
    max_bytes: MaxBytesOption = "20MiB",
    max_pixels: MaxPixelsOption = 64_000_000,
    rate: RateOption = None,
    queue: QueueOption = 128,
    timeout: TimeoutOption = 30.0,
    https: HttpsOption = False,
    false_alarm_rate: FalseAlarmOption = None,
    uncertain_rate: UncertainOption = None,
    ray: ServedRayOption = None,
    replicas: ReplicasOption = None,
    device: DeviceOption = "auto",
    workers: DecodersOption = 2,
) -> None:
    """Answer over HTTP whether a photo looks normal, for an app; with a record of every verdict."""
    _check_installed()
    from inlier.databases import as_url
    from inlier.service.settings import MIB, Limits, Settings

    if replicas is not None and ray is None:
        raise ConfigError("--replicas needs --ray.")
    photo = parse_photo_size(max_bytes)
    settings = Settings(
        models=named_models(models),
        filter=filter,
        host=host,
        port=port,
        keys=keys,
        hosts=tuple(allow_host or ()),
        record=as_url(record),
        keep_photos=keep_photos,
        review=review,
        device=choose_device(device),
        workers=workers,
        rates=(false_alarm_rate, uncertain_rate),
        limits=Limits(
            max_bytes=photo,
            max_body_bytes=max(64 * MIB, 2 * photo),
            max_held_bytes=max(256 * MIB, 4 * photo),
            max_pixels=max_pixels,
            max_waiting=queue,
            rate=rate,
            answer_seconds=timeout,
        ),
        is_tls=https,
    )
    if ray is not None:
        from inlier.service.cluster import serve_on_ray

        serve_on_ray(settings, ray, num_replicas=replicas or 1)
        return
    from inlier.service.server import serve as serve_here

    serve_here(settings)


def keys(
    action: Annotated[str, typer.Argument(help="add, list or revoke.", metavar="add|list|revoke")],
    name: Annotated[str | None, typer.Argument(help="Who has the key.", metavar="NAME")] = None,
    keys: Annotated[Path, typer.Option(help="The file; made if need be.", metavar="FILE")] = Path("inlier-keys.json"),
    scope: Annotated[
        list[str] | None,
        typer.Option(help="inspect, review or admin; may be given several times.", show_default="inspect"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key for the service, list who has one, or take one back."""
    from inlier.service.keys import add_key, read_keys, revoke_key

    if action not in ("add", "list", "revoke"):
        raise ConfigError(f"`inlier keys` can add, list or revoke, got {action}.")
    if (name is None) != (action == "list"):
        raise ConfigError(f"`inlier keys {action}` takes {'no name' if name else 'the NAME of who has the key'}.")
    if scope and action != "add":
        raise ConfigError("--scope is for `inlier keys add`.")
    if name is not None and action == "add":
        scopes = scope or ["inspect"]
        key = add_key(keys, name, scopes)
        if as_json:
            print_json({"name": name, "scopes": scopes, "key": key})
        else:
            show(key, quiet=False)
            say(f"This is the key of {name}, for {', '.join(scopes)}. It is shown only now.", quiet=False)
    elif name is not None:
        revoke_key(keys, name)
        if as_json:
            print_json({"name": name, "revoked": True})
        else:
            say(f"The key of {name} is good for nothing any more.", quiet=False)
    else:
        _show_keys(read_keys(keys).keys, as_json=as_json)


def named_models(given: list[Path]) -> dict[str, Path]:
    """Name -> folder, of ``FOLDER`` or ``NAME=FOLDER``.

    Raises:
        ConfigError: Two have one name, or a name cannot stand in an address.
    """
    found: dict[str, Path] = {}
    for path in given:
        text = str(path)
        before, equals, after = text.partition("=")
        name, folder = (before, Path(after)) if equals and not path.exists() else (path.resolve().name, path)
        if not name or "/" in name or not name.isprintable() or len(name) > 100:
            raise ConfigError(f"{name!r} cannot be the name of a model; give it another as NAME=FOLDER.")
        if name in found:
            raise ConfigError(f"Two models are named {name}; give one another name as NAME=FOLDER.")
        found[name] = folder
    return found


def parse_photo_size(text: str) -> int:
    """Bytes of a size such as 20MiB.

    Raises:
        ConfigError: It is none, or no photo would be taken.
    """
    units = {"": 1, "KB": 1000, "MB": 1000**2, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}
    found = re.fullmatch(r"\s*(\d{1,12})\s*([A-Za-z]*)\s*", text)
    size = int(found[1]) * units.get(found[2].upper(), 0) if found else 0
    if size < 1000:
        raise ConfigError(f"--max-bytes must be a size such as 20MiB, at least 1KB, got {text!r}.")
    return size


def _show_keys(found: Any, *, as_json: bool) -> None:
    if as_json:
        print_json({"keys": [{"name": key.name, "scopes": key.scopes, "made": key.made} for key in found]})
        return
    width = max((len(key.name) for key in found), default=0)
    show("\n".join(f"{key.name:<{width}}  {key.made[:10]}  {', '.join(key.scopes)}" for key in found), quiet=not found)
    if not found:
        say("Nobody has a key.", quiet=False)


def _check_installed() -> None:
    """Raises MissingExtraError unless the service can run."""
    for name in ("fastapi", "prometheus_client", "python_multipart", "sqlalchemy", "uvicorn"):
        if find_spec(name) is None:
            raise MissingExtraError(
                f"The service needs {name}, which is not installed; install it with: pip install 'inlier[service]'"
            )
