"""`/docs`: the OpenAPI document as a page. Its scripts come from an installed package, and nothing from elsewhere."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse

from serving.protocols.base import Protocol
from wander.errors import NotFound

PACKAGE = "fastapi_offline"
"""Brings the files of Swagger UI; nothing else of it is used."""
FILES = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>wander</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="page"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
START = 'SwaggerUIBundle({url: "openapi.json", dom_id: "#page", deepLinking: true, validatorUrl: null});\n'
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
"""Swagger UI sets styles and pictures of its own on its elements."""


class Docs(Protocol):
    """The page, its start and the files of Swagger UI."""

    prefix: ClassVar[str] = "/docs"

    def router(self) -> APIRouter:
        router = APIRouter(include_in_schema=False)

        @router.get("/docs")
        async def page() -> Response:
            return Response(PAGE, headers={"Content-Security-Policy": POLICY}, media_type="text/html")

        @router.get("/docs/{file}")
        async def part(file: str) -> Response:
            if file == "start.js":
                return Response(START, media_type="text/javascript")
            if file not in FILES:
                raise NotFound(f"there is no file {file!r} here")
            return FileResponse(_folder() / file, headers={"Cache-Control": "no-cache"}, media_type=FILES[file])

        return router

    def document(self, openapi: dict[str, Any]) -> None:
        """Says that keys are needed, if there are any."""
        if self.service.keys:
            openapi["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            openapi["security"] = [{"key": []}]


def _folder() -> Path:
    """Where the package keeps its files; it is not imported. Raises NotFound if it is not installed."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise NotFound("the files of this page are not installed; run: pip install 'wander[serve]'")
    return Path(spec.origin).parent / "static"


plugin = Docs
