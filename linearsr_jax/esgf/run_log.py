"""Names in the log of a training, which `training` writes and `run_report` reads."""

# The file in the run's folder.
LOG = "metrics.jsonl"

# Of a row: all seconds of its process; "seconds_KIND" has those of each kind.
SECONDS = "seconds"
# Kinds of time that do not train. "lost" is that of steps which a rewind or a
# resume takes back.
KINDS = ("starting", "compiling", "data_wait", "saving", "validating", "lost")
