"""Two processes of four devices train as one of eight does, and end together."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from configs import debug
from linearsr_jax.codecs import PixelCodec
from linearsr_jax.pretrained.model_folder import save_pretrained
from linearsr_jax.training import sharding
from linearsr_jax.training.hosts import HEARTBEAT
from linearsr_jax.training.loop import train_and_evaluate
from tests.experts_testing import PRESET, make_experts
from tests.processes_testing import (
    find_free_port,
    make_environment,
    running_together,
)

# Long enough that a signal at step 2 comes before the end.
STEPS = 12
# All that can be spread over the processes is: parameters, two experts on one axis of
# devices, validation, and the weights of a knee.
OVERRIDES = {
    "steps": STEPS,
    "log_every": 1,
    "checkpoint_every": STEPS,
    "optimizer.warmup_steps": 0,
    "optimizer.decay_steps": 1,
    "mesh.fsdp": 8,
    "expert_boundaries": (0.5,),
    "val.holdout": 0.4,
    "val.crop_size": 32,
    "val.every": STEPS,
    "val.metrics": ("psnr",),
    "esgf.knee_step": STEPS,
    "data.workers": 1,
}
# Parameters within a process, samples over all.
HYBRID = {"mesh.fsdp": 2, "expert_boundaries": ()}
SECONDS = 600


class Processes:
    """The two processes of a run, each with its own standard error.

    What still runs at the end of the block is killed. With lists of work directories
    and of photographs, each process gets its own.
    """

    def __init__(self, folder: Path, workdirs, photos, others=()):
        workdirs, photos = (
            x if isinstance(x, list) else [x, x] for x in (workdirs, photos)
        )
        port, environment = find_free_port(), make_environment(devices=4)
        self.logs = [folder / f"log_{i}_{port}.txt" for i in range(2)]
        self.all = []
        for i in range(2):
            overrides = {**OVERRIDES, **dict(others), "data.folder": photos[i]}
            arguments = [
                *("train", "--config", "configs/debug.py", "--workdir", workdirs[i]),
                *("--coordinator", f"127.0.0.1:{port}", "--process", i),
                *("--processes", 2, "--override"),
                *(f"{name}={value}" for name, value in overrides.items()),
            ]
            with self.logs[i].open("w") as log:
                command = [sys.executable, "-m", "linearsr_jax", *map(str, arguments)]
                self.all.append(
                    subprocess.Popen(
                        command,
                        stdout=log,
                        stderr=log,
                        env=environment,
                        start_new_session=True,
                    )
                )

    def wait_for_step(self, workdir: Path, step: int) -> None:
        """Waits until the log of the run has the step."""
        path, deadline = workdir / "metrics.jsonl", time.monotonic() + SECONDS
        while not (path.exists() and f'"step": {step},' in path.read_text()):
            assert time.monotonic() < deadline, self.texts()
            assert all(x.poll() is None for x in self.all), self.texts()
            time.sleep(0.05)

    def wait(self) -> list[int]:
        """Returns the exit codes."""
        return [process.wait(timeout=SECONDS) for process in self.all]

    def texts(self) -> list[str]:
        """Returns the exit code of each and what it has said."""
        return [
            f"exit code {process.poll()}\n{log.read_text()}"
            for process, log in zip(self.all, self.logs, strict=True)
        ]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.all:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def weights(workdir: Path) -> dict[str, np.ndarray]:
    files = sorted((workdir / "model").glob("*.safetensors"))
    return {f"{x.name}:{k}": v for x in files for k, v in load_file(x).items()}


def losses(workdir: Path) -> dict[int, float]:
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


def assert_equals_one_process(workdir, photos, alone, others=()):
    """Compares with a run of this process, which has eight devices: up to rounding."""
    config = debug.get_config()
    config.lock()
    overrides = {**OVERRIDES, **dict(others), "data.folder": str(photos)}
    config.update_from_flattened_dict(overrides)
    train_and_evaluate(config, alone)
    found, expected = losses(workdir), losses(alone)
    assert found.keys() == expected.keys() == set(range(1, config.steps + 1))
    np.testing.assert_allclose(
        [found[step] for step in expected], list(expected.values()), rtol=1e-3
    )
    found, expected = weights(workdir), weights(alone)
    assert found.keys() == expected.keys()
    for name, array in found.items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-2, atol=1e-3)


def stop_by_signal(folder, run, photos, others=()):
    """Starts a run, stops it by a signal to one process; returns the step it saved."""
    with Processes(folder, run, photos, others) as processes:
        processes.wait_for_step(run, 2)
        processes.all[1].send_signal(signal.SIGTERM)
        assert processes.wait() == [75, 75], processes.texts()
    # Both have saved after the same step.
    (saved,) = (int(path.name) for path in (run / "checkpoints").iterdir())
    assert 2 <= saved < STEPS
    return saved


def resume(folder, run, photos, others=()):
    with Processes(folder, run, photos, others) as processes:
        assert processes.wait() == [0, 0], processes.texts()


def test_two_processes_that_a_signal_to_one_stops_and_resumed_are_one(photos, tmp_path):
    run, alone = tmp_path / "run", tmp_path / "alone"
    # The parameters of a model, too, are split over the processes.
    (expert,) = make_experts(1)
    start = {"init_from": str(tmp_path / "start")}
    save_pretrained(
        start["init_from"], (expert,), PRESET, PixelCodec(), training={}, card="start"
    )
    stop_by_signal(tmp_path, run, photos, start)
    resume(tmp_path, run, photos, start)
    assert_equals_one_process(run, photos, alone, start)
    scores = [
        json.loads((folder / "model" / "config.json").read_text())["training"]
        for folder in (run, alone)
    ]
    assert scores[1]["evaluation"]
    for name, value in scores[1]["evaluation"].items():
        np.testing.assert_allclose(scores[0]["evaluation"][name], value, rtol=1e-2)


@pytest.mark.slow
def test_two_processes_that_share_no_parameters_are_one(photos, tmp_path):
    with Processes(tmp_path, tmp_path / "run", photos, HYBRID) as processes:
        assert processes.wait() == [0, 0], processes.texts()
    assert_equals_one_process(tmp_path / "run", photos, tmp_path / "alone", HYBRID)


@pytest.fixture(scope="module")
def whole(photos, tmp_path_factory):
    """The workdir of a run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    with Processes(folder, folder / "run", photos) as processes:
        assert processes.wait() == [0, 0], processes.texts()
    return folder / "run"


