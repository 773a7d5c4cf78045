"""The shipped checkpoint's training.

    linearsr train --config configs/nano.py --workdir runs/nano \
        --override data.folder=PHOTOS --override val.folder=VALIDATION_PHOTOS
"""

from configs import common


def get_config(arg: str = ""):
    """See experiments/202611_nano for the command, the hardware and the result."""
    if arg:
        raise ValueError(f"configs/nano.py takes no argument, got {arg!r}")
    config = common.get_config()
    config.preset = "nano"
    return config
