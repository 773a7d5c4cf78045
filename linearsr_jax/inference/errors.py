"""What upscaling refuses."""

from linearsr_jax.core.errors import LinearSRError


class UpscaleError(LinearSRError):
    """An image or setting that cannot be used, or an output that is not finite."""
