"""The page that shows what the API takes: its OpenAPI document as plain HTML, without scripts."""

from html import escape
from typing import Any

from maquette.serving.api.page import HEADERS as PAGE_HEADERS

HEADERS = PAGE_HEADERS | {"Content-Type": "text/html; charset=utf-8"}
STYLE = """body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
:root { color-scheme: light dark } table { border-collapse: collapse; width: 100% }
td, th { border-bottom: 1px solid #8884; padding: .3rem .6rem; text-align: left; vertical-align: top }
code { font-size: .95em } h2 { margin-top: 2.5rem }"""


def page(document: dict[str, Any]) -> bytes:
    """The page of an OpenAPI document."""
    schemas = document.get("components", {}).get("schemas", {})
    parts = []
    for path, methods in document["paths"].items():
        for method, route in methods.items():
            body = route.get("requestBody", {}).get("content", {})
            parts.append(f"<h2><code>{method.upper()} {escape(path)}</code></h2>")
            parts.append(f"<p>{escape(route.get('description', ''))}</p>")
            for kind, content in body.items():
                parts.append(_table(kind, _resolved(content["schema"], schemas)))
    title = f"{document['info']['title']} {document['info']['version']}"
    html = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title>"
        f"<meta name=viewport content='width=device-width'><style>{STYLE}</style>"
        f"<h1>{escape(title)}</h1><p>{escape(document['info'].get('description', ''))} "
        "<a href=/openapi.json>openapi.json</a></p>" + "".join(parts) + "</html>"
    )
    return html.encode()


def _table(kind: str, schema: dict[str, Any]) -> str:
    needed = schema.get("required", [])
    rows = [
        f"<tr><td><code>{escape(name)}</code>{' *' if name in needed else ''}<td>{escape(_type(field))}"
        f"<td>{escape(field.get('description', ''))}"
        for name, field in schema.get("properties", {}).items()
    ]
    return f"<p>{escape(kind)}</p><table><tr><th>field<th>type<th>{''.join(rows)}</table>"


def _resolved(schema: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    name = schema.get("$ref", "").rpartition("/")[2]
    found: dict[str, Any] = schemas.get(name, schema)
    return found


def _type(field: dict[str, Any]) -> str:
    """The type of a field, in words."""
    if "anyOf" in field:
        kinds = [_type(one) for one in field["anyOf"] if one.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "$ref" in field:
        return str(field["$ref"].rpartition("/")[2])
    if "enum" in field:
        return " | ".join(map(str, field["enum"]))
    kind = str(field.get("type", field.get("const", "any")))
    if kind == "array":
        return f"list of {_type(field.get('items', {}))}"
    limits = [
        f"{sign} {field[name]}"
        for name, sign in (
            ("minimum", "at least"),
            ("exclusiveMinimum", "above"),
            ("maximum", "at most"),
        )
        if name in field and abs(field[name]) < 1 << 31
    ]
    return f"{kind} ({', '.join(limits)})" if limits else kind