@pytest.mark.slow
def test_a_stopped_run_ends_as_the_whole_does(whole, photos, tmp_path):
    run = tmp_path / "run"
    saved = stop_by_signal(tmp_path, run, photos)
    assert_ends_as_the_whole(tmp_path, run, photos, saved, whole)


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_other_and_loses_nothing(
    whole, photos, tmp_path
):
    run = tmp_path / "run"
    with Processes(tmp_path, run, photos, {"checkpoint_every": 4}) as processes:
        processes.wait_for_step(run, 6)
        processes.all[1].kill()
        killed = time.monotonic()
        codes = processes.wait()
        assert time.monotonic() - killed < HEARTBEAT
        # Its collective fails, or `watch` sees it first.
        assert codes == [1, -signal.SIGKILL], processes.texts()
        text = processes.texts()[0]
    assert "another process has ended" in text or "process 1 has ended" in text
    assert_ends_as_the_whole(tmp_path, run, photos, 4, whole)


def assert_ends_as_the_whole(folder, run, photos, saved, whole):
    """Resumes a run that was saved after that step; nothing of its end shows."""
    resume(folder, run, photos)
    found, expected = losses(run), losses(whole)
    assert found.keys() == expected.keys()
    resumed = range(1, min(saved + 6, STEPS) + 1)
    assert [found[step] for step in resumed] == [expected[step] for step in resumed]
    # Later ones are not held to the bit: on a busy machine a resumed run has differed
    # from the whole one in the last digits of one step, 22 steps after the resume. The
    # cause is not known; collectives that round otherwise under load would explain it.
    np.testing.assert_allclose(
        [found[step] for step in expected], list(expected.values()), rtol=1e-4
    )
    repeated, undisturbed = weights(run), weights(whole)
    for name, array in undisturbed.items():
        np.testing.assert_allclose(repeated[name], array, rtol=1e-3, atol=1e-5)


def test_photographs_that_differ_are_found_before_the_first_step(photos, tmp_path):
    other = tmp_path / "photos"
    other.mkdir()
    for path in photos.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    (other / "1.png").write_bytes((photos / "0.png").read_bytes())
    with Processes(tmp_path, tmp_path / "run", [photos, other]) as processes:
        assert processes.wait() == [1, 1]
        texts = processes.texts()
    for text in texts:
        assert "the photographs of process 1 differ from those of process 0" in text
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_workdir_that_is_not_shared_is_named(photos, tmp_path):
    with Processes(tmp_path, [tmp_path / "a", tmp_path / "b"], photos) as processes:
        assert processes.wait() == [1, 1]
        texts = processes.texts()
    for text in texts:
        assert "process 1 does not see what process 0 writes there" in text


@pytest.mark.parametrize("experts", [1, 2])
def test_samples_belong_to_the_same_expert_on_any_devices(experts):
    mesh = sharding.make_mesh(-1, 1, experts=experts)
    # All devices are this process's, so are all samples, in order.
    assert sharding.own_samples(mesh, 2, 8) == list(range(16))
    held = {
        device: np.arange(16).reshape(2, 8)[index]
        for device, index in sharding.expert_batch_sharding(mesh)
        .addressable_devices_indices_map((2, 8))
        .items()
    }
    counted = np.concatenate([x.ravel() for x in held.values()])
    assert sorted(counted) == list(range(16))
    assert len(held) == jax.device_count()


RAGGED = """
import sys
import numpy as np
from linearsr_jax.training import sharding
from linearsr_jax.training.hosts import connected
with connected(sys.argv[1], int(sys.argv[2]), 3):
    mesh = sharding.make_mesh(-1, 1, experts=2)
    own = np.array(sharding.own_samples(mesh, 2, 6))
    placed = sharding.put_expert_batch({"x": own[:, None]}, mesh, 2, 6)["x"]
    whole = np.arange(12).reshape(2, 6, 1)
    for shard in placed.addressable_shards:
        np.testing.assert_array_equal(shard.data, whole[shard.index])
    print(*own)
"""


def test_experts_may_end_in_the_middle_of_a_host():
    """Of three hosts with two devices the second one has one of either expert."""
    with running_together(RAGGED, 3, devices=2) as processes:
        found = [process.communicate(timeout=SECONDS) for process in processes]
    assert [p.returncode for p in processes] == [0, 0, 0], found
    counted = [int(n) for out, _ in found for n in out.split()]
    assert counted == list(range(12))
