"""The demo corpus's faces: drawn from a visual cue, and the cue read back from the pixels.

A face is a few large shapes in head coordinates: u to the right and v down, the origin between eyes and
mouth, 1 = half the height of the head. A cue moves brows, eyes and mouth from rest to an apex; who the
actor is changes the looks and the size of the shapes, never the move.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache

import numpy as np

SIZE = 96  # side of the picture, in pixels
RATE = 25  # frames a second
PAD = 6  # the head moves this far at most, in pixels


@dataclass(frozen=True)
class Pose:
    """Where brows, eyes and mouth are, in head units; brows relative to the actor's own."""

    brow_inner: float = 0.0  # up
    brow_outer: float = 0.0  # up
    eye_open: float = 1.0  # of the actor's own
    mouth_width: float = 0.28  # half of it
    mouth_curve: float = 0.0  # how far the corners are above the middle
    mouth_open: float = 0.015  # half of it
    teeth: float = 0.0  # 1: the open mouth shows teeth, 0: it is dark


# The discrete cues. No left and right: a mirrored clip keeps its cue.
CUES: dict[str, Pose] = {
    "blank": Pose(),
    "narrow": Pose(-0.17, 0.07, 0.35, 0.14, -0.02, 0.02),
    "grin": Pose(0.0, 0.05, 0.8, 0.42, 0.26, 0.12, 1.0),
    "frown": Pose(0.15, -0.10, 0.7, 0.30, -0.26, 0.015),
    "gape": Pose(0.16, 0.13, 1.45, 0.19, 0.0, 0.24, 0.0),
    "wince": Pose(-0.13, -0.05, 0.06, 0.42, -0.06, 0.13, 1.0),
}

_PARTS = tuple(field.name for field in fields(Pose))
_SKIN = np.array([[250, 216, 190], [232, 186, 150], [205, 150, 112], [164, 112, 78], [118, 78, 54]], np.float32)
_HAIR = np.array(
    [[28, 22, 20], [72, 44, 26], [120, 76, 40], [186, 148, 88], [132, 60, 34], [120, 118, 116]], np.float32
)
_SHIRTS = np.array([[60, 70, 96], [110, 60, 60], [66, 96, 74], [90, 88, 92], [150, 140, 120]], np.float32)


@dataclass(frozen=True)
class Looks:
    """What belongs to the actor: colours (RGB, 0 to 255), and lengths in head units."""

    skin: np.ndarray
    hair: np.ndarray
    shirt: np.ndarray
    wall: np.ndarray
    lips: np.ndarray
    iris: np.ndarray
    radius: float = 42.0  # half the height of the head, in pixels
    centre: tuple[float, float] = (0.0, 0.0)  # from the picture's middle, in pixels
    head_width: float = 0.80
    eye_apart: float = 0.34
    eye_size: float = 0.15
    brow_thick: float = 0.042
    brow_height: float = -0.42
    mouth_height: float = 0.50
    hairline: float = -0.74
    hair_long: bool = False

    @classmethod
    def draw(cls, rng: np.random.Generator, female: bool) -> Looks:
        """The looks of one actor."""
        tone = rng.uniform(0, len(_SKIN) - 1)
        skin = np.array([np.interp(tone, range(len(_SKIN)), _SKIN[:, c]) for c in range(3)], np.float32)
        # Grey hair would be lost on dark skin, and with it the brows.
        hair = _HAIR[rng.integers(len(_HAIR) if tone < 1.5 else 2)]
        lips = (
            skin * np.array([0.86, 0.52, 0.52], np.float32)
            if female
            else skin * np.array([0.78, 0.6, 0.58], np.float32)
        )
        return cls(
            skin=skin,
            hair=hair + rng.uniform(-10, 10),
            shirt=_SHIRTS[rng.integers(len(_SHIRTS))],
            wall=np.float32(rng.uniform(120, 235)) + rng.uniform(-14, 14, 3).astype(np.float32),
            lips=lips,
            iris=np.array([[70, 46, 28], [60, 84, 110], [66, 88, 56]], np.float32)[rng.integers(3)],
            radius=rng.uniform(40, 44),
            centre=(rng.uniform(-2, 2), rng.uniform(-1, 2)),
            head_width=rng.uniform(0.73, 0.80) if female else rng.uniform(0.77, 0.86),
            eye_apart=rng.uniform(0.31, 0.36),
            eye_size=rng.uniform(0.14, 0.165),
            brow_thick=rng.uniform(0.034, 0.044) if female else rng.uniform(0.042, 0.056),
            brow_height=rng.uniform(-0.44, -0.39),
            mouth_height=rng.uniform(0.47, 0.53),
            hairline=rng.uniform(-0.78, -0.70),
            hair_long=bool(rng.random() < (0.8 if female else 0.1)),
        )


