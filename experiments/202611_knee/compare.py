"""Scores detectors on the curves of some seeds, and says how often they are right.

    python experiments/202611_knee/compare.py SEED [SEED ...] [--out results.json]

Needs `pip install kneed`, which the package does not.
"""

import argparse
import json
import multiprocessing

import curves
import detectors
import numpy as np

from linearsr_jax.esgf.knee import find_knee
from linearsr_jax.esgf.tracker import track

OURS = "esgf.knee"


def judge(curve: curves.Curve) -> dict:
    """Every detector's answer to a curve, in evaluations from the true knee."""
    verdict = find_knee(curve.steps, curve.metrics, curve.higher_is_better)
    ours = (verdict.knee_step, verdict.decided_at_step)
    answers = {OURS: ours if verdict.knee_step is not None else None}
    name, values = next(iter(curve.metrics.items()))
    sign = 1 if curve.higher_is_better[name] else -1
    finite = np.isfinite(values)
    for detector, find in detectors.DETECTORS.items():
        answers[detector] = find(curve.steps[finite], sign * values[finite])
    return {
        "family": curve.family,
        "kind": curve.kind,
        "expected": curve.verdict,
        "verdict": verdict.verdict,
        "ever": curve.knee is None
        and ever_declared(curve.steps[finite], sign * values[finite]),
        "answers": {
            detector: answer and place(curve, answer)
            for detector, answer in answers.items()
        },
    }


def place(curve: curves.Curve, answer: tuple[int, int]) -> dict:
    """Error and delay of an answer in evaluations; None where there is no knee."""
    if curve.knee is None:
        return {"error": None, "delay": None}
    knee, found, decided = np.searchsorted(curve.steps, (curve.knee, *answer))
    return {"error": int(found - knee), "delay": int(decided - knee)}


def ever_declared(steps, values) -> bool:
    """Whether ours named a knee at any time, even if it was withdrawn later."""
    states = track(steps.astype(float), values)
    return any(state.plateau is not None for state in states)


def summarize(judged: list[dict], detector: str) -> dict:
    """A row of the table: one detector on some curves."""
    with_knee = [j for j in judged if j["expected"] != "none"]
    without = [j for j in judged if j["expected"] == "none"]
    found = [j["answers"][detector] for j in with_knee if j["answers"][detector]]
    row = {"curves": len(judged)}
    if with_knee:
        row["missed"] = 1 - len(found) / len(with_knee)
    if found:
        errors = np.abs([answer["error"] for answer in found])
        delays = [answer["delay"] for answer in found]
        row["median_error"] = float(np.median(errors))
        row["p90_error"] = float(np.percentile(errors, 90))
        row["bias"] = float(np.mean([answer["error"] for answer in found]))
        row["within_3"] = float(np.sum(errors <= 3) / len(with_knee))
        row["median_delay"] = float(np.median(delays))
        row["p90_delay"] = float(np.percentile(delays, 90))
    if without:
        alarms = [j["answers"][detector] is not None for j in without]
        row["false_alarms"] = float(np.mean(alarms))
        if detector == OURS:
            row["false_alarms_ever"] = float(np.mean([j["ever"] for j in without]))
    if detector == OURS:
        row["right_verdict"] = float(
            np.mean([j["verdict"] == j["expected"] for j in judged])
        )
    return row


def main() -> None:
    """Prints the tables and writes all figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seeds", type=int, nargs="+")
    parser.add_argument("--out", help="JSON file")
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    simulated = [curve for seed in args.seeds for curve in curves.generate(seed)]
    with multiprocessing.Pool(args.processes) as pool:
        judged = pool.map(judge, simulated, chunksize=8)
    results = {"seeds": args.seeds, "detectors": {}, "families": {}, "noise": {}}
    never = [j for j in judged if j["family"] == "never"]
    for detector in (OURS, *detectors.DETECTORS):
        results["detectors"][detector] = summarize(judged, detector) | {
            "false_alarms_never": summarize(never, detector)["false_alarms"]
        }
    for family in curves.FAMILIES:
        members = [j for j in judged if j["family"] == family]
        results["families"][family] = summarize(members, OURS)
    for low, high in ((0, 1), (1, 2), (2, 4), (4, 8.1)):
        members = [
            j
            for j in judged
            if j["expected"] != "none"
            and low <= float(j["kind"].split()[-1].rstrip("%")) < high
        ]
        results["noise"][f"{low} to {high:.0f} % of the rise"] = summarize(
            members, OURS
        )
    for title, rows in list(results.items())[1:]:
        print_table(title, rows)
    if args.out:
        with open(args.out, "w") as file:
            json.dump(results, file, indent=1)
            file.write("\n")


def print_table(title: str, rows: dict[str, dict]) -> None:
    """As Markdown."""
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    print(f"\n| {title} | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for name, row in rows.items():
        cells = [f"{row[key]:.3g}" if key in row else "" for key in columns]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
