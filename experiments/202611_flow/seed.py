"""Makes the model that the first stage starts from.

python experiments/202611_flow/seed.py OUT FLOW

It is the first nano-flow (the bundled `nano` of release 0.2.0; FLOW is its folder) with
nano's residual blocks added to the stem. The last convolution of a block is zero, so it
answers as that model does.
"""

import sys
from pathlib import Path

from linearsr_jax.pretrained.model_folder import load_pretrained, save_pretrained

sys.path.insert(0, str(Path(__file__).parents[1] / "202611_picture"))
from release import point


def main(out: str, flow: str) -> None:
    """Writes the model folder OUT."""
    start, nano = load_pretrained(flow), load_pretrained("nano")
    params = point(start.experts[0], nano.experts[0], 0.0)
    save_pretrained(
        Path(out), (params,), nano.preset, nano.codec, training=start.training, card=""
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
