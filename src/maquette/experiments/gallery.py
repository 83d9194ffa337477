"""The page of measured claims and the README's table, generated from the code and the results."""

import os
from pathlib import Path

from maquette.base.files import write_atomic
from maquette.experiments.catalogue import systems
from maquette.experiments.claims import Claim
from maquette.experiments.results import NEVER, Result, results


def state(result: Result | None) -> str:
    """State of a claim: holds, fails or not measured."""
    if result is None:
        return "not measured"
    return "holds" if result.holds else "fails"


def _emphasised(result: Result | None) -> str:
    """`state` in Markdown: a claim that fails stands out."""
    word = state(result)
    return f"**{word}**" if word == "fails" else word


def catalogue_table(measured: dict[str, Result]) -> str:
    """The catalogue as a Markdown table: system, claim, state."""
    lines = ["| system | claim | measured | state |", "|---|---|---|---|"]
    for system in systems().values():
        if not system.claims:
            lines.append(f"| `{system.name}` | {system.title} | - | recipe only |")
        for claim in system.claims.values():
            result = measured.get(claim.id)
            value = number(result.measured, 3) if result else "-"
            lines.append(
                f"| `{claim.id}` | {claim.statement} | {value} ({wanted(claim)}) | "
                f"{_emphasised(result)} |"
            )
    return "\n".join(lines)


def gallery(page: Path, folder: Path) -> None:
    """Write the page of every claim with its number, its control and its picture."""
    measured = results(folder)
    parts = [
        "# Claims, measured",
        "Written by `maquette systems --gallery` from the results in "
        f"`{folder.name}/`; nothing on this page is typed by hand. A claim holds when it meets "
        "the threshold that was fixed before the measurement and its negative control does not.",
        catalogue_table(measured),
    ]
    for system in systems().values():
        for claim in system.claims.values():
            parts.append(_section(claim, measured.get(claim.id), page, folder))
    write_atomic(page, "\n\n".join(parts) + "\n")


def number(value: float, digits: int = 4) -> str:
    """A measured value as text; `NEVER` reads "never"."""
    return "never" if abs(value) >= NEVER else f"{value:.{digits}g}"


def wanted(claim: Claim) -> str:
    """The threshold as text: "at most 0.03"."""
    return f"{claim.bound} {claim.threshold:g}"


def _section(claim: Claim, result: Result | None, page: Path, folder: Path) -> str:
    lines = [
        f"## `{claim.id}`: {_emphasised(result)}",
        f"{claim.statement[0].upper()}{claim.statement[1:]} ({claim.source}).",
    ]
    if result is None:
        lines.append(
            f"Not measured yet: `maquette reproduce {claim.id}`, {claim.minutes:g} minutes."
        )
        return "\n\n".join(lines)
    interval = ""
    if result.interval is not None:
        interval = " ({} to {})".format(*map(number, result.interval))
    lines.append(
        "| metric | measured | wanted | control | control's value |\n|---|---|---|---|---|\n"
        f"| {result.metric} | {number(result.measured)}{interval} | {wanted(claim)} | "
        f"{result.control} | {number(result.control_measured)} |"
    )
    picture = folder / f"{claim.id}.png"
    if picture.exists():
        lines.append(f"![{claim.id}]({os.path.relpath(picture, page.parent)})")
    lines.append(
        f"Evidence: {result.evidence}; {result.seeds} seed(s), {result.seconds:.0f} s on "
        f"{result.cores} cores of {result.processor}, torch {result.torch}, "
        f"commit {result.commit or result.version}, {result.date}. "
        f"Again: `maquette reproduce {claim.id}`."
    )
    return "\n\n".join(lines)