class _Canvas:
    """Frames (T, H, W, 3) in float32 that shapes are painted on, smooth-edged, in head coordinates."""

    def __init__(self, looks: Looks, frames: int, colour: np.ndarray) -> None:
        side = SIZE + 2 * PAD
        self.unit = looks.radius
        self.x0 = side / 2 - 0.5 + looks.centre[0]
        self.y0 = side / 2 - 0.5 + looks.centre[1]
        self.pixels = np.empty((frames, side, side, 3), np.float32)
        self.pixels[:] = colour

    def box(
        self, u: float, v: float, half_width: float, half_height: float
    ) -> tuple[slice, slice, np.ndarray, np.ndarray]:
        """The rows and columns of a box, and their coordinates: v (1, h, 1) and u (1, 1, w) from its middle."""
        side = self.pixels.shape[1]
        x, y = self.x0 + u * self.unit, self.y0 + v * self.unit
        reach_x, reach_y = half_width * self.unit + 2, half_height * self.unit + 2
        columns = slice(max(0, int(x - reach_x)), min(side, int(x + reach_x) + 1))
        rows = slice(max(0, int(y - reach_y)), min(side, int(y + reach_y) + 1))
        across = (np.arange(columns.start, columns.stop, dtype=np.float32) - np.float32(x)) / np.float32(self.unit)
        down = (np.arange(rows.start, rows.stop, dtype=np.float32) - np.float32(y)) / np.float32(self.unit)
        return rows, columns, down[None, :, None], across[None, None, :]

    def cover(self, distance: np.ndarray) -> np.ndarray:
        """How much of each pixel is inside, from the signed distance to the edge in head units."""
        return np.clip(np.float32(0.5) - distance * np.float32(self.unit), 0, 1)

    def paint(self, rows: slice, columns: slice, cover: np.ndarray, colour: np.ndarray) -> None:
        region = self.pixels[:, rows, columns]
        region += cover[..., None] * (np.asarray(colour, np.float32) - region)

    def ellipse(self, u: float, v: float, a: float, b: float, colour: np.ndarray, below: float = 9.0) -> None:
        """An ellipse with half-axes a and b; of it only what lies above `below`."""
        rows, columns, down, across = self.box(u, v, a, b)
        distance = (np.hypot(across / a, down / b) - 1) * min(a, b)
        self.paint(rows, columns, self.cover(np.maximum(distance, down + v - below)), colour)


def _portrait(looks: Looks) -> _Canvas:
    """The face without brows, eyes and mouth, one frame."""
    canvas = _Canvas(looks, 1, looks.wall)
    width, skin = looks.head_width, looks.skin
    if looks.hair_long:
        canvas.ellipse(0, 0.15, width + 0.20, 1.15, looks.hair)
    canvas.ellipse(0, 1.60, 1.25, 0.62, looks.shirt)
    canvas.ellipse(0, 0.95, 0.34, 0.42, skin * 0.80)
    canvas.ellipse(0, -0.14, width + 0.09, 0.98, looks.hair, below=0.0 if looks.hair_long else -0.12)
    for side in (-1, 1):
        canvas.ellipse(side * (width + 0.01), 0.03, 0.09, 0.17, skin * 0.88)
    canvas.ellipse(0, 0, width, 1.0, skin)
    canvas.ellipse(0, -0.06, width * 0.86, 0.86, np.minimum(skin * 1.04, 255))
    # The fringe: the cap of the head above the hairline, lower at the temples.
    # Wider than the head by a little, so that no skin shines through at its edge.
    rows, columns, down, across = canvas.box(0, 0, width + 0.04, 1.04)
    head = (np.hypot(across / (width + 0.04), down / 1.04) - 1) * width
    canvas.paint(rows, columns, canvas.cover(np.maximum(head, down - looks.hairline - 0.30 * across**2)), looks.hair)
    for side in (-1, 1):
        canvas.ellipse(side * 0.46, 0.26, 0.17, 0.12, skin * np.array([1.0, 0.93, 0.92], np.float32))
    canvas.ellipse(0.0, 0.13, 0.085, 0.10, skin * 0.90)
    canvas.ellipse(0.0, 0.06, 0.055, 0.16, np.minimum(skin * 1.07, 255))
    return canvas


