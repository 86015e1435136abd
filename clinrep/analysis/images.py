"""Figures inside a page: PNG files as text, made small enough for a page that fits into an e-mail."""

from __future__ import annotations

import base64
import io
import logging
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

logger = logging.getLogger("clinrep")

MAX_PAGE_BYTES = 5_000_000
NUM_COLORS = 256  # of a palette: anti-aliased lines and text look the same in a third of the bytes
SHRINKS = (1.0, 0.75, 0.6, 0.5)  # of the pixels across, tried in turn; at half, a figure is as wide as it is shown


@dataclass(frozen=True)
class EmbeddedImage:
    """One PNG as text."""

    content: str
    """Base64."""
    width: int
    """Pixels to show it at: half those of the file, so that text is as large in each."""
    height: int


def embed_images(paths: dict[str, Path], max_bytes: int) -> dict[str, EmbeddedImage]:
    """Return the images by name, with fewer pixels as far as all together would be more than `max_bytes` of text.

    What still is too much at the smallest size is embedded all the same; the caller measures the page.
    """
    images: dict[str, EmbeddedImage] = {}
    for shrink in SHRINKS:
        images = {name: embed_image(path, shrink) for name, path in paths.items()}
        total = sum(len(image.content) for image in images.values())
        if total <= max_bytes:
            break
    if paths and shrink < 1:
        logger.info("report: figures at %g %% of their resolution, to stay below %d bytes", 100 * shrink, max_bytes)
    return images


def embed_image(path: Path, shrink: float = 1.0) -> EmbeddedImage:
    """Return one PNG with a palette of its colours (or as it is, where that is smaller), `shrink` as many pixels."""
    original = path.read_bytes()
    with Image.open(io.BytesIO(original)) as opened:
        width, height = opened.size
        image = _lay_on_white(opened)
    if shrink < 1:
        size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    _reduce_colors(image).save(buffer, "PNG", optimize=True)
    smaller = min((original, buffer.getvalue()), key=len) if shrink == 1 else buffer.getvalue()
    return EmbeddedImage(base64.b64encode(smaller).decode(), width // 2, height // 2)


def _reduce_colors(image: Image.Image) -> Image.Image:
    """Return the image with a palette whose lightest colour is pure white, as paper and card are."""
    reduced = image.quantize(NUM_COLORS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    palette = reduced.getpalette() or []
    lightest = max(range(0, len(palette), 3), key=lambda start: sum(palette[start : start + 3]))
    palette[lightest : lightest + 3] = [255, 255, 255]
    reduced.putpalette(palette)
    return reduced


def _lay_on_white(image: Image.Image) -> Image.Image:
    """Return the image without transparency, as on the white card it is shown on."""
    whole = image.convert("RGBA")
    ground = Image.new("RGBA", whole.size, "white")
    return Image.alpha_composite(ground, whole).convert("RGB")
