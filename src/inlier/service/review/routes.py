"""The routes below ``/review``: each reads what was asked, calls the review, and shows a page."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Annotated, Literal, TypeVar

from fastapi import APIRouter, Depends, Path, Request
from starlette.responses import RedirectResponse, Response

from inlier.errors import ReviewError
from inlier.service.access import LOCAL, Caller, require
from inlier.service.refusals import Refusal
from inlier.service.review.assets import read_asset, render
from inlier.service.review.forms import (
    COLUMNS,
    Form,
    FormError,
    Grid,
    choices_of,
    grid_of,
    page_of,
    read_address,
    read_form,
    region_of,
)
from inlier.service.review.overviews import changes_view, overview
from inlier.service.review.photo_views import photo_view, regions_view
from inlier.service.review.pictures import Picture
from inlier.service.review.views import disagreements_view, frame_view, grid_view
from inlier.service.review.workbench import Workbench

_MAX_AGE_SECONDS = 600
_YEAR_SECONDS = 31_536_000

Of = TypeVar("Of")

_review = require("review")


def review_router(open_workbench: Callable[[], Workbench]) -> APIRouter:
    """Everything below ``/review``; callers need the scope ``review``.

    Args:
        open_workbench: Called once, when the first page is asked for.
    """
    lock, opened = threading.Lock(), list[Workbench]()

    def put(request: Request) -> None:
        with lock:
            if not opened:
                opened.append(open_workbench())
        request.state.workbench = opened[0]

    router = APIRouter(include_in_schema=False)
    needs = [Depends(_review), Depends(put)]
    for path, get in _GETS.items():
        router.add_api_route(f"/review{path}", get, methods=["GET"], dependencies=needs, response_model=None)
    for path, post in _POSTS.items():
        router.add_api_route(f"/review{path}", post, methods=["POST"], dependencies=needs, response_model=None)
    router.add_api_route("/review/static/{name}", show_asset, methods=["GET"], response_model=None)
    return router


def _opened(request: Request) -> Workbench:
    found: Workbench = request.state.workbench
    return found


Bench = Annotated[Workbench, Depends(_opened)]


def _reviewer(caller: Annotated[Caller, Depends(_review)], bench: Bench) -> str:
    """The name that decisions are written under."""
    return bench.reviewer if caller.name == LOCAL and bench.reviewer else caller.name


def _address(request: Request) -> Grid:
    return _asked(grid_of, read_address(request))


async def _posted(request: Request) -> Form:
    try:
        return await read_form(request)
    except FormError as error:
        raise Refusal(400, str(error), closes=True) from error


Signed = Annotated[Caller, Depends(_review)]
Reviewer = Annotated[str, Depends(_reviewer)]
Asked = Annotated[Grid, Depends(_address)]
Number = Annotated[int, Path(ge=0, le=999_999_999)]
Posted = Annotated[Form, Depends(_posted)]


def _asked(read: Callable[[Form], Of], form: Form) -> Of:
    """What a form says; a 400 with the sentence if it says nothing of the kind."""
    try:
        return read(form)
    except FormError as error:
        raise Refusal(400, str(error)) from error


def _is_partial(request: Request) -> bool:
    """Whether htmx asks, which wants the part that changes."""
    return request.headers.get("hx-request") == "true"


def show_asset(name: str, request: Request) -> Response:
    """A file that pages need."""
    content, media_type = read_asset(name)
    headers = {"cache-control": f"public, max-age={_YEAR_SECONDS}, immutable"} if request.url.query else {}
    return Response(content, media_type=media_type, headers=headers)


def show_overview(bench: Bench, reviewer: Reviewer) -> Response:
    """What there is to do."""
    return render("review_overview.html", kind="overview", reviewer=reviewer, **overview(bench, reviewer=reviewer))


def show_grid(bench: Bench, reviewer: Reviewer, grid: Asked) -> Response:
    """The next photos of a queue."""
    values = _found(lambda: grid_view(bench, grid, reviewer=reviewer)) | frame_view(bench, grid)
    return render("review_grid.html", kind="grid", reviewer=reviewer, **values)


def take_page(request: Request, bench: Bench, reviewer: Reviewer, form: Posted) -> Response:
    """Writes what the reviewer says of a page, and shows the next one."""
    grid, page = _asked(grid_of, form), _asked(page_of, form)
    choices = _asked(lambda of: choices_of(of, labels=bench.review.facts.labels), form)
    number = _found(lambda: bench.review.decide(choices, reviewer=reviewer, page=page))
    message = f"{number} photos taken." if number != 1 else "1 photo taken."
    return _next_page(request, bench, reviewer, grid, message if number else "These photos were taken already.")


def undo_page(request: Request, bench: Bench, reviewer: Reviewer, form: Posted) -> Response:
    """Takes the reviewer's last page back, and shows it again as it was."""
    grid = _asked(grid_of, form)
    numbers = bench.review.undo(reviewer=reviewer)
    if not numbers:
        return _next_page(request, bench, reviewer, grid, "There is nothing to take back.")
    again = Grid(grid.query, grid.columns, tuple(numbers[: COLUMNS[-1] ** 2]))
    message = f"{len(numbers)} photo{'s' * (len(numbers) != 1)} taken back."
    return _next_page(request, bench, reviewer, again, message)


