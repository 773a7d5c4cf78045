"""Times a step of training without its model: data, placement, and the loop itself.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 JAX_PLATFORMS=cpu \
        python experiments/202612_outside/measure.py DATA HOSTS...

DATA is a folder of photographs, or the file that `linearsr prepare decoded` makes. For
each number of HOSTS the batch is that of so many hosts of nano (8 crops of 96 pixels
each) on eight simulated devices, all made by this one machine. In place of the compiled
step stands one that gives the state back as it is.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import jax

from configs import nano
from linearsr_jax.training import trainer
from linearsr_jax.training.loop import train_and_evaluate
from linearsr_jax.training.metrics import TrainMetrics
from linearsr_jax.training.sharding import replicated

CROPS, STEPS, FIRST = 8, 60, 10


class Skipped:
    """Stands for a jitted step, and for a compiled one; notes when it was called."""

    def __init__(self):
        self.times: list[float] = []
        self.metrics: TrainMetrics | None = None

    def lower(self, *_):
        """Takes what a step takes."""
        return self

    def compile(self):
        """Returns what is called in each step."""
        return self

    def __call__(self, state, batch, codec):
        """Gives the state back."""
        del batch, codec
        if self.metrics is None:
            # Where a real step leaves them.
            mesh = jax.tree.leaves(state)[0].sharding.mesh
            self.metrics = jax.device_put(TrainMetrics.empty(), replicated(mesh))
        self.times.append(time.perf_counter())
        return state, self.metrics


def measure(data: str, hosts: int) -> dict[str, float]:
    """Runs STEPS steps; the first ones, which start the workers, do not count."""
    config = nano.get_config("flow")
    config.data.folder = data
    config.batch_size = CROPS * hosts
    config.mesh.data = 8
    config.steps, config.checkpoint_every = STEPS, 10 * STEPS
    config.log_every = 10 * STEPS
    config.val.every = 10 * STEPS
    config.optimizer.warmup_steps = config.optimizer.decay_steps = 0
    step = Skipped()
    trainer.jit_step = lambda *_: step
    with tempfile.TemporaryDirectory() as folder:
        train_and_evaluate(config, Path(folder) / "run")
        log = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
    last = json.loads(log[-1])
    seconds = (step.times[-1] - step.times[FIRST]) / (STEPS - 1 - FIRST)
    return {
        "hosts": hosts,
        "crops_a_step": config.batch_size,
        "ms_a_step": round(1e3 * seconds, 1),
        "crops_per_s": round(config.batch_size / seconds, 1),
        "data_wait_percent": last["data_wait_percent"],
    }


if __name__ == "__main__":
    for count in sys.argv[2:]:
        print(json.dumps(measure(sys.argv[1], int(count))), flush=True)
