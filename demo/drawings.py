"""Pictures that this page draws itself, and those that come with Gradio: inputs that can be shown to anyone."""

from __future__ import annotations

import random
from collections.abc import Callable
from importlib.util import find_spec
from math import cos, pi, sin
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

SIDE = 384
DISHES = {
    "pizza": "2 cups flour, yeast, olive oil, crushed tomatoes, mozzarella, pepperoni, basil, oregano",
    "sushi": "sushi rice, rice vinegar, nori, raw salmon, avocado, cucumber, wasabi, soy sauce",
    "pancakes": "flour, buttermilk, eggs, baking powder, melted butter, maple syrup, blueberries",
    "hamburger": "ground beef, hamburger buns, cheddar, lettuce, tomato, onion, pickles, ketchup",
}
"""Of each dish that can be drawn: ingredients."""
SAMPLES = {
    "lion.jpg": "a lion lies on a rock",
    "cheetah1.jpg": "the face of a cheetah",
    "tower.jpg": "a tower with lights in the evening",
    "bus.png": "a red bus with blue windows",
}
"""Of each picture of Gradio's that is shown: what is on it."""
CLIPS = {"a.mp4": "a clip of Gradio's: a", "b.mp4": "a clip of Gradio's: b"}

Draw = ImageDraw.ImageDraw


def dish(name: str, folder: Path) -> Path:
    """A drawing of a dish as a JPEG file in the folder. The same name gives the same picture."""
    path = folder / f"{name}.jpg"
    if not path.exists():
        image = Image.new("RGB", (SIDE, SIDE), "#8a6b4f")
        draw = ImageDraw.Draw(image)
        chance = random.Random(name)
        for y in range(0, SIDE, 24):  # the boards of a table
            shade = chance.randint(-8, 8)
            draw.rectangle((0, y, SIDE, y + 22), fill=(146 + shade, 112 + shade, 82 + shade))
        _DRAWN[name](draw, chance)
        image.filter(ImageFilter.GaussianBlur(0.9)).save(path, quality=90)
    return path


def samples() -> dict[Path, str]:
    """Gradio's own pictures -> what is on them. Those that it no longer brings are left out."""
    return _there("images", SAMPLES)


def clips() -> dict[Path, str]:
    """Gradio's own clips -> what is to be seen."""
    return _there("videos", CLIPS)


def _there(kind: str, names: dict[str, str]) -> dict[Path, str]:
    spec = find_spec("gradio")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "media_assets" / kind
    return {folder / name: words for name, words in names.items() if (folder / name).exists()}


def _disc(draw: Draw, x: float, y: float, r: float, fill: str, flat: float = 1.0) -> None:
    draw.ellipse((x - r, y - r * flat, x + r, y + r * flat), fill=fill)


def _around(chance: random.Random, count: int, reach: float) -> list[tuple[float, float]]:
    """Points within a circle around the middle."""
    turns = [(chance.uniform(0, 2 * pi), reach * chance.uniform(0.05, 1) ** 0.5) for _ in range(count)]
    return [(SIDE / 2 + r * cos(a), SIDE / 2 + r * sin(a)) for a, r in turns]


def _pizza(draw: Draw, chance: random.Random) -> None:
    middle = SIDE / 2
    for r, fill in ((182, "#efe9df"), (160, "#c98d43"), (150, "#dba55a"), (136, "#b8331d"), (130, "#e9c46a")):
        _disc(draw, middle, middle, r, fill)
    for x, y in _around(chance, 130, 122):
        _disc(draw, x, y, chance.uniform(5, 14), chance.choice(["#f2d98b", "#eab95a", "#d9683a", "#f6e3a8"]))
    for x, y in _around(chance, 13, 106):
        _disc(draw, x, y, 17, "#8f1d14")
        _disc(draw, x, y, 14, "#b62a1d")
    for x, y in _around(chance, 10, 110):
        _disc(draw, x, y, 8, "#2f6b2c", 0.55)


def _sushi(draw: Draw, chance: random.Random) -> None:
    draw.rounded_rectangle((24, 60, 360, 324), 20, fill="#2a2a2c")
    for row in range(2):
        for column in range(3):
            x, y = 84 + column * 108, 130 + row * 124
            _disc(draw, x, y, 46, "#12211a")
            _disc(draw, x, y, 38, "#f7f5ee")
            for px, py in [(x + chance.uniform(-24, 24), y + chance.uniform(-24, 24)) for _ in range(22)]:
                _disc(draw, px, py, 4, "#e5e0d2", 0.7)
            _disc(draw, x - 6, y, 15, "#f08a5d")
            _disc(draw, x + 11, y + 3, 10, "#8fbf62")
    _disc(draw, 332, 300, 16, "#9cc26b")


def _pancakes(draw: Draw, chance: random.Random) -> None:
    _disc(draw, SIDE / 2, 240, 180, "#f3f0ea", 0.55)
    for step in range(5):
        y = 262 - step * 24
        _disc(draw, SIDE / 2, y + 11, 132, "#a8682c", 0.42)
        _disc(draw, SIDE / 2, y, 132, "#e3a857", 0.42)
        _disc(draw, SIDE / 2, y - 2, 118, "#c98136", 0.4)
    _disc(draw, SIDE / 2, 166, 70, "#7a3d12", 0.4)
    draw.rounded_rectangle((168, 132, 222, 168), 8, fill="#f9e79a")
    for x, height in [(chance.uniform(90, 300), chance.uniform(146, 190)) for _ in range(9)]:
        _disc(draw, x, height, 11, "#2c3566")


def _hamburger(draw: Draw, chance: random.Random) -> None:
    _disc(draw, SIDE / 2, 312, 178, "#f3f0ea", 0.3)
    draw.rounded_rectangle((70, 264, 314, 320), 26, fill="#d9953f")
    draw.rounded_rectangle((60, 232, 324, 276), 20, fill="#5a3019")
    draw.polygon([(58, 232), (326, 232), (300, 250), (262, 234), (220, 256), (170, 236), (110, 252)], fill="#f2b632")
    draw.rounded_rectangle((66, 208, 318, 232), 10, fill="#c8372d")
    for leaf in range(54, 330, 22):
        _disc(draw, leaf, 204, 17, "#6fae3d", 0.6)
    draw.pieslice((60, 70, 324, 324), 180, 360, fill="#dc9a45")
    for x, y in [(chance.uniform(100, 284), chance.uniform(98, 170)) for _ in range(30)]:
        _disc(draw, x, y, 5, "#f7e6bf", 0.6)


_DRAWN: dict[str, Callable[[Draw, random.Random], None]] = {
    "pizza": _pizza,
    "sushi": _sushi,
    "pancakes": _pancakes,
    "hamburger": _hamburger,
}
