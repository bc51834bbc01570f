"""Draw models of several shapes as an SVG: Tatoeba accuracy against sentences a second, area by size of the files.

Usage: python tests/perf/model_plot.py POINTS.json OUTPUT.svg

`POINTS.json` is a list of objects with `name`, `speed` (sentences a second), `accuracy` (per cent) and `megabytes`.
"""

import json
import math
import sys
from pathlib import Path
from xml.sax.saxutils import escape

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 760, 440, 60, 50, 20
# Square pixels for each megabyte.
AREA = 12.0


def ticks(low: float, high: float, step: float) -> list[float]:
    """List the multiples of a step within a range."""
    return [step * n for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def draw(points: list[dict[str, float | str]]) -> str:
    """Return the picture; speed is on a logarithmic axis."""
    speeds = [math.log10(float(point["speed"])) for point in points]
    accuracies = [float(point["accuracy"]) for point in points]
    low_x, high_x = math.floor(min(speeds)), math.ceil(max(speeds))
    low_y, high_y = 5 * math.floor(min(accuracies) / 5 - 0.2), 5 * math.ceil(max(accuracies) / 5 + 0.2)

    def place(speed: float, accuracy: float) -> tuple[float, float]:
        x = LEFT + (speed - low_x) / (high_x - low_x) * (WIDTH - LEFT - 30)
        return x, HEIGHT - BOTTOM - (accuracy - low_y) / (high_y - low_y) * (HEIGHT - BOTTOM - TOP)

    right, bottom = place(high_x, low_y)
    lines = [f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>']
    for power in range(low_x, high_x + 1):
        x = place(power, low_y)[0]
        lines.append(f'<line x1="{x:.0f}" y1="{TOP}" x2="{x:.0f}" y2="{bottom:.0f}" stroke="#ddd"/>')
        lines.append(f'<text x="{x:.0f}" y="{bottom + 18:.0f}" text-anchor="middle">{10**power:,}</text>')
    for accuracy in ticks(low_y, high_y, 5):
        y = place(low_x, accuracy)[1]
        lines.append(f'<line x1="{LEFT}" y1="{y:.0f}" x2="{right:.0f}" y2="{y:.0f}" stroke="#ddd"/>')
        lines.append(f'<text x="{LEFT - 8}" y="{y + 4:.0f}" text-anchor="end">{accuracy:g}</text>')
    for point, speed, accuracy in zip(points, speeds, accuracies, strict=True):
        x, y = place(speed, accuracy)
        radius = math.sqrt(AREA * float(point["megabytes"]) / math.pi)
        lines.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="#4477aa" fill-opacity="0.5"/>')
        label = escape(f"{point['name']} ({float(point['megabytes']):.0f} MB)")
        anchor = "end" if x > 0.7 * WIDTH else "start"
        shift = -radius - 4 if anchor == "end" else radius + 4
        lines.append(f'<text x="{x + shift:.1f}" y="{y + 4:.1f}" text-anchor="{anchor}">{label}</text>')
    middle = (LEFT + right) / 2
    below = f'x="{middle:.0f}" y="{HEIGHT - 8}" text-anchor="middle"'
    lines.append(f"<text {below}>sentences a second, one core (logarithmic)</text>")
    lines.append(
        f'<text x="14" y="{HEIGHT / 2:.0f}" text-anchor="middle" transform="rotate(-90 14 {HEIGHT / 2:.0f})">'
        "Tatoeba accuracy, mean of 58 languages, %</text>"
    )
    fonts = 'font-family="sans-serif" font-size="12"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" {fonts}>'
    return "\n".join([head, *lines, "</svg>", ""])


def main() -> None:
    """Read the points, write the picture."""
    points = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(sys.argv[2]).write_text(draw(points), encoding="utf-8")


if __name__ == "__main__":
    main()
