"""The review pages alone, for one reviewer at this machine: what ``inlier review`` opens."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.responses import RedirectResponse

from inlier.service.access import Access
from inlier.service.assets import static_router
from inlier.service.review.routes import review_router
from inlier.service.review.workbench import Workbench
from inlier.service.security import add_security
from inlier.service.settings import LOCAL_HOSTS


def create_review_app(workbench: Workbench) -> FastAPI:
    """An app with the pages of one review, which nobody is asked for a key to see: for 127.0.0.1 only.

    Args:
        workbench: What the pages work on; closed when the app ends.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        workbench.close()

    app = FastAPI(title="inlier review", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.access = Access(None)
    app.include_router(review_router(lambda: workbench))
    app.include_router(static_router)
    app.add_api_route("/", _go_to_review, methods=["GET"], response_model=None)
    add_security(app, hosts=LOCAL_HOSTS)
    return app


async def _go_to_review() -> RedirectResponse:
    return RedirectResponse("/review")
