"""What upscaling refuses."""


class UpscaleError(Exception):
    """An image or setting that cannot be used, or an output that is not finite."""
