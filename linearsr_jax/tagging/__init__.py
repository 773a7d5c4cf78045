"""Tags: words for what an image shows, and networks that find them."""

from pathlib import Path

from linearsr_jax.tagging.base import NoTagger, Tagger, TaggerError

__all__ = ["NoTagger", "Tagger", "TaggerError", "load_tagger"]


def load_tagger(name: str) -> Tagger:
    """Loads a tagger by name.

    Args:
      name: "light", which is part of the package; "ram:FOLDER", for a folder made by
        `linearsr convert --from ram`; or "none".

    Raises:
      TaggerError: there is no such tagger, or its folder cannot be used.
    """
    # Import each network only when it is asked for.
    if name == "none":
        return NoTagger()
    if name == "light":
        from linearsr_jax.tagging.light import LightTagger

        return LightTagger()
    kind, _, folder = name.partition(":")
    if kind == "ram" and folder:
        from linearsr_jax.tagging.ram import RamTagger

        return RamTagger.load(Path(folder))
    raise TaggerError(f"no tagger {name!r}; use light, ram:FOLDER or none")
