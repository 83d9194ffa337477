"""Short videos: the shapes of a scene move in straight lines and turn back at the picture's edge.

The labels are those of the first frame. Shapes may pass over each other, the first above the rest; one
that is inside another moves with it.
"""

import dataclasses

import numpy as np

from maquette.base.errors import WrongUse
from maquette.worlds.draw import BORDER
from maquette.worlds.render import Pictures, inner, render
from maquette.worlds.shapes import Floats, Scenes


def moved(scenes: Scenes, time: float) -> Scenes:
    """The scenes at a time after 0, in the unit of their velocities."""
    x = _reflected(scenes.x, scenes.velocity[..., 0], scenes.radius, time)
    y = _reflected(scenes.y, scenes.velocity[..., 1], scenes.radius, time)
    held = inner(scenes)
    for now, before in ((x, scenes.x), (y, scenes.y)):
        if held.any():
            now[held, 0] = before[held, 0] + now[held, 1] - before[held, 1]
    return dataclasses.replace(scenes, x=x, y=y)


def video(scenes: Scenes, frames: int, image_size: int = 32, step: float = 1.0) -> Pictures:
    """Frames at the times 0, step, 2 step ...: uint8 (n, frames, height, width, 3).

    Raises WrongUse for less than one frame, a step below 0, or an image size outside 8 to 256.
    """
    if frames < 1 or step < 0:
        raise WrongUse(f"{frames} frames with a step of {step}: use 1 or more, and 0 or more")
    return np.stack([render(moved(scenes, k * step), image_size) for k in range(frames)], 1)


def _reflected(start: Floats, velocity: Floats, radius: Floats, time: float) -> Floats:
    """Position of something that is reflected at both ends of its range."""
    low, room = radius + BORDER, 1 - 2 * (radius + BORDER)
    if not time:
        return start.copy()
    along = np.mod(start - low + velocity * time, 2 * room)
    out: Floats = low + room - np.abs(along - room)
    return out
