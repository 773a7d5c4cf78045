"""Draws context.png from results.json: what surroundings do, and what they cost.

python experiments/202611_attention/plot.py
"""

import json
from pathlib import Path

import context
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path("experiments/202611_attention")
COLOURS = {"linear": "tab:blue", "softmax": "tab:orange", "none": "tab:green"}


def draw(axes, summary: dict, keys: dict[int, str]) -> None:
    """One line per variant with standard errors, over the numbers keyed."""
    for variant, colour in COLOURS.items():
        cells = [summary[key][variant]["over_images"] for key in keys.values()]
        axes.errorbar(
            list(keys),
            [cell["mean"] for cell in cells],
            [cell["stderr"] for cell in cells],
            color=colour,
            marker="o",
            capsize=3,
            label=variant,
        )


def main() -> None:
    """Writes context.png."""
    results = json.loads((HERE / "results.json").read_text())
    summary = results["summary"]
    figure, (windows, foreign, seconds) = plt.subplots(1, 3, figsize=(11, 3.2))
    sides = (*context.WINDOWS, context.WHOLE)
    least, *larger = sides
    draw(windows, summary, {side: f"window {side} over {least}" for side in larger})
    windows.set(
        xlabel=f"side of the LR image (trained at {least})",
        ylabel=f"patch: PSNR over side {least}, dB",
        xticks=(least, *larger),
    )
    draw(
        foreign,
        summary,
        {margin: f"foreign beyond {margin}, psnr_lost" for margin in context.MARGINS},
    )
    foreign.set(
        xlabel="own surroundings kept, LR pixels",
        ylabel="lost to foreign ones beyond, dB",
        xticks=context.MARGINS,
    )
    for variant, colour in COLOURS.items():
        rows = results["costs"][variant]["sides"]
        seconds.loglog(
            [int(side) for side in rows],
            [row["seconds"] for row in rows.values()],
            color=colour,
            marker="o",
        )
    seconds.set(xlabel="side of the LR image", ylabel="forward pass, CPU s")
    seconds.set_xticks(sides, map(str, sides))
    seconds.minorticks_off()
    windows.legend()
    for axes in (windows, foreign):
        axes.axhline(0, color="0.8", zorder=0)
    figure.tight_layout()
    figure.savefig(HERE / "context.png", dpi=110)


if __name__ == "__main__":
    main()
