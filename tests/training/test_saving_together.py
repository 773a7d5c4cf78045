"""A checkpoint and a candidate of the same step, saved by two processes at a time."""

from tests.processes_testing import running_together

SECONDS = 120
SAVING = """
import sys, time
from pathlib import Path
import jax, jax.numpy as jnp
import orbax.checkpoint as ocp
from orbax.checkpoint._src.checkpointers import async_checkpointer
from linearsr_jax.training.checkpoints import Candidates, _open_manager
from linearsr_jax.training.hosts import connected

root, index = Path(sys.argv[3]), int(sys.argv[2])
is_written = root / "written"
wait = async_checkpointer._background_wait_for_commit_futures

def wait_long(directory, *arguments, **options):
    # The share of process 1 in the checkpoint takes long to write.
    if index == 1 and "checkpoints" in str(directory):
        time.sleep(3)
        is_written.touch()
    wait(directory, *arguments, **options)

async_checkpointer._background_wait_for_commit_futures = wait_long
with connected(sys.argv[1], index, 2):
    mesh = jax.make_mesh((2,), ("x",))
    spread = jax.NamedSharding(mesh, jax.P("x"))
    params = {"w": jax.jit(lambda: jnp.arange(64.0), out_shardings=spread)()}
    policy = ocp.checkpoint_managers.LatestN(3)
    checkpoints = _open_manager(root / "checkpoints", policy, "state", ())
    candidates = Candidates(root / "candidates", keep=3, start=0)
    checkpoints.save(7, args=ocp.args.Composite(state=ocp.args.PyTreeSave(params)))
    with jax.set_mesh(mesh):
        candidates.save(7, params, knee_step=None)
    while not (root / "checkpoints" / "7").exists():
        time.sleep(0.01)
    print(is_written.exists())
    candidates.close()
    checkpoints.close()
"""


def test_neither_is_complete_before_all_have_written_it(tmp_path):
    """With barriers of one name the candidate's let the checkpoint pass."""
    with running_together(SAVING, 2, str(tmp_path)) as processes:
        found = [process.communicate(timeout=SECONDS) for process in processes]
    # Gloo has a line of its own before.
    assert [out.split()[-1:] for out, _ in found] == [["True"]] * 2, found
    assert [process.returncode for process in processes] == [0, 0], found
