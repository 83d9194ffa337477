"""The page's files: those of `serving/page/`, known by name before the first request."""

from pathlib import Path

from fastapi import FastAPI
from starlette.responses import Response

from maquette.serving.api.errors import ApiError

FOLDER = Path(__file__).parents[1] / "page"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; "
    "style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
"""header fields of a page without scripts of its own: nothing from elsewhere is loaded or run"""
PAGE_HEADERS = HEADERS | {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}
"""the same without styles in the markup, for the page that shows what models write"""


def page_routes(app: FastAPI) -> None:
    """Add `/`, which is index.html, and `/page/NAME` for the files beside it."""
    files = {path.name: path for path in FOLDER.iterdir() if path.suffix in TYPES}

    async def file(name: str) -> Response:
        if name not in files:
            raise ApiError(404, "there is no such file")
        path = files[name]
        return Response(path.read_bytes(), headers=PAGE_HEADERS, media_type=TYPES[path.suffix])

    async def index() -> Response:
        return await file("index.html")

    app.add_api_route("/", index, include_in_schema=False)
    app.add_api_route("/page/{name}", file, include_in_schema=False)
