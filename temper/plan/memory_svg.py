"""A picture of an arena: one rectangle per buffer, steps from left to right, bytes from bottom to top."""

from __future__ import annotations

from collections.abc import Sequence
from colorsys import hls_to_rgb
from html import escape

from temper.plan.memory import lower_bound


def lifetimes_svg(
    spans: Sequence[tuple[int, int, int]],
    offsets: Sequence[int],
    arena_bytes: int,
    names: Sequence[str] = (),
    *,
    width: int = 1200,
    height: int = 600,
) -> str:
    """SVG text. Hovering over a rectangle shows the buffer's name, size and steps; a dashed line marks the lower
    bound.
    """
    steps = max((last + 1 for _, _, last in spans), default=1)
    left, top, bottom = 70, 30, 30
    sx, sy = (width - left - 10) / steps, (height - top - bottom) / max(arena_bytes, 1)
    base = height - bottom
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        'font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for i, ((size, first, last), at) in enumerate(zip(spans, offsets, strict=True)):
        if not size:
            continue
        name = names[i] if i < len(names) else f"buffer {i}"
        x, w, h = left + first * sx, (last - first + 1) * sx, size * sy
        parts.append(
            f'<rect x="{x:.2f}" y="{base - at * sy - h:.2f}" width="{w:.2f}" height="{h:.2f}" '
            f'fill="{_colour(i)}" stroke="#444" stroke-width="0.4">'
            f"<title>{escape(name)}: {size} bytes at {at}, steps {first} to {last}</title></rect>"
        )
        cx, cy = x + w / 2, base - at * sy - h / 2
        if h >= 12 and w >= 6.5 * len(name):
            parts.append(_label(name, cx, cy + 4))
        elif w >= 12 and h >= 6.5 * len(name):
            parts.append(_label(name, cx + 4, cy, f' transform="rotate(-90 {cx + 4:.2f} {cy:.2f})"'))
    bound = lower_bound(spans)
    y = base - bound * sy
    parts += [
        f'<line x1="{left}" x2="{width - 10}" y1="{y:.2f}" y2="{y:.2f}" stroke="black" stroke-dasharray="5 4"/>',
        f'<text x="{left}" y="18">arena {arena_bytes / 1e6:.3f} MB, lower bound {bound / 1e6:.3f} MB '
        f"(dashed), {len(spans)} buffers, {steps} steps</text>",
        f'<text x="8" y="{base}">0</text><text x="8" y="{top + 4}">{arena_bytes / 1e6:.2f} MB</text>',
        f'<text x="{left}" y="{height - 8}">step 0</text><text x="{width - 60}" y="{height - 8}">{steps - 1}</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _label(name: str, x: float, y: float, turn: str = "") -> str:
    return f'<text x="{x:.2f}" y="{y:.2f}" text-anchor="middle" pointer-events="none"{turn}>{escape(name)}</text>'


def _colour(i: int) -> str:
    """Neighbouring numbers get hues far apart."""
    return "#" + "".join(f"{round(255 * c):02x}" for c in hls_to_rgb(i * 137 % 360 / 360, 0.74, 0.55))
