"""What the writers leave behind, read again by other code than theirs."""

import json
import math
import sys
import types

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from linearsr_jax.esgf.curve_files import curve_of, read_curve
from linearsr_jax.esgf.evaluation import Evaluation, Validation
from linearsr_jax.esgf.run_report import report_run
from linearsr_jax.training.record import TrainError
from linearsr_jax.training.writers import (
    ImageFolderWriter,
    JsonLinesWriter,
    ManyWriters,
    TensorBoardWriter,
    make_writer,
)


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def events(folder):
    """Reads event files by their format: length, its checksum, record, checksum."""
    found = []
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")
            found.append(Event.FromString(data[12 : 12 + size]))
            data = data[16 + size :]
    return found


# No name says that lower values of an "odd" metric are better.
VALIDATIONS = tuple(
    Validation(
        step,
        (
            Evaluation("odd", "light", "averaged", False, value),
            Evaluation("psnr", "light", "averaged", True, 20.0),
            Evaluation("odd", "light", "raw", False, 0.5),
        ),
    )
    for step, value in ((1, 0.75), (2, math.nan))
)


def test_a_log_knows_every_direction_and_every_voter(tmp_path):
    writer = make_writer(tmp_path, resume_step=0)
    for validation in VALIDATIONS:
        writer.write_validation(validation, metrics=("odd",), others={"sharpness": 3.0})
    writer.close()
    first, second = rows(tmp_path / "metrics.jsonl")
    assert first["val_odd_light"] == 0.75
    assert second["val_odd_light"] is None
    assert first["sharpness"] == 3.0
    assert first["higher_is_better"] == {
        "val_odd_light": False,
        "val_psnr_light": True,
        "val_odd_light_raw": False,
    }
    found, expected = read_curve(tmp_path), curve_of(VALIDATIONS, ("odd",))
    assert (
        found.higher_is_better == expected.higher_is_better == {"val_odd_light": False}
    )
    np.testing.assert_array_equal(
        found.metrics["val_odd_light"], expected.metrics["val_odd_light"]
    )
    tags = [v.tag for e in events(tmp_path / "tensorboard") for v in e.summary.value]
    assert {"val_odd_light_raw", "sharpness"} <= set(tags)


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


def test_the_time_of_repeated_steps_is_lost(tmp_path):
    """A killed process, one that dies before its first checkpoint, and a third one."""
    path = tmp_path / "metrics.jsonl"

    def write(resume_step, *times):
        writer = JsonLinesWriter(path, resume_step)
        for step, seconds, starting, saving in times:
            names = ("seconds", "seconds_starting", "seconds_saving")
            values = dict(zip(names, (seconds, starting, saving), strict=True))
            writer.write_scalars(step, {"loss": 1.0, "seconds_lost": 0.0, **values})
        writer.close()

    write(0, (2, 10.0, 3.0, 1.0), (4, 30.0, 3.0, 2.0), (5, 36.0, 3.0, 2.0))
    write(2, (3, 9.0, 4.0, 0.0))
    write(2, (3, 8.0, 5.0, 0.0), (4, 11.0, 5.0, 0.0))
    report = report_run(tmp_path)
    assert report.starts == 3
    # 10 - 3 - 1 s, and 11 - 5 s, brought the run to where it is.
    assert report.seconds["training"] == 6 + 6
    assert report.seconds["lost"] == (36 - 10 - 1) + (9 - 4)
    assert report.seconds["starting"] == 3 + 4 + 5
    assert [row["step"] for row in rows(path)] == [2, 2, 2, 3, 4]

    # Step 2 is damaged: what all three did since the checkpoint before is lost.
    write(1, (2, 7.0, 6.0, 0.0))
    report = report_run(tmp_path)
    assert report.starts == 4
    assert report.seconds["training"] == 7 - 6
    assert report.seconds["lost"] == (36 - 3 - 2) + (9 - 4) + (11 - 5)


def test_numbers_that_json_lacks_become_null(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = ManyWriters(JsonLinesWriter(path, resume_step=0))
    writer.write_scalars(1, {"a": math.nan, "b": math.inf, "c": 1.0})
    writer.close()
    assert rows(path) == [{"step": 1, "a": None, "b": None, "c": 1.0}]


def test_images_become_png_files(tmp_path):
    stack = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 3), np.uint8)
    writer = ImageFolderWriter(tmp_path / "images")
    writer.write_images(12, {"val": stack[::-1]})
    writer.write_images(12, {"val": stack})  # a resumed run writes it again
    with Image.open(tmp_path / "images" / "val_00000012.png") as image:
        np.testing.assert_array_equal(np.asarray(image), stack.reshape(6, 5, 3))
    assert len(list((tmp_path / "images").iterdir())) == 1


