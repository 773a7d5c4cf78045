"""Runs LinearSR's stages in order, each from the knee of the previous one.

The paper has three stages: pretraining, continued pretraining of the experts, and
supervised fine-tuning. It picks the checkpoints between them by hand, and does not
publish its batches, learning rates and data.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from linearsr_jax.training.hosts import is_first
from linearsr_jax.training.inputs import has_same_fields
from linearsr_jax.training.loop import train_and_evaluate
from linearsr_jax.training.record import TrainError
from linearsr_jax.training.setup import make_parts

logger = logging.getLogger(__name__)

STAGES_FILE = "stages.json"


def run_stages(stages: Mapping[str, ConfigDict], workdir: str | Path) -> bool:
    """Trains each stage in workdir/NAME, and continues where an earlier call stopped.

    A finished stage is not opened again unless its config has changed.
    workdir/stages.json records which weights each stage started from and handed on.

    Args:
      stages: configs by name, in order. All but the first start from the model of the
        previous stage, and must leave init_from empty.
      workdir: folder of the stages; created if missing.

    Returns:
      Whether all stages are finished; False if a signal came before.

    Raises:
      BadFieldError: a stage has a field with a bad value.
      TrainError: a later stage sets init_from, or stages.json is damaged; see also
        `loop.train_and_evaluate`.
    """
    workdir = Path(workdir)
    for name in list(stages)[1:]:
        if stages[name].init_from:
            raise TrainError(
                f"{name}.init_from: must be empty; the stage starts from the one before"
            )
    for config in stages.values():
        # A bad field of the last stage must not show after days of training.
        make_parts(config)
    path = workdir / STAGES_FILE
    before = _read(path) if path.exists() else {}
    done: list[dict[str, Any]] = []
    for name, config in stages.items():
        with config.unlocked():
            if done:
                config.init_from = str(workdir / done[-1]["name"] / "model")
            if config.goodput_job:
                # Each stage counts its steps from one: to Google they are jobs.
                config.goodput_job += f"-{name}"
        as_json = json.loads(json.dumps(config.to_dict()))
        stage = before.get(name)
        # If a stage is trained again, those after it start from other weights.
        is_same = done == [before.get(earlier["name"]) for earlier in done]
        is_done = stage and is_same and has_same_fields(stage["config"], as_json)
        if not is_done:
            logger.info("stage %s", name)
            result = train_and_evaluate(config, workdir / name)
            if result.selection is None:
                return False
            trained: dict[str, Any] = {
                "name": name,
                "init_from": done[-1]["name"] if done else config.init_from,
                "esgf": result.selection.to_json(),
                "config": as_json,
            }
            stage = trained
        done.append(stage)
        later = [before[other] for other in list(before)[len(done) :]]
        if is_first():
            _write(path, done + later)
        logger.info("stage %s hands on step %d", name, stage["esgf"]["step"])
    return True


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        stages = {stage["name"]: stage for stage in json.loads(path.read_text())}
        if all({"config", "esgf"} <= stage.keys() for stage in stages.values()):
            return stages
    except (ValueError, TypeError, KeyError):
        pass
    raise TrainError(
        f"{path}: is damaged; delete it, and finished stages will be opened again"
    )


def _write(path: Path, stages: list[dict[str, Any]]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(stages, indent=2) + "\n")
    temporary.replace(path)
