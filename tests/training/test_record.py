"""What a run remembers: to JSON and back, of older versions too."""

import json
import math

import pytest

from configs import debug
from linearsr_jax.data.manifest import Manifest
from linearsr_jax.esgf.evaluation import Evaluation, Validation
from linearsr_jax.training.record import (
    Rewind,
    RunRecord,
    TrainError,
    check_same_config,
)

EVALUATIONS = (
    Evaluation("psnr", "light", "averaged", True, 27.5),
    Evaluation("lpips", "light", "raw", False, 0.25),
    Evaluation("gain", "light", "averaged", True, 0.5),
    Evaluation("loss_at_110", None, "averaged", False, 1.5),
)


def make_config(**overrides):
    config = debug.get_config()
    config.update_from_flattened_dict(overrides)
    return json.loads(json.dumps(config.to_dict()))


def make_record(**changes):
    values = {
        "config": make_config(),
        "versions": {"jax": "1.2.3"},
        "data_seed": 7,
        "codec": {"name": "pixel"},
        "origin": None,
        "manifest": Manifest(("a.png",), ((30, 40),), {"b.png": "broken"}),
        "validations": (Validation(10, EVALUATIONS),),
        "rewinds": (Rewind(step=8, to=4, reason="bad"),),
    }
    return RunRecord(**values | changes)


def read(values, workdir):
    return RunRecord.from_json(json.loads(json.dumps(values)), workdir)


def test_json_and_back(tmp_path):
    record = make_record()
    assert read(record.to_json(), tmp_path) == record


def test_a_record_of_0_1_is_converted(tmp_path):
    """It had the scores of a step in one dict, by name."""
    old = make_record().to_json() | {"format": 2}
    (validation,) = make_record().validations
    old["evaluations"] = [{"step": 10, **validation.scores}]
    del old["validations"]
    assert read(old, tmp_path) == make_record()
    old["evaluations"][0]["val_psnr_light"] = None
    (converted,) = read(old, tmp_path).validations
    assert math.isnan(converted.scores["val_psnr_light"])


def test_a_record_of_another_version_is_refused(tmp_path):
    values = make_record().to_json() | {"format": 1}
    with pytest.raises(TrainError, match=r"another version .* start anew in another"):
        read(values, tmp_path)


def test_a_field_that_came_later_had_its_default(tmp_path):
    config = make_config()
    del config["data"]["degradations"]["light"]
    record = make_record(config=config)
    check_same_config(record, make_config(), tmp_path)
    other = make_config(**{"data.degradations.light": 0.7})
    with pytest.raises(TrainError, match=r"degradations\.light=0\.2, not 0\.7"):
        check_same_config(record, other, tmp_path)


def test_what_may_change(tmp_path):
    record = make_record()
    check_same_config(record, make_config(steps=99, tensorboard="clu"), tmp_path)
    with pytest.raises(TrainError, match="contains a run with batch_size=8, not 4"):
        check_same_config(record, make_config(batch_size=4), tmp_path)
