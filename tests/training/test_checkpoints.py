"""Checkpoints: no damage is loaded silently, and the one before takes over."""

import gc
import json
import random
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linearsr_jax.config.defaults import default_config
from linearsr_jax.data.manifest import Manifest
from linearsr_jax.training import checkpoints
from linearsr_jax.training.checkpoints import Candidates, Checkpointer, DamageError
from linearsr_jax.training.fingerprints import fingerprints
from linearsr_jax.training.record import RunRecord, TrainError
from linearsr_jax.training.resuming import find_resumable
from linearsr_jax.training.rewinding import choose_checkpoint
from linearsr_jax.training.sharding import make_mesh

# Where Orbax meets a damaged array it leaves the reading of others unawaited.
pytestmark = [
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

CONFIG = json.loads(json.dumps(default_config().to_dict()))
RECORD = RunRecord(
    config=CONFIG,
    versions={},
    data_seed=0,
    codec={},
    origin=None,
    manifest=Manifest(("a.png",), ((64, 64),)),
)


@pytest.fixture(autouse=True)
def collect():
    """Drops what was left behind while the warnings about it are ignored."""
    yield
    gc.collect()


def make_state(seed: int):
    rng = np.random.default_rng(seed)
    return {
        "kernel": jnp.asarray(rng.standard_normal((8, 33, 5)), jnp.float32),
        "half": jnp.asarray(rng.standard_normal(7), jnp.bfloat16),
        "step": jnp.int32(seed),
        "flags": jnp.array([True, False]),
    }


class StartState:
    """Restores `make_state`'s."""

    def restored(self, checkpointer, step):
        like = make_state(0)
        shardings = jax.tree.map(lambda x: x.sharding, like)
        return checkpointer.restore_state(step, like, shardings)


def assert_same_bits(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with checkpoints of the steps 1 and 2."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    checkpointer = Checkpointer(folder, keep=3)
    for step in (1, 2):
        checkpointer.save(step, make_state(step), RECORD)
    checkpointer.close()
    return folder


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_no_flipped_bit_is_loaded_silently(saved, tmp_path):
    draw = random.Random(0)
    checkpointer = Checkpointer(saved, keep=3)
    paths, found = files_of(saved / "2"), 0
    for number in range(60):
        path = paths[number % len(paths)]
        whole = path.read_bytes()
        data = bytearray(whole)
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        try:
            record = checkpointer.restore_record(2)
            state = StartState().restored(checkpointer, 2)
        except TrainError:
            found += 1
        else:
            assert record == RECORD
            assert_same_bits(state, make_state(2))
        path.write_bytes(whole)
    checkpointer.close()
    # The others are in what nobody reads, such as the time of saving.
    assert found > 10


def damage(folder, kind):
    largest = max(files_of(folder), key=lambda path: path.stat().st_size)
    if kind == "empty folder":
        shutil.rmtree(folder)
        folder.mkdir()
    elif kind == "no state":
        shutil.rmtree(folder / "state")
    elif kind == "no record":
        shutil.rmtree(folder / "run")
    elif kind == "no sums":
        shutil.rmtree(folder / "sums")
    elif kind == "half a file":
        largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    elif kind == "other sums":
        shutil.copytree(
            folder.parent / "1" / "sums", folder / "sums", dirs_exist_ok=True
        )
    elif kind == "zeros":
        largest.write_bytes(bytes(largest.stat().st_size))


@pytest.mark.parametrize(
    "kind",
    [
        "empty folder",
        "no state",
        "no record",
        "no sums",
        "half a file",
        "other sums",
        "zeros",
    ],
)
def test_the_checkpoint_before_takes_over(saved, tmp_path, caplog, kind):
    folder = tmp_path / "checkpoints"
    shutil.copytree(saved, folder)
    damage(folder / "2", kind)
    checkpointer = Checkpointer(folder, keep=3)
    resumed = find_resumable(checkpointer, StartState(), CONFIG, tmp_path)
    assert resumed.step == 1
    assert_same_bits(resumed.state, make_state(1))
    assert "going back to checkpoint 1" in caplog.text
    # Its step can be saved again, and nothing is deleted.
    checkpointer.save(2, make_state(7), RECORD)
    checkpointer.close()
    assert {path.name for path in folder.iterdir()} == {"1", "2", "damaged-2"}
    checkpointer = Checkpointer(folder, keep=3)
    resumed = find_resumable(checkpointer, StartState(), CONFIG, tmp_path)
    checkpointer.close()
    assert resumed.step == 2
    assert_same_bits(resumed.state, make_state(7))


def test_only_damaged_ones_are_an_error_and_stay(saved, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(saved, folder)
    for step in ("1", "2"):
        damage(folder / step, "half a file")
    checkpointer = Checkpointer(folder, keep=3)
    with pytest.raises(TrainError, match=r"checkpoints/2: .*no older checkpoint can"):
        find_resumable(checkpointer, StartState(), CONFIG, tmp_path)
    checkpointer.close()
    assert {path.name for path in folder.iterdir()} == {"1", "2"}


def test_checkpoints_of_0_2_have_no_sums(saved, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(saved, folder)
    shutil.rmtree(folder / "2" / "sums")
    path = folder / "2" / "run" / "metadata"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 3}))
    checkpointer = Checkpointer(folder, keep=3)
    resumed = find_resumable(checkpointer, StartState(), CONFIG, tmp_path)
    checkpointer.close()
    assert_same_bits(resumed.state, make_state(2))


def test_hosts_that_see_other_checkpoints_wait_for_the_same(saved, monkeypatch):
    seen = [["1, the last [1]", "2, the last [1, 2]"]] * 2 + [["same", "same"]]
    monkeypatch.setattr(checkpoints, "gather_text", lambda text: seen.pop(0))
    monkeypatch.setattr(checkpoints.time, "sleep", lambda seconds: None)
    checkpointer = Checkpointer(saved, keep=3)
    assert checkpointer.wait_for_steps() == [1, 2]
    assert not seen
    monkeypatch.setattr(checkpoints, "gather_text", lambda text: [text, "none"])
    with pytest.raises(
        TrainError, match=r"process 0 sees 2, .*\[1, 2\], but process 1"
    ):
        checkpointer.wait_for_steps()
    checkpointer.close()


def test_what_was_there_before_a_collapse_outlives_the_save_that_it_shows_in(tmp_path):
    """Three validations in a row decide, and the checkpoint comes before the third."""
    checkpointer = Checkpointer(tmp_path / "checkpoints", keep=3)
    for step in range(1, 5):
        checkpointer.save(step, make_state(step), RECORD, owes_validation=True)
    # The validations of 2, 3 and 4 are bad.
    assert choose_checkpoint(checkpointer.steps, 2, ()) == 1
    checkpointer.save(5, make_state(5), RECORD)
    checkpointer.close()
    assert checkpointer.steps == [3, 4, 5]


def test_hosts_agree_on_what_is_set_aside_and_on_candidates(
    saved, tmp_path, monkeypatch
):
    seen = [["2, the last [1, 2]", "1, the last [1]"], ["same", "same"]]
    told = []

    def gather(text):
        told.append(text)
        return seen.pop(0)

    folder = tmp_path / "checkpoints"
    shutil.copytree(saved, folder)
    monkeypatch.setattr(checkpoints, "gather_text", gather)
    monkeypatch.setattr(checkpoints.time, "sleep", lambda seconds: None)
    checkpointer = Checkpointer(folder, keep=3)
    checkpointer.set_aside([2])
    checkpointer.close()
    assert not seen
    assert told == ["1, the last [1]"] * 2

    seen.append(["same", "same"])
    Candidates(tmp_path / "candidates", keep=3, start=0).close()
    assert not seen


def test_a_damaged_candidate_is_named(tmp_path):
    params = {"kernel": make_state(3)["kernel"]}
    candidates = Candidates(tmp_path / "candidates", keep=2, start=0)
    candidates.save(5, params, knee_step=None)
    assert_same_bits(candidates.restore(5, params), params)
    damage(tmp_path / "candidates" / "5", "zeros")
    with pytest.raises(DamageError, match="candidates/5"):
        candidates.restore(5, params)
    candidates.close()


def test_a_fingerprint_is_that_of_the_values_on_any_mesh():
    state = make_state(1)
    mesh = make_mesh(4, 2)
    spread = jax.device_put(
        state["kernel"], jax.NamedSharding(mesh, jax.P(("data", "fsdp")))
    )
    (on_one,) = fingerprints([state["kernel"]]).values()
    (on_eight,) = fingerprints([spread]).values()
    assert on_eight == on_one
    # Two swapped elements, the signs of two, and one bit of one.
    array = np.asarray(state["kernel"])
    swapped, signs, bit = array.copy(), array.copy(), array.copy()
    swapped[0, 0, :2] = swapped[0, 0, 1::-1]
    signs[0, 0, :2] *= -1
    bit.view(np.uint32)[3, 4, 2] ^= 1
    others = fingerprints([jnp.asarray(x) for x in (swapped, signs, bit)])
    assert len({on_one, *others.values()}) == 4


def test_old_checkpoints_go_but_every_nth_stays(tmp_path):
    checkpointer = Checkpointer(tmp_path, keep=2, keep_every=4)
    for step in range(1, 8):
        checkpointer.save(step, {"step": jnp.int32(step)}, RECORD)
    checkpointer.close()
    assert {path.name for path in tmp_path.iterdir()} == {"4", "6", "7"}


def test_saving_small_arrays_compiles_nothing_for_each(tmp_path, caplog):
    """Orbax would cut each of them into slices, one for each device that holds it."""
    mesh = make_mesh(-1, 1)
    state = jax.device_put(make_state(3), jax.NamedSharding(mesh, jax.P()))
    with jax.set_mesh(mesh), jax.log_compiles():
        checkpointer = Checkpointer(tmp_path / "checkpoints", keep=1)
        checkpointer.save(1, state, RECORD)
        checkpointer.close()
    compiled = [x for x in caplog.messages if x.startswith("Compiling ")]
    assert compiled  # the fingerprints
    assert not [x for x in compiled if "slice" in x]