def _next_page(request: Request, bench: Workbench, reviewer: str, grid: Grid, message: str) -> Response:
    if not _is_partial(request):
        return _see(f"/review/grid?{grid.with_photos(grid.again)}")
    values = grid_view(bench, grid, reviewer=reviewer, message=message)
    return render("review_grid_page.html", kind="grid", reviewer=reviewer, **values)


def show_photo(number: Number, bench: Bench, reviewer: Reviewer, grid: Asked) -> Response:
    """One photo, large."""
    values = _found(lambda: photo_view(bench, number, grid, reviewer=reviewer))
    return render("review_photo.html", kind="photo", reviewer=reviewer, **values)


def decide_photo(number: Number, bench: Bench, reviewer: Reviewer, grid: Asked, form: Posted) -> Response:
    """Writes what the reviewer says of one photo."""
    choices = _asked(lambda of: choices_of(of, labels=bench.review.facts.labels), form)
    if [choice.photo for choice in choices] != [number]:
        raise Refusal(400, "The form is of another photo; reload the page.")
    page = _asked(page_of, form)
    _found(lambda: bench.review.decide(choices, reviewer=reviewer, page=page))
    values = _found(lambda: photo_view(bench, number, grid, reviewer=reviewer, message="Saved."))
    return render("review_photo.html", kind="photo", reviewer=reviewer, **values)


def add_region(
    number: Number, request: Request, bench: Bench, reviewer: Reviewer, grid: Asked, form: Posted
) -> Response:
    """Adds a region that the reviewer drew."""
    region = _asked(region_of, form)
    before = bench.review.regions(number, reviewer=reviewer)
    if region not in before:  # sent twice, it is one
        _found(lambda: bench.review.set_regions(number, [*before, region], reviewer=reviewer))
    return _regions(number, request, bench, reviewer, grid, "Region saved.")


def erase_region(
    number: Number, request: Request, bench: Bench, reviewer: Reviewer, grid: Asked, form: Posted
) -> Response:
    """Takes away a region that the reviewer drew."""
    region = _asked(region_of, form)
    kept = [of for of in bench.review.regions(number, reviewer=reviewer) if of != region]
    _found(lambda: bench.review.set_regions(number, kept, reviewer=reviewer))
    return _regions(number, request, bench, reviewer, grid, "Region deleted.")


def _regions(number: Number, request: Request, bench: Workbench, reviewer: str, grid: Grid, message: str) -> Response:
    if not _is_partial(request):
        return _see(f"/review/photo/{number}?{grid.address}#regions")
    photo = _found(lambda: bench.review.photo(number))
    values = regions_view(bench, photo, reviewer=reviewer, message=message)
    return render("review_regions.html", kind="photo", reviewer=reviewer, grid=grid, **values)


def show_thumbnail(number: Number, request: Request, bench: Bench, width: int = 320) -> Response:
    """A photo, small."""
    return _picture(request, bench.pictures.photo(_path(bench, number), width=min(max(width, 1), 640)))


def show_image(number: Number, request: Request, bench: Bench, width: int = 1280) -> Response:
    """A photo."""
    return _picture(request, bench.pictures.photo(_path(bench, number), width=max(width, 1)))


def show_heatmap(number: Number, request: Request, bench: Bench, width: int = 1280) -> Response:
    """A photo under its anomaly map."""
    return _picture(request, bench.pictures.heatmap(_path(bench, number), width=max(width, 1)))


def show_contour(number: Number, request: Request, bench: Bench, width: int = 320) -> Response:
    """A line round what is unlike normal photos, to lie over the photo."""
    return _picture(request, bench.pictures.contour(_path(bench, number), width=min(max(width, 1), 640)))


