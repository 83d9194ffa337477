"""The page's files: those of `serving/page/`, known by name before the first request."""

import mimetypes
from pathlib import Path

from fastapi import FastAPI
from starlette.responses import Response

from maquette.serving.api.errors import ApiError

FOLDER = Path(__file__).parents[1] / "page"
SUFFIXES = (".html", ".js", ".css", ".svg", ".png", ".ico", ".woff2")
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; "
    "style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
"""header fields of a page: nothing from elsewhere is loaded or run"""


def page_routes(app: FastAPI) -> None:
    """Add `/`, which is index.html, and `/page/NAME` for the files beside it."""
    files = {path.name: path for path in FOLDER.iterdir() if path.suffix in SUFFIXES}

    async def file(name: str) -> Response:
        if name not in files:
            raise ApiError(404, "there is no such file")
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        return Response(files[name].read_bytes(), headers=HEADERS, media_type=kind)

    async def index() -> Response:
        return await file("index.html")

    app.add_api_route("/", index, include_in_schema=False)
    app.add_api_route("/page/{name}", file, include_in_schema=False)
