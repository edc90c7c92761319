"""A PNG of the ratios, drawn with the standard library alone: grouped bars on a logarithmic scale around 1.

One group a workload, one bar a system; a bar to the left of the line is faster than the reference, to the right slower.
"""

import math
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

from results import Row
from workloads import METRICS

# 5x7 glyphs from "!" to "z", five columns each, lowest bit on top; two characters of hex a column.
GLYPHS = (
    "00005F0000000700070 0147F147F14242A7F2A12231308646236495620500008070300001C2241000041221C00"
    "2A1C7F1C2A08083E08080080703000080808080800006060002010080402"
    "3E5149453E00427F4000724949494621 41494D331814127F1027454545393C4A49493141211109073649494936464949291E"
    "0000140000004034000000081422411414141414004122140802015909063E415D594E"
    "7C1211127C7F494949363E414141227F4141413E7F494949417F090909013E414151737F0808087F00417F4100"
    "2040413F017F081422417F404040407F021C027F7F0408107F3E4141413E7F090909063E4151215E7F09192946"
    "264949493203017F01033F4040403F1F2040201F3F4038403F631408146303047804036159494D43"
    "007F4141410204081020004141417F040201020440404040400003070800"
    "20545478407F284444383844444428384444287F385454541800087E090218A4A49C787F0804047800447D4000"
    "2040403D007F1028440000417F40007C047804787C080404783844444438FC18242418182424 18FC7C08040408"
    "485454542404043F44243C4040207C1C2040201C3C4030403C44281028444C9090907C4464544C44"
).replace(" ", "")
COLOURS = (
    (31, 119, 180),
    (255, 127, 14),
    (44, 160, 44),
    (148, 103, 189),
    (140, 86, 75),
    (227, 119, 194),
    (127, 127, 127),
)
BLACK, GREY, WHITE = (0, 0, 0), (215, 215, 215), (255, 255, 255)
LETTER = 12  # of the larger writing
LEFT, RIGHT, TOP = 20 + LETTER * max(len(metric.what) for metric in METRICS.values()), 90, 70
WIDTH = LEFT + 680 + RIGHT
BAR, GAP = 11, 12
LEAST, MOST = 1 / 16, 16.0


class Canvas:
    """RGB pixels, rectangles and text."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.rows = [bytearray(bytes(WHITE) * width) for _ in range(height)]

    def box(self, left: int, top: int, width: int, height: int, colour: tuple[int, int, int]) -> None:
        left, right = max(left, 0), min(left + width, self.width)
        for row in self.rows[max(top, 0) : top + height]:
            row[3 * left : 3 * right] = bytes(colour) * max(right - left, 0)

    def text(self, left: int, top: int, words: str, colour: tuple[int, int, int] = BLACK, size: int = 2) -> None:
        for place, character in enumerate(words):
            start = (ord(character) - ord("!")) * 10
            glyph = GLYPHS[start : start + 10] if 0 <= start < len(GLYPHS) else ""
            for column in range(len(glyph) // 2):
                bits = int(glyph[2 * column : 2 * column + 2], 16)
                for row in range(8):
                    if bits >> row & 1:
                        self.box(left + (place * 6 + column) * size, top + row * size, size, size, colour)

    def png(self) -> bytes:
        def part(kind: bytes, body: bytes) -> bytes:
            return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

        head = struct.pack(">IIBBBBB", self.width, self.height, 8, 2, 0, 0, 0)
        pixels = zlib.compress(b"".join(b"\0" + row for row in self.rows), 9)
        return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", pixels) + part(b"IEND", b"")


def across(ratio: float) -> int:
    """Where a ratio lies, in pixels."""
    share = math.log(min(max(ratio, LEAST), MOST) / LEAST) / math.log(MOST / LEAST)
    return LEFT + round(share * (WIDTH - LEFT - RIGHT))


def draw(target: Path, rows: Sequence[Row], systems: Sequence[str], reference: str) -> bool:
    """Write the plot; False if there is nothing to compare."""
    rows = [row for row in rows if row.ratios]
    shown = [name for name in systems if name != reference and any(name in row.ratios for row in rows)]
    if not shown:
        return False
    group = len(shown) * BAR + GAP
    canvas = Canvas(WIDTH, TOP + len(rows) * group + 40)
    canvas.text(10, 10, f"time or cost as a multiple of {reference}'s (left of 1: faster)")
    for place, name in enumerate(shown):
        canvas.box(10 + place * 150, 40, 12, 12, COLOURS[place % len(COLOURS)])
        canvas.text(28 + place * 150, 40, name)
    bottom = TOP + len(rows) * group
    for power in range(-4, 5):
        ratio = 2.0**power
        canvas.box(across(ratio), TOP - 6, 2 if ratio == 1 else 1, bottom - TOP + 6, BLACK if ratio == 1 else GREY)
        label = f"{ratio:g}" if ratio >= 1 else f"1/{round(1 / ratio)}"
        canvas.text(across(ratio) - 6 * len(label), bottom + 6, label)
    for number, row in enumerate(rows):
        top = TOP + number * group
        canvas.text(10, top + (len(shown) * BAR - 14) // 2, METRICS[row.metric].what)
        for place, name in enumerate(shown):
            if name not in row.ratios:
                continue
            end, middle, y = across(row.ratios[name]), across(1), top + place * BAR
            canvas.box(min(end, middle), y, max(abs(end - middle), 2), BAR - 1, COLOURS[place % len(COLOURS)])
            canvas.text(max(end, middle) + 6, y + 1, f"{row.ratios[name]:.2f}", size=1)
    target.write_bytes(canvas.png())
    return True
