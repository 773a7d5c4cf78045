"""The scale that all models are trained for."""

# HR size over LR size, in each direction.
SCALE = 4
