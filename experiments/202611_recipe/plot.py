"""Draws results.json: pretraining with its knee, and the next stage from both starts.

python experiments/202611_recipe/plot.py
"""

import json
from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("agg")
import matplotlib.pyplot as plt

HERE = Path("experiments/202611_recipe")
COLOURS = {"knee": "tab:blue", "last": "tab:orange"}
LABELS = {"knee": "from the knee", "last": "from the last step"}


def main() -> None:
    """Writes knee.png."""
    results = json.loads((HERE / "results.json").read_text())["knee"]
    pretraining, curves = results["pretraining"], results["curves"]
    figure, axes = plt.subplots(1, 4, figsize=(16, 3.6), constrained_layout=True)
    steps = np.array(pretraining["steps"]) / 1000
    knee = pretraining["verdict"]["knee_step"]
    for axis, name, title in (
        (axes[0], "val_lpips_light", "pretraining: LPIPS on LIGHT"),
        (axes[1], "sharpness", "pretraining: batch sharpness"),
    ):
        axis.plot(steps, pretraining[name], color="black", linewidth=1)
        axis.axvline(knee / 1000, color=COLOURS["knee"], label="knee")
        axis.axvline(steps[-1], color=COLOURS["last"], label="last step")
        axis.set(title=title, xlabel="thousand steps")
        axis.legend()
    for axis, name, title in (
        (axes[2], "val_psnr_standard", "next stage: PSNR on STANDARD, dB"),
        (axes[3], "val_lpips_standard", "next stage: LPIPS on STANDARD"),
    ):
        for start, curve in curves.items():
            mean, error = np.array(curve[name]).T
            axis.plot(curve["steps"], mean, color=COLOURS[start], label=LABELS[start])
            axis.fill_between(
                curve["steps"],
                mean - error,
                mean + error,
                color=COLOURS[start],
                alpha=0.25,
                linewidth=0,
            )
        axis.set(title=title, xlabel="steps")
        axis.legend()
    figure.savefig(HERE / "knee.png", dpi=80)


if __name__ == "__main__":
    main()
