"""The JSON-lines log of a run that is resumed."""

import json
import math

from linearsr_jax.writers import JsonLinesWriter, ManyWriters


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_resumed_run_drops_what_it_repeats(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = JsonLinesWriter(path, resume_step=0)
    for step in (1, 2, 3):
        writer.write_scalars(step, {"loss": step / 2})
    writer.close()
    with path.open("a") as file:
        file.write('{"step": 4, "lo')  # what a killed run leaves
    writer = JsonLinesWriter(path, resume_step=2)
    writer.write_scalars(3, {"loss": 7.0})
    writer.close()
    assert [(row["step"], row["loss"]) for row in rows(path)] == [
        (1, 0.5),
        (2, 1.0),
        (3, 7.0),
    ]


def test_numbers_that_json_lacks_become_null(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = ManyWriters(JsonLinesWriter(path, resume_step=0))
    writer.write_scalars(1, {"a": math.nan, "b": math.inf, "c": 1.0})
    writer.close()
    assert rows(path) == [{"step": 1, "a": None, "b": None, "c": 1.0}]
