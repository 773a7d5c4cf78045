"""Opens the photographs of a training run, and makes batches on the devices."""

import contextlib
import dataclasses
import functools
import hashlib
import logging
from collections.abc import Callable, Generator, Iterator

import jax

from linearsr_jax.core.array_types import PyTree
from linearsr_jax.data import device_degradations, pipeline
from linearsr_jax.data.condition_table import (
    ConditionedSource,
    ConditionTable,
    table_of_features,
    table_of_tags,
)
from linearsr_jax.data.holdout import split_manifest
from linearsr_jax.data.manifest import Manifest
from linearsr_jax.data.sources import PhotoSource, open_source
from linearsr_jax.models.presets import Preset
from linearsr_jax.tagging.cache import load_tag_cache
from linearsr_jax.training.settings import RunSettings, ValidationSettings
from linearsr_jax.training.sharding import (
    own_samples,
    put_expert_batch,
    split_over_batch,
)

logger = logging.getLogger(__name__)

# Photographs whose pixels the hosts compare; reading all would take long.
_COMPARED = 16


@dataclasses.dataclass(frozen=True)
class Photographs:
    """The photographs of a run.

    Attributes:
      manifest: manifest of the whole of data.folder.
      source: photographs to train on.
      held_out: photographs to validate on; None if there are none.
      conditions, held_out_conditions: their conditions; None if there are none.
    """

    manifest: Manifest
    source: PhotoSource
    held_out: PhotoSource | None
    conditions: ConditionTable | None
    held_out_conditions: ConditionTable | None

    def describe(self) -> str:
        """Describes them so that hosts with others say something else.

        Names, sizes, tags and conditions of all count, and the pixels of a few, evenly
        chosen; the same photographs in another form say the same.
        """
        digest = hashlib.sha256()
        sources = [self.source, *([self.held_out] if self.held_out else [])]
        for source in sources:
            found = (source.names, source.manifest.sizes, source.tags)
            digest.update(repr(found).encode())
            for index in range(0, len(source), max(1, len(source) // _COMPARED)):
                digest.update(source[index].tobytes())
        for table in (self.conditions, self.held_out_conditions):
            if table is not None:
                digest.update(table.tokens.tobytes() + table.mask.tobytes())
        counts = " + ".join(str(len(source.names)) for source in sources)
        return f"{counts}, SHA-256 {digest.hexdigest()[:12]}"


def open_photographs(
    settings: RunSettings, preset: Preset, manifest: Manifest | None
) -> Photographs:
    """Opens the photographs to train on and, if there are any, to validate on.

    Args:
      settings: settings of the run.
      preset: preset of the model, which takes tags or features.
      manifest: manifest of a resumed run, so that sample numbers keep their meaning;
        by default a new one is made.

    Raises:
      OSError, ValueError: see `data.sources.open_source` and `split_manifest`; or the
        kind of conditions is unknown or not what the model takes, or their file cannot
        be used.
    """
    all_of_folder = pipeline.open_source(
        settings.data.folder, settings.data.pipeline, manifest
    )
    _report(all_of_folder.manifest)
    source, held_out = _split(all_of_folder, settings.val)
    file = settings.condition.file
    val_file = settings.condition.val_file if settings.val.folder else file
    return Photographs(
        manifest=all_of_folder.manifest,
        source=source,
        held_out=held_out,
        conditions=_find_conditions(settings, preset, source, file),
        held_out_conditions=_find_conditions(settings, preset, held_out, val_file)
        if held_out
        else None,
    )


def _split(source, val: ValidationSettings) -> tuple[PhotoSource, PhotoSource | None]:
    """Splits the photographs into those to train on and those to validate on."""
    if val.folder:
        held_out = open_source(val.folder, min_size=val.crop_size, cache_bytes=0)
        _report(held_out.manifest)
        return source, held_out
    if val.holdout:
        kept, rest = split_manifest(source.manifest, val.holdout, val.crop_size)
        held_out = PhotoSource(source.store, rest, cache_bytes=0)
        return PhotoSource(source.store, kept, cache_bytes=source.cache_bytes), held_out
    return source, None


def _find_conditions(settings, preset, source, file) -> ConditionTable | None:
    kind, max_tokens = settings.condition.kind, settings.condition.max_tokens
    if kind == "none":
        return None
    if kind == "tags":
        if not preset.tag_count:
            raise ValueError(
                f"condition.kind: preset {settings.preset} takes features, not tags"
            )
        tags = _cached_tags(file, source.names) if file else source.tags
        return table_of_tags(tags, max_tokens=max_tokens)
    if kind == "features":
        if not file:
            raise ValueError(
                "condition.kind: features come from condition.file, and with "
                "val.folder also from condition.val_file; set them"
            )
        size = preset.condition_features
        return table_of_features(
            file, source.names, features=size, max_tokens=max_tokens
        )
    raise ValueError(f"condition.kind {kind!r} must be none, tags or features")


def _cached_tags(file, names):
    tags = load_tag_cache(file)
    if missing := sorted(set(names) - tags.keys()):
        raise ValueError(
            f"{file}: lacks the tags of {len(missing)} photographs, first "
            f"{missing[0]}; tag this folder with `linearsr tag DIR --cache`, and "
            "remove photographs that it cannot read"
        )
    return [tags[name] for name in names]


@contextlib.contextmanager
def global_batches(
    settings: RunSettings,
    photographs: Photographs,
    mesh: jax.sharding.Mesh,
    *,
    seed: int,
    start_batch: int,
) -> Generator[Iterator[PyTree]]:
    """Opens the endless stream of all experts' batches, split over a mesh.

    Samples are counted over the experts: batch n, with B samples for each of E experts,
    begins at sample n E B, and its first B samples are for the cleanest expert.

    Args:
      settings: settings of the run.
      photographs: result of `open_photographs`.
      mesh: mesh from `sharding.make_mesh`.
      seed: seed of the data.
      start_batch: number of the first batch.

    Yields:
      An iterator of batches (E, B, ...).
    """
    source, conditions = photographs.source, photographs.conditions
    sizes = settings.experts, settings.batch_size
    dataset = pipeline.make_dataset(
        ConditionedSource(source, conditions) if conditions else source,
        settings.data.pipeline,
        seed=seed,
        batch_size=settings.experts * settings.batch_size,
        start_batch=start_batch,
        share=own_samples(mesh, *sizes),
    )
    iterator = pipeline.make_iterator(
        dataset, num_workers=settings.data.workers, prefetch=settings.data.prefetch
    )
    prepare_batch = _make_prepare_batch(settings.data.pipeline, mesh)
    with contextlib.closing(iterator):
        yield (
            prepare_batch(put_expert_batch(batch, mesh, *sizes)) for batch in iterator
        )


def _make_prepare_batch(
    config: pipeline.PipelineConfig, mesh: jax.sharding.Mesh
) -> Callable[[dict], dict]:
    """Returns a function that completes a global batch with image_lr if needed."""
    if config.degrade_on == "host":
        return lambda batch: batch
    prepare = functools.partial(
        device_degradations.prepare_batch, params=config.widest_params()
    )
    return split_over_batch(prepare, mesh)


def _report(manifest: Manifest) -> None:
    logger.info(
        "%d photographs, %d rejected", len(manifest.files), len(manifest.rejected)
    )
    for name, reason in manifest.rejected.items():
        logger.warning("rejected %s: %s", name, reason)
