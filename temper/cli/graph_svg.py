"""A picture of a plan's regions: layers from top to bottom, in several columns where there are many, coloured by share
of time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 236, 40
_GAP_X, _GAP_Y, _LANE, _GUTTER = 22, 26, 26, 70
_MARGIN, _TOP = 24, 74
#: Rows of one column at least, before a second column is begun.
_ROWS = 16

Edge = tuple[int, int]


@dataclass(frozen=True)
class Box:
    """A region. share: of the whole time, 0 to 1. title: text shown on hovering."""

    name: str
    ops: str
    note: str
    share: float
    host: bool = False
    title: str = ""


@dataclass
class _Cell:
    """A place in a row: a box, or a point where an edge that spans rows passes."""

    box: int | None
    ups: list[int]
    x: float = 0.0

    @property
    def width(self) -> int:
        return _LANE if self.box is None else _WIDTH + _GAP_X

    @property
    def weight(self) -> int:
        """How firmly it stays where it wants to be: lines give way to boxes."""
        return 1 if self.box is None else 1000


def draw(
    boxes: Sequence[Box],
    edges: Sequence[Edge],
    inputs: Sequence[tuple[str, Sequence[int]]],
    outputs: Sequence[tuple[str, Sequence[int]]],
    title: str = "",
) -> str:
    """SVG text. edges: (from, to) indices of boxes. inputs, outputs: names with the boxes that read or write them."""
    ends = [Box(name, "input", "", 0.0) for name, _ in inputs] + [Box(name, "output", "", 0.0) for name, _ in outputs]
    every = [*boxes, *ends]
    first_in, first_out = len(boxes), len(boxes) + len(inputs)
    links = [
        *edges,
        *((first_in + k, b) for k, (_, readers) in enumerate(inputs) for b in readers),
        *((b, first_out + k) for k, (_, writers) in enumerate(outputs) for b in writers),
    ]
    cells, rows, chains = _layer(len(every), links)
    _order(cells, rows)
    ends_of_rows = _place(cells, rows)
    return _Picture(every, len(boxes), cells, rows, chains, ends_of_rows, title).svg()


def _layer(count: int, edges: Sequence[Edge]) -> tuple[list[_Cell], list[list[int]], list[list[int]]]:
    """Rows by longest path from the top, and for every edge the chain of cells it runs through."""
    after: list[list[int]] = [[] for _ in range(count)]
    waiting = [0] * count
    for a, b in edges:
        after[a].append(b)
        waiting[b] += 1
    level = [0] * count
    ready = [i for i in range(count) if not waiting[i]]
    while ready:
        i = ready.pop()
        for j in after[i]:
            level[j] = max(level[j], level[i] + 1)
            waiting[j] -= 1
            if not waiting[j]:
                ready.append(j)
    sources = {b for _, b in edges}
    for i in range(count):  # what has no input stands right above its first reader
        if i not in sources and after[i]:
            level[i] = min(level[j] for j in after[i]) - 1
    cells = [_Cell(i, []) for i in range(count)]
    rows: list[list[int]] = [[] for _ in range(max(level, default=0) + 1)]
    for i in range(count):
        rows[level[i]].append(i)
    chains = []
    for a, b in edges:
        chain = [a]
        for r in range(level[a] + 1, level[b]):
            cells.append(_Cell(None, [chain[-1]]))
            rows[r].append(len(cells) - 1)
            chain.append(len(cells) - 1)
        cells[b].ups.append(chain[-1])
        chains.append([*chain, b])
    return cells, rows, chains


def _order(cells: Sequence[_Cell], rows: Sequence[list[int]]) -> None:
    """Fewer crossings: each row sorted by the mean place of its neighbours, downwards and upwards in turn."""
    downs: list[list[int]] = [[] for _ in cells]
    for i, c in enumerate(cells):
        for u in c.ups:
            downs[u].append(i)
    for sweep in range(6):
        down = sweep % 2 == 0
        place: dict[int, float] = {}
        for row in rows if down else reversed(rows):
            near = {i: [place[n] for n in (cells[i].ups if down else downs[i]) if n in place] for i in row}
            old = {i: k for k, i in enumerate(row)}
            row.sort(key=lambda i: (sum(near[i]) / len(near[i]) if near[i] else old[i], old[i]))
            place.update({i: k - (len(row) - 1) / 2 for k, i in enumerate(row)})


def _place(cells: Sequence[_Cell], rows: Sequence[list[int]]) -> list[tuple[float, float]]:
    """Places every cell on its row; left and right end of each row."""
    for row in rows:
        wanted = []
        at = -sum(cells[i].width for i in row) / 2
        for i in row:
            c = cells[i]
            # a passing line keeps its lane, a box stands below the boxes that feed it
            above = [cells[u].x for u in c.ups if cells[u].box is not None] or [cells[u].x for u in c.ups]
            wanted.append(sum(above) / len(above) if above else at + c.width / 2)
            at += c.width
        _spread(cells, row, wanted)
    return [
        (
            min((cells[i].x - cells[i].width / 2 for i in row), default=0.0),
            max((cells[i].x + cells[i].width / 2 for i in row), default=0.0),
        )
        for row in rows
    ]


def _spread(cells: Sequence[_Cell], row: Sequence[int], wanted: Sequence[float]) -> None:
    """Places as near to the wanted ones as their widths allow, keeping the order: blocks that collide move together."""
    blocks: list[tuple[float, float, int, list[int]]] = []  # left edge, width, weight, members
    for i, x in zip(row, wanted, strict=True):
        left, width, weight, members = x - cells[i].width / 2, float(cells[i].width), cells[i].weight, [i]
        while blocks and blocks[-1][0] + blocks[-1][1] > left:
            other_left, other_width, other, others = blocks.pop()
            left = (other_left * other + (left - other_width) * weight) / (weight + other)
            width, weight, members = width + other_width, weight + other, others + members
        blocks.append((left, width, weight, members))
    for left, _, _, members in blocks:
        for i in members:
            cells[i].x = left + cells[i].width / 2
            left += cells[i].width


class _Picture:
    def __init__(
        self,
        boxes: Sequence[Box],
        regions: int,
        cells: Sequence[_Cell],
        rows: Sequence[list[int]],
        chains: Sequence[list[int]],
        ends: Sequence[tuple[float, float]],
        title: str,
    ) -> None:
        self.boxes, self.regions, self.cells, self.chains, self.title = boxes, regions, cells, chains, title
        self.row = {i: r for r, row in enumerate(rows) for i in row}
        step = _HEIGHT + _GAP_Y
        width = max((right - left for left, right in ends), default=0.0)
        # as many columns as make the picture about 4:3
        columns = max(1, round(math.sqrt(len(rows) * step * 4 / 3 / max(width + _GUTTER, 1))))
        self.per = max(_ROWS, -(-len(rows) // columns))
        #: of each column: what is added to its cells' x, and its right edge
        self.shift: list[float] = []
        self.right: list[float] = []
        at = float(_MARGIN)
        for start in range(0, len(rows), self.per):
            own = ends[start : start + self.per]
            left = min(low for low, _ in own)
            self.shift.append(at - left)
            self.right.append(at - left + max(high for _, high in own))
            at = self.right[-1] + _GUTTER
        self.width = max(at - _GUTTER + _MARGIN, 560.0)
        self.height = _TOP + min(self.per, len(rows)) * step + 2 * _MARGIN
        self.turn = 0

    def _at(self, cell: int) -> tuple[float, float]:
        column, r = divmod(self.row[cell], self.per)
        return self.shift[column] + self.cells[cell].x, _TOP + _MARGIN + r * (_HEIGHT + _GAP_Y)

    def svg(self) -> str:
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width:.0f} {self.height:.0f}" '
            f'width="{self.width:.0f}" height="{self.height:.0f}" font-family="sans-serif" font-size="11">',
            f'<rect width="{self.width:.0f}" height="{self.height:.0f}" fill="white"/>',
            *self._legend(),
        ]
        for chain in self.chains:
            parts.append(f'<path d="{self._path(chain)}" fill="none" stroke="#8a94a0" stroke-width="1.3"/>')
        parts += [part for i in range(len(self.boxes)) for part in self._box(i)]
        return "\n".join([*parts, "</svg>"]) + "\n"

    def _legend(self) -> list[str]:
        most = max((b.share for b in self.boxes), default=0.0)
        what = "share of the time:" if most else "not timed (built with effort 0)"
        parts = [
            f'<text x="{_MARGIN}" y="26" font-size="15" font-weight="bold">{escape(self.title)}</text>',
            f'<text x="{_MARGIN}" y="50">{self.regions} layers; {what}</text>',
        ]
        x = _MARGIN + (175 if most else 250)
        for share in (0.0, 0.25, 0.5, 1.0) if most else ():
            parts += [
                f'<rect x="{x}" y="40" width="14" height="12" rx="2" stroke="#556" '
                f'fill="{self._colour(share * most)}"/>',
                f'<text x="{x + 18}" y="50">{100 * share * most:.1f} %</text>',
            ]
            x += 66
        return [
            *parts,
            f'<rect x="{x}" y="40" width="14" height="12" rx="2" fill="#d9c8ef" stroke="#556"/>',
            f'<text x="{x + 18}" y="50">on the host</text>',
        ]

    def _colour(self, share: float) -> str:
        most = max((b.share for b in self.boxes), default=0.0) or 1.0
        heat = math.sqrt(min(1.0, share / most))
        return f"rgb({255 - 6 * heat:.0f},{250 - 120 * heat:.0f},{240 - 165 * heat:.0f})"

    def _box(self, i: int) -> list[str]:
        box = self.boxes[i]
        x, y = self._at(i)
        end = i >= self.regions
        colour = "#dbe7f3" if end else "#d9c8ef" if box.host else self._colour(box.share)
        lines = [
            (_fit(box.name, 12), 16, "bold"),
            (_fit(" · ".join(t for t in (box.ops, box.note) if t), 10), 31, "normal"),
        ]
        return [
            f'<g><title>{escape(box.title or box.name)}</title><rect x="{x - _WIDTH / 2:.1f}" y="{y:.1f}" '
            f'width="{_WIDTH}" height="{_HEIGHT}" rx="{_HEIGHT / 2 if end else 5:.0f}" fill="{colour}" stroke="#556"/>',
            *(
                f'<text x="{x:.1f}" y="{y + dy}" text-anchor="middle" font-weight="{weight}" '
                f'font-size="{12 if dy < 20 else 10}">{escape(text)}</text>'
                for text, dy, weight in lines
            ),
            "</g>",
        ]

    def _path(self, chain: Sequence[int]) -> str:
        """A smooth line through the chain's cells; from the end of one column it goes round to the head of the next."""
        x, y = self._at(chain[0])
        y += _HEIGHT
        d = f"M{x:.1f},{y:.1f}"
        for a, b in zip(chain, chain[1:], strict=False):
            nx, ny = self._at(b)
            if self.row[b] // self.per == self.row[a] // self.per:
                bend = (ny - y) / 2
                d += f"C{x:.1f},{y + bend:.1f} {nx:.1f},{ny - bend:.1f} {nx:.1f},{ny:.1f}"
            else:
                lane = 7 * (self.turn % 6)
                self.turn += 1
                low, high = self.height - _MARGIN - 6 + lane / 3, _TOP + 8 - lane / 3
                gutter = self.right[self.row[a] // self.per] + lane + 10
                corners = ((x, low), (gutter, low), (gutter, high), (nx, high), (nx, ny))
                d += "".join(f"L{cx:.1f},{cy:.1f}" for cx, cy in corners)
            x, y = nx, ny
            if self.cells[b].box is None:
                d += f"L{x:.1f},{y + _HEIGHT:.1f}"
                y += _HEIGHT
        return d


def _fit(text: str, size: int) -> str:
    """The text, its middle left out where it is wider than a box."""
    room = int((_WIDTH - 10) / (0.66 * size))
    if len(text) <= room:
        return text
    head = room // 3
    return text[:head] + "…" + text[len(text) - (room - head - 1) :]