def test_tensorboard_holds_numbers_images_and_texts(tmp_path):
    writer = TensorBoardWriter(tmp_path, resume_step=0)
    writer.write_scalars(3, {"loss": 0.25})
    writer.write_images(3, {"val": np.zeros((2, 4, 4, 3), np.uint8)})
    writer.write_texts(3, {"note": "a  b\nc"})
    writer.write_hparams({"optimizer.b1": 0.9, "preset": "nano"})
    writer.flush()
    writer.close()
    values = [(e.step, v) for e in events(tmp_path) for v in e.summary.value]
    scalars = {v.tag: (step, v.simple_value) for step, v in values if v.simple_value}
    assert scalars == {"loss": (3, 0.25)}
    (image,) = (v.image for _, v in values if v.HasField("image"))
    assert (image.width, image.height) == (8, 4)
    texts = {
        v.tag: v.tensor.string_val[0].decode() for _, v in values if v.tensor.dtype
    }
    assert texts["note/text_summary"] == "    a  b\n    c"
    assert "optimizer.b1 = 0.9" in texts["config/text_summary"]


def test_tensorboard_hides_the_steps_a_resumed_run_repeats(tmp_path):
    TensorBoardWriter(tmp_path, resume_step=6).close()
    # TensorBoard drops events at and after the step of a session start.
    (start,) = (e for e in events(tmp_path) if e.HasField("session_log"))
    assert start.step == 7


def test_every_writer_gets_every_call(tmp_path):
    calls = []

    class Recorder:
        def __getattr__(self, name):
            return lambda *args, **kwargs: calls.append((name, args, kwargs))

    writer = ManyWriters(Recorder(), Recorder())
    writer.write_scalars(1, {"a": 1.0})
    writer.write_validation(VALIDATIONS[0], metrics=("psnr",), others={})
    writer.write_images(2, {})
    writer.write_texts(3, {})
    writer.write_hparams({})
    writer.flush()
    writer.close()
    assert calls[::2] == calls[1::2]
    assert [call[0] for call in calls[::2]] == [
        "write_scalars",
        "write_validation",
        "write_images",
        "write_texts",
        "write_hparams",
        "flush",
        "close",
    ]


def test_clus_writer_is_used_where_the_config_asks_for_it(tmp_path, monkeypatch):
    """With stand-ins for both modules: TensorFlow itself is too large for a test."""
    hidden, written = [], []
    tensorflow = types.SimpleNamespace(
        config=types.SimpleNamespace(
            set_visible_devices=lambda devices, kind: hidden.append((devices, kind))
        )
    )

    class SummaryWriter:
        def __init__(self, folder):
            self.folder = folder

        def __getattr__(self, name):
            return lambda *args: written.append((self.folder, name, args))

    clu_writers = types.SimpleNamespace(SummaryWriter=SummaryWriter)
    monkeypatch.setitem(sys.modules, "tensorflow", tensorflow)
    monkeypatch.setitem(sys.modules, "clu.metric_writers", clu_writers)
    monkeypatch.setattr("clu.metric_writers", clu_writers, raising=False)
    # TensorFlow being there changes nothing.
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    make_writer(tmp_path / "a", resume_step=0).close()
    assert hidden == []
    writer = make_writer(tmp_path / "b", resume_step=0, tensorboard="clu")
    writer.write_scalars(1, {"a": 1.0})
    writer.write_validation(VALIDATIONS[0], metrics=(), others={})
    writer.close()
    assert hidden == [([], "GPU")]  # JAX needs their memory
    folder = str(tmp_path / "b" / "tensorboard")
    scores = VALIDATIONS[0].scores
    assert written == [
        (folder, "write_scalars", (1, {"a": 1.0})),
        (folder, "write_scalars", (1, scores)),
        (folder, "close", ()),
    ]
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(TrainError, match="needs TensorFlow: pip install tensorflow"):
        make_writer(tmp_path / "b", resume_step=0, tensorboard="clu")


def test_damaged_lines_are_named_and_dropped(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    good = [b'{"step": 1}', b'{"step": 2}', b'{"step": 3}']
    bad = [b'{"step": 2, "loss": \xff}', b"7", b'{"step": "2"}', b'{"step": 3, "lo']
    path.write_bytes(b"\n".join([good[0], *bad[:3], good[1], good[2], bad[3]]))
    JsonLinesWriter(path, resume_step=2).close()
    assert path.read_bytes().splitlines() == good[:2]
    named = [
        int(message.split("line ")[1].split(",")[0]) for message in caplog.messages
    ]
    assert named == [2, 3, 4, 7]
