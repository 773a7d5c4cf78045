"""Bounds of settings, beyond which they have no use."""

# The networks know a thousand noise levels; more steps only take longer.
MAX_STEPS = 1000

# Guidance far below this already saturates the colours.
MAX_GUIDANCE_SCALE = 20.0
