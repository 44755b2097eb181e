"""The same app behind Ray Serve: a replica with its own models on each of several machines.

Each replica reads the models from folders that its machine sees, and writes to one database, which for more than one
replica is PostgreSQL. Limits on waiting photos, and on the rate of a key, are those of each replica.
"""

from __future__ import annotations

import time
from typing import Any

from inlier.errors import ConfigError, MissingExtraError
from inlier.service.settings import Settings


def deployment(settings: Settings, *, num_replicas: int = 1, num_cpus: float = 1, num_gpus: float = 0) -> Any:
    """The service as an application of Ray Serve, for ``serve.run``.

    Args:
        settings: As for one machine; host and port are those of Ray's proxy, and not these.
        num_replicas: How many.
        num_cpus: Of each; its network uses as many threads.
        num_gpus: Of each.

    Raises:
        MissingExtraError: Ray Serve is not installed.
        ConfigError: Several replicas cannot write to one file of SQLite.
    """
    serve = _import_serve()
    if num_replicas > 1 and settings.record.startswith("sqlite"):
        raise ConfigError(
            f"{num_replicas} replicas need a database that all of them reach: --record postgresql://USER@HOST/NAME."
        )

    def build() -> Any:
        """Called in each replica."""
        import torch

        from inlier.service.app import create_app

        torch.set_num_threads(max(1, min(int(num_cpus), torch.get_num_threads())))
        return create_app(settings)

    options = {"num_cpus": num_cpus, "num_gpus": num_gpus}
    waiting = settings.limits.max_waiting + settings.limits.max_waiting // 4  # the app itself says no before Ray does
    made = serve.deployment(
        serve.ingress(build)(_Replica),
        name="inlier",
        num_replicas=num_replicas,
        ray_actor_options=options,
        max_ongoing_requests=waiting,
        graceful_shutdown_timeout_s=settings.limits.answer_seconds,
    )
    return made.bind()


def serve_on_ray(settings: Settings, address: str, *, num_replicas: int = 1, num_cpus: float = 1) -> None:
    """Runs the deployment on a cluster until interrupted.

    Args:
        settings: Where Ray's proxy listens, and what is served.
        address: Of the cluster; ``auto``: the one at hand.
        num_replicas: How many.
        num_cpus: Of each.

    Raises:
        MissingExtraError: Ray Serve is not installed.
        ConfigError: There is no such cluster, or the settings do not fit several replicas.
    """
    from inlier.scale import Workers, reached

    application = deployment(settings, num_replicas=num_replicas, num_cpus=num_cpus)
    serve = _import_serve()
    with reached(Workers(ray=address)):
        serve.start(http_options={"host": settings.host, "port": settings.port})
        serve.run(application, name="inlier", route_prefix="/")
        try:
            while True:
                time.sleep(1)
        finally:
            serve.shutdown()


class _Replica:
    """What Ray Serve puts the app into."""


def _import_serve() -> Any:
    """Ray Serve.

    Raises:
        MissingExtraError: It, or something that it needs, is not installed.
    """
    try:
        from ray import serve
    except ImportError as error:
        raise MissingExtraError(
            f"Ray Serve is not installed ({error}); install it with: pip install 'inlier[scale,service]' 'ray[serve]'"
        ) from error
    return serve
