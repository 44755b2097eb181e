"""create_app(): the service as an ASGI app, for uvicorn, for Ray Serve, and for tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI

from inlier import __version__
from inlier.service import api, pages
from inlier.service.access import Access
from inlier.service.assets import static_router
from inlier.service.inspecting import Inspections
from inlier.service.logs import RequestLog
from inlier.service.metrics import Metrics
from inlier.service.security import add_security
from inlier.service.settings import Settings

if TYPE_CHECKING:
    from inlier.service.review.workbench import Workbench

_DESCRIPTION = """Verdicts on photos: does this look as the normal ones do?

Send a photo to `/v1/inspect`. Every answer but a successful one is `{"error": {"code", "message", "request_id"}}`."""


def create_app(settings: Settings, *, opened: Inspections | None = None) -> FastAPI:
    """The service; its models are loaded once, when it starts, and finish what they took when it ends.

    Args:
        settings: What is served, and to whom.
        opened: Models and record of these settings, for who wants to know first whether they can be used.

    Raises:
        InlierError: The key file cannot be used; when the app starts: a model or the record cannot.
    """
    metrics = opened.metrics if opened else Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.inspections = opened or Inspections(settings, metrics)
        try:
            yield
        finally:
            app.state.inspections.close()
            if app.state.workbench is not None:
                app.state.workbench.close()

    app = FastAPI(
        title="inlier",
        description=_DESCRIPTION,
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # these pages would load scripts from elsewhere
        redoc_url=None,
    )
    app.state.settings, app.state.workbench = settings, None
    app.state.access = Access(settings.keys, is_tls=settings.is_tls)
    app.include_router(api.router)
    app.include_router(pages.router)
    app.include_router(static_router)
    if settings.review is not None:
        _add_review(app, settings.review, settings.device)
    add_security(app, hosts=settings.allowed_hosts)
    app.add_middleware(RequestLog, metrics=metrics)
    if settings.keys is None:
        _drop_keys_from_schema(app)
    return app


def _add_review(app: FastAPI, database: str, device: str) -> None:
    """The pages of a review, which is opened when the first of them is asked for."""
    from inlier.service.review.routes import review_router
    from inlier.service.review.workbench import Workbench

    def open_workbench() -> Workbench:
        app.state.workbench = Workbench.open(database, device=device)
        opened: Workbench = app.state.workbench
        return opened

    app.include_router(review_router(open_workbench))


def _drop_keys_from_schema(app: FastAPI) -> None:
    """Lets the OpenAPI document say that nobody is asked for a key."""
    complete = app.openapi

    def without_keys() -> dict[str, Any]:
        schema = complete()
        schema.get("components", {}).pop("securitySchemes", None)
        for path in schema["paths"].values():
            for operation in path.values():
                operation.pop("security", None)
        return schema

    app.openapi = without_keys  # type: ignore[method-assign]
