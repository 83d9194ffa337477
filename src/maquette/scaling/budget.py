"""Budgets: operations, or devices for some time, in operations."""

from dataclasses import dataclass

from maquette.base.errors import UserError, WrongUse, plain
from maquette.scaling.devices import Device
from maquette.scaling.plan_lines import precision_on

MOST = {"flops": 1e40, "hours": 1e9, "devices": 1e6, "price": 1e12}
"""largest values of a budget's numbers"""


def check_amounts(**amounts: float | None) -> None:
    """Raise WrongUse for a number of a budget that is not above 0, or beyond `MOST`."""
    for name, value in amounts.items():
        if value is not None and not 0 < value <= MOST[name]:
            most = f" up to {MOST[name]:g}" if value > MOST[name] else ""
            raise WrongUse(f"{name} is {plain(value)}: use a positive number{most}")


@dataclass(frozen=True)
class Budget:
    """A budget: operations, or devices for some time."""

    flops: float | None = None
    seconds: float | None = None
    device: Device | None = None
    devices: int = 1
    utilisation: float | None = None
    """fraction of the peak; None: what the layout is expected to reach"""
    price: float | None = None
    """price of one device for an hour"""

    def __post_init__(self) -> None:
        hours = None if self.seconds is None else self.seconds / 3600
        amounts = {
            "flops": self.flops,
            "hours": hours,
            "devices": self.devices,
            "price": self.price,
        }
        check_amounts(**amounts)
        if (self.flops is None) == (self.seconds is None):
            raise WrongUse("give one budget: --flops F, or --hours H with --device D")
        if self.utilisation is not None and not 0 < self.utilisation <= 1:
            raise WrongUse(f"utilisation is {self.utilisation}: use a fraction above 0, up to 1")
        if self.seconds is not None and self.device is None:
            raise WrongUse("say which device: --device H100, for one")


def hours_of(hours: float | None, minutes: float | None) -> float | None:
    """Time in hours, given in one unit or the other."""
    if hours is not None and minutes is not None:
        raise WrongUse("give --hours or --minutes, not both")
    return minutes / 60 if minutes is not None else hours


def operations(budget: Budget, reached: float) -> tuple[float, str]:
    """The operations of a budget, and how they were counted."""
    if budget.flops is not None:
        return budget.flops, "given"
    assert budget.seconds is not None and budget.device is not None
    precision = precision_on(budget.device)
    peak = budget.device.peak(precision)
    if peak is None:
        raise UserError(
            f"the {precision} peak of {budget.device.name} is unknown: give --flops instead of time"
        )
    flops = peak * reached * budget.devices * budget.seconds
    reason = "as given" if budget.utilisation else "what the layout below is expected to reach"
    return flops, (
        f"{budget.seconds / 3600:g} h x {budget.devices} x {budget.device.name} at {reached:.1%} of "
        f"{peak:.3g} FLOP/s in {precision} ({budget.device.sources['flops']}); {reached:.1%} is {reason}"
    )