def show_reason(
    number: Number, place: Number, side: Literal["here", "normal"], request: Request, bench: Bench
) -> Response:
    """A place in a photo, or the normal place most like it."""
    path = _path(bench, number)
    return _picture(request, bench.pictures.reason(path, place, is_reference=side == "normal"))


def show_reference(number: Number, request: Request, bench: Bench) -> Response:
    """A normal photo that the model learned from."""
    return _picture(request, bench.pictures.reference(number))


def show_disagreements(bench: Bench, reviewer: Reviewer) -> Response:
    """What reviewers differ on."""
    values = disagreements_view(bench, reviewer=reviewer)
    return render("review_disagreements.html", kind="disagreements", reviewer=reviewer, **values)


def settle(bench: Bench, reviewer: Reviewer, form: Posted) -> Response:
    """Writes a reviewer's word on what he knows to be disputed."""
    choices = _asked(lambda of: choices_of(of, labels=bench.review.facts.labels), form)
    page = _asked(page_of, form)
    _found(lambda: bench.review.decide(choices, reviewer=reviewer, page=page))
    values = disagreements_view(bench, reviewer=reviewer, message="Saved.")
    return render("review_disagreements.html", kind="disagreements", reviewer=reviewer, **values)


def show_changes(bench: Bench, reviewer: Reviewer, caller: Signed) -> Response:
    """What a refit would change."""
    values = changes_view(bench, may_replace=caller.may("admin"))
    return render("review_changes.html", kind="changes", reviewer=reviewer, **values)


def show_progress(bench: Bench, reviewer: Reviewer, caller: Signed) -> Response:
    """How far the refit is, and what came of it."""
    values = changes_view(bench, may_replace=caller.may("admin"))
    return render("review_changes_state.html", kind="changes", reviewer=reviewer, **values)


def start_refit(bench: Bench) -> Response:
    """Fits the model anew, in the background."""
    bench.start_refit()
    return _see("/review/changes")


def use_refit(bench: Bench, reviewer: Reviewer, admin: Annotated[Caller, Depends(require("admin"))]) -> Response:
    """Puts the model of the refit in the place of the one in use."""
    try:
        bench.use(reviewer=reviewer)
    except ReviewError as error:
        raise Refusal(409, str(error)) from error
    return _see("/review/changes")


def discard_refit(bench: Bench) -> Response:
    """Drops what the refit came to."""
    bench.discard()
    return _see("/review/changes")


_GETS: dict[str, Callable[..., Response]] = {
    "": show_overview,
    "/grid": show_grid,
    "/photo/{number}": show_photo,
    "/photo/{number}/thumb": show_thumbnail,
    "/photo/{number}/image": show_image,
    "/photo/{number}/heatmap": show_heatmap,
    "/photo/{number}/contour": show_contour,
    "/photo/{number}/reason/{place}/{side}": show_reason,
    "/reference/{number}": show_reference,
    "/disagreements": show_disagreements,
    "/changes": show_changes,
    "/changes/state": show_progress,
}
_POSTS: dict[str, Callable[..., Response]] = {
    "/grid": take_page,
    "/undo": undo_page,
    "/photo/{number}": decide_photo,
    "/photo/{number}/regions": add_region,
    "/photo/{number}/regions/erase": erase_region,
    "/disagreements": settle,
    "/changes/start": start_refit,
    "/changes/use": use_refit,
    "/changes/discard": discard_refit,
}


def _found(act: Callable[[], Of]) -> Of:
    """What comes of it; a 404 with the sentence where the review does not have what is asked for."""
    try:
        return act()
    except ReviewError as error:
        raise Refusal(404, str(error)) from error


def _path(bench: Workbench, number: Number) -> str:
    return _found(lambda: bench.review.photo(number)).path


def _see(address: str) -> Response:
    return RedirectResponse(address, status_code=303)


def _picture(request: Request, picture: Picture | None) -> Response:
    """A picture, or only that the one which the browser has is still right."""
    if picture is None:
        raise Refusal(404, "There is no such picture.")
    keep = f"private, max-age={_MAX_AGE_SECONDS}" if picture.is_lasting else "no-store"
    headers = {"etag": picture.tag, "cache-control": keep}
    if request.headers.get("if-none-match") == picture.tag:
        return Response(status_code=304, headers=headers)
    return Response(picture.content, media_type=picture.media_type, headers=headers)
