"""The limits on what a visitor of the page may ask for; `--help` names some."""

from dataclasses import dataclass

from linearsr_jax.core.limits import MAX_STEPS


@dataclass(frozen=True)
class PageLimits:
    """The limits on what a visitor may ask for.

    Attributes:
      files: number of pictures at once.
      file_megabytes: size of each file.
      megapixels: largest size of a picture.
      waiting: requests in the queue; one is computed at a time.
      steps: network evaluations.
    """

    files: int = 20
    file_megabytes: int = 50
    megapixels: int = 16
    waiting: int = 16
    steps: int = min(50, MAX_STEPS)
