"""Bounds of settings, beyond which they have no use."""

# The networks know a thousand noise levels; more steps only take longer.
MAX_STEPS = 1000

# Guidance far below this already saturates the colours.
MAX_GUIDANCE_SCALE = 20.0

# Uncertainty is measured over this many seeds at most.
MAX_SEEDS = 1000

# Output size over input size: the model enlarges four times, and twice at most.
MAX_SCALE = 8.0

# Pixels of a side that image formats can hold at most.
MAX_SIDE = 2**31 - 1