def _animate(looks: Looks, poses: np.ndarray) -> np.ndarray:
    """The face in the poses (T, parts), as float32 (T, side, side, 3) with a border of PAD."""
    portrait = _portrait(looks)
    canvas = _Canvas(looks, len(poses), looks.wall)
    canvas.pixels[:] = portrait.pixels
    column = {part: poses[:, i, None, None].astype(np.float32) for i, part in enumerate(_PARTS)}

    for side in (-1, 1):
        # Eye: white, iris, pupil, and the dark line of the upper lid.
        size = looks.eye_size
        rows, columns, down, across = canvas.box(side * looks.eye_apart, -0.14, size * 1.2, size * 1.2)
        height = np.maximum(0.72 * size * column["eye_open"], 0.006)
        edge = height * np.sqrt(np.clip(1 - (across / size) ** 2, 0, 1))
        beyond = np.abs(across) - size
        lid = np.maximum(np.abs(down + edge) - 0.022, beyond)
        inside = np.maximum(np.abs(down) - edge, beyond)
        canvas.paint(rows, columns, canvas.cover(inside), np.array([246, 244, 240]))
        distance = np.hypot(across, down)
        for radius, colour in ((0.62 * size, looks.iris), (0.30 * size, np.array([14, 12, 12]))):
            canvas.paint(rows, columns, canvas.cover(np.maximum(distance - radius, inside)), colour)
        canvas.paint(rows, columns, canvas.cover(lid), looks.skin * 0.32)

        # Brow: a thick line from its inner to its outer end.
        reach = looks.eye_size * 1.35
        rows, columns, down, across = canvas.box(side * looks.eye_apart, looks.brow_height, reach, 0.36)
        outward = np.clip((side * across / reach + 1) / 2, 0, 1)
        middle = -((1 - outward) * column["brow_inner"] + outward * column["brow_outer"]) - 0.10 * outward * (
            1 - outward
        )
        brow = np.maximum(np.abs(down - middle) - looks.brow_thick * (1.15 - 0.5 * outward), np.abs(across) - reach)
        canvas.paint(rows, columns, canvas.cover(brow), looks.hair * 0.75)

    # Mouth: lips around an opening along a parabola, dark within, teeth in its upper part.
    rows, columns, down, across = canvas.box(0, looks.mouth_height, 0.52, 0.44)
    width, curve, half = column["mouth_width"], column["mouth_curve"], column["mouth_open"]
    along = np.clip(1 - (across / width) ** 2, 0, 1)
    middle = curve * (along - 0.5)
    beyond = np.abs(across) - width
    opening = np.maximum(np.abs(down - middle) - half * np.sqrt(along), beyond)
    canvas.paint(rows, columns, canvas.cover(opening - 0.055 * np.sqrt(along)), looks.lips)
    canvas.paint(rows, columns, canvas.cover(opening), np.array([52, 16, 20]))
    # The lower 30 % of a toothy mouth stays dark.
    upper = np.maximum(opening + 0.012, down - middle - 0.3 * half)
    canvas.paint(rows, columns, canvas.cover(upper) * column["teeth"], np.array([250, 246, 236]))
    return canvas.pixels


