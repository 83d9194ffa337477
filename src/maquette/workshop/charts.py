"""Charts: Altair in one plain style, as PNG files and inside pages that need no network."""

import json
import math
from importlib.metadata import version
from typing import Any

from maquette.base.files import home, write_atomic

INK, ACCENT, SECOND, FAINT = "#22303c", "#c4532d", "#2f6f8f", "#9aa5ad"
WIDTH, HEIGHT = 520, 300


def styled(chart: Any) -> Any:
    """The chart with Maquette's fonts and colours."""
    return (
        chart.configure(font="Helvetica, Arial, sans-serif", background="white")
        .configure_axis(
            labelColor=INK, titleColor=INK, gridColor="#e8ecef", domainColor=FAINT, titlePadding=8
        )
        .configure_title(color=INK, anchor="start", fontSize=14, offset=12)
        .configure_legend(labelColor=INK, titleColor=INK)
        .configure_view(stroke=None)
        .configure_range(category=[SECOND, ACCENT, "#6b8e4e", "#8a6db1", "#b59a3c", FAINT])
    )


def png(chart: Any) -> bytes:
    """A chart as a PNG picture."""
    import vl_convert

    return bytes(vl_convert.vegalite_to_png(styled(chart).to_json(), scale=2))


def spec(chart: Any) -> str:
    """A chart as Vega-Lite JSON, safe inside a <script> of a page."""
    return json.dumps(styled(chart).to_dict()).replace("</", "<\\/")


def javascript() -> str:
    """The library that draws `spec` in a page, whole, so that the page needs no network."""
    import vl_convert

    kept = home() / f"vega-{version('vl-convert-python')}.js"
    if not kept.exists():  # bundling takes seconds
        bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
        write_atomic(kept, bundle.replace("</script", "<\\/script"))
    return kept.read_text(encoding="utf-8")


def png_grid(
    pixels: Any, columns: int | None = None, gap: int = 2, zoom: int | None = None
) -> bytes:
    """Pictures uint8 (n, height, width, 3) side by side, as a PNG file's bytes.

    columns: None for as many as rows. zoom: whole factor; None makes small pictures about 64 wide.
    """
    import io

    import numpy as np
    from PIL import Image

    n, height, width, _ = pixels.shape
    zoom = zoom or max(1, 64 // min(height, width))
    across = columns or math.ceil(math.sqrt(n))
    down = math.ceil(n / across)
    step_y, step_x = zoom * height + gap, zoom * width + gap
    sheet = np.full((down * step_y - gap, across * step_x - gap, 3), 255, np.uint8)
    for i, picture in enumerate(pixels):
        y, x = i // across * step_y, i % across * step_x
        sheet[y : y + zoom * height, x : x + zoom * width] = np.kron(
            picture, np.ones((zoom, zoom, 1), np.uint8)
        )
    file = io.BytesIO()
    Image.fromarray(sheet).save(file, "PNG")
    return file.getvalue()


def grid(rows: list[tuple[str, Any]], title: str = "", zoom: int | None = None) -> Any:
    """An Altair chart of labelled rows of pictures: (label, uint8 (n, height, width, 3)) each."""
    import base64

    import altair as alt

    marks: list[dict[str, Any]] = []
    height = widest = 0
    for label, pixels in rows:
        data = png_grid(pixels, columns=len(pixels), zoom=zoom)
        high, wide = int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big")
        url = "data:image/png;base64," + base64.b64encode(data).decode()
        marks.append({"label": label, "url": url, "top": height, "high": high, "wide": wide})
        height, widest = height + high + 26, max(widest, wide)
    x = alt.value(0)
    layers = []
    for mark in marks:
        cell = alt.Chart(alt.Data(values=[mark]))
        middle = (mark["wide"] / 2, mark["top"] + 20 + mark["high"] / 2)
        layers.append(
            cell.mark_image(width=mark["wide"], height=mark["high"]).encode(
                x=alt.value(middle[0]), y=alt.value(middle[1]), url="url:N"
            )
        )
        layers.append(
            cell.mark_text(align="left", baseline="top", color=INK, fontSize=12).encode(
                x=x, y=alt.value(mark["top"] + 4), text="label:N"
            )
        )
    return alt.layer(*layers).properties(width=widest, height=height, title=title)
