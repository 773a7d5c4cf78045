"""The one scale that the models are trained for."""

# HR size over LR size, in each direction.
SCALE = 4