def _smooth(rng: np.random.Generator, count: int, every: int) -> np.ndarray:
    """A slow random curve of about unit size: (count,)."""
    knots = rng.standard_normal(count // every + 3)
    at = np.arange(count) / every
    left = at.astype(int)
    mix = (1 - np.cos(np.pi * (at - left))) / 2
    return knots[left] * (1 - mix) + knots[left + 1] * mix


def render(cue: str, looks: Looks, rng: np.random.Generator, count: int) -> np.ndarray:
    """One take of an actor: at rest first, then the cue.

    Returns uint8 (count, SIZE, SIZE, 3), RGB at RATE frames a second.
    """
    rest, apex = (np.array([getattr(CUES[name], part) for part in _PARTS]) for name in ("blank", cue))
    seconds = np.arange(count) / RATE
    onset, rise = rng.uniform(0.04, 0.14), rng.uniform(0.12, 0.24)
    ramp = np.clip((seconds - onset) / rise, 0, 1)
    strength = ramp**2 * (3 - 2 * ramp) * (rng.uniform(0.88, 1.08) + 0.05 * _smooth(rng, count, 8))
    poses = rest + strength[:, None] * (apex - rest)

    # What every face does whatever its cue: small moves, and one blink.
    wobble = {"brow_inner": 0.012, "brow_outer": 0.012, "mouth_width": 0.012, "mouth_curve": 0.015, "mouth_open": 0.014}
    for part, size in wobble.items():
        poses[:, _PARTS.index(part)] += size * _smooth(rng, count, 4)
    blink = np.clip(1 - np.abs(seconds - rng.uniform(0.25, count / RATE)) / 0.08, 0, 1)
    poses[:, _PARTS.index("eye_open")] *= 1 - 0.9 * blink
    poses[:, _PARTS.index("mouth_open")] = np.maximum(poses[:, _PARTS.index("mouth_open")], 0.008)
    poses[:, _PARTS.index("mouth_width")] = np.maximum(poses[:, _PARTS.index("mouth_width")], 0.08)
    pixels = _animate(looks, poses)

    # The head sways: each frame is cut from the larger one between pixels, by two linear mixes.
    rest_at = rng.uniform(-1.5, 1.5, 2)
    frames = np.empty((count, SIZE, SIZE, 3), np.float32)
    sway = np.stack([rest_at[axis] + 0.4 * _smooth(rng, count, 10) for axis in range(2)], 1)
    sway = np.clip(sway, -PAD + 1, PAD - 1.01) + PAD
    for frame, source, (y, x) in zip(frames, pixels, sway, strict=True):
        top, left = int(y), int(x)
        down, across = np.float32(y - top), np.float32(x - left)
        cut = source[top : top + SIZE + 1, left : left + SIZE + 1]
        cut = cut[:-1] + down * (cut[1:] - cut[:-1])
        frame[:] = cut[:, :-1] + across * (cut[:, 1:] - cut[:, :-1])
    frames *= np.float32(rng.uniform(0.92, 1.06))
    frames += 3 * rng.standard_normal(frames.shape[:3], dtype=np.float32)[..., None]
    return np.clip(frames + np.float32(0.5), 0, 255).astype(np.uint8)


@cache
def _templates() -> tuple[tuple[str, ...], np.ndarray]:
    """How each cue but blank changes a face of average looks, in grey: (cues, side, side)."""
    grey = np.array([150.0, 110.0, 84.0], np.float32)
    looks = Looks(skin=grey * 1.3, hair=grey * 0.4, shirt=grey, wall=grey, lips=grey, iris=grey * 0.5)
    poses = np.array([[getattr(pose, part) for part in _PARTS] for pose in CUES.values()])
    faces = _animate(looks, poses).mean(-1)
    return tuple(CUES)[1:], faces[1:] - faces[0]


# Times that `read` wants frames at: at rest, and after the longest rise.
REST = (0.0,)
APEX = (0.5, 0.65, 0.8, 0.95, 1.1, 1.25)


def read(frames: np.ndarray) -> str:
    """The cue of a clip, by a matched filter on how its face changed.

    `frames`: uint8 (len(REST + APEX), SIZE, SIZE, 3), the frames on show at REST and then at APEX.
    """
    grey = frames.astype(np.float32).mean(-1)
    # The median passes over a blink.
    change = np.median(grey[len(REST) :], axis=0) - grey[: len(REST)].mean(0)
    names, templates = _templates()
    support = (np.abs(templates) > 1).any(0)
    best, amount, found = 0.0, 0.0, "blank"
    # Where in the picture the face is, is not known: every place it can be in is tried.
    for top in range(2 * PAD + 1):
        for left in range(2 * PAD + 1):
            place = slice(top, top + SIZE), slice(left, left + SIZE)
            seen = change[support[place]]
            wanted = templates[:, *place][:, support[place]]
            match, power = wanted @ seen, (wanted**2).sum(1)
            scores = match / np.sqrt(power * (seen @ seen) + 1e-9)
            likeliest = int(scores.argmax())
            if scores[likeliest] > best:
                best, amount, found = scores[likeliest], match[likeliest] / power[likeliest], names[likeliest]
    return found if best > 0.4 and amount > 0.25 else "blank"
