"""Gathers what run.sh measured into results.json.

python experiments/202611_nano/collect.py runs/nano
"""

import json
import sys
from pathlib import Path

from linearsr_jax.pretrained import model_folder

RESULTS = Path("experiments/202611_nano/results.json")


def main(workdir: str) -> None:
    """Writes RESULTS from the run's evaluations and log."""
    training = model_folder.load_pretrained("nano-flow").training
    rows = {
        path.stem.removeprefix("eval_"): json.loads(path.read_text())["rows"]
        for path in sorted(Path(workdir).glob("eval_*.json"))
    }
    lines = (Path(workdir) / "metrics.jsonl").read_text().splitlines()
    log = [json.loads(line) for line in lines]
    results = {
        "steps": training["step"],
        "crops": training["step"] * training["config"]["batch_size"],
        "versions": training["versions"],
        "hardware": "2 CPU cores, shared with other work",
        "validation": [row for row in log if "val_gain_bicubic" in row],
        "benchmarks": rows,
    }
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
