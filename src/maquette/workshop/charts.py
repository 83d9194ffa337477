"""Pictures: Altair charts in one plain style, as PNG files and inside pages that need no network."""

import json
from importlib.metadata import version
from typing import Any

from maquette.base.files import home, write_atomic

INK, ACCENT, SECOND, FAINT = "#22303c", "#c4532d", "#2f6f8f", "#9aa5ad"
WIDTH, HEIGHT = 520, 300


def styled(chart: Any) -> Any:
    """The house's fonts and colours."""
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
    return kept.read_text()
