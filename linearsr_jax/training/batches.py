"""What a training run reads: the photographs, and batches of them on the devices."""

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator

import jax
from ml_collections import ConfigDict

from linearsr_jax.core.array_types import PyTree
from linearsr_jax.data import device_degradations, pipeline
from linearsr_jax.data.condition_table import (
    ConditionedSource,
    ConditionTable,
    table_of_features,
    table_of_tags,
)
from linearsr_jax.data.degradation_params import get_degradation
from linearsr_jax.data.holdout import split_manifest
from linearsr_jax.data.manifest import Manifest
from linearsr_jax.data.sources import PhotoSource, open_source
from linearsr_jax.models.presets import Preset
from linearsr_jax.tagging.cache import load_tag_cache
from linearsr_jax.training import sharding

logger = logging.getLogger(__name__)


def make_pipeline_config(config: ConfigDict) -> pipeline.PipelineConfig:
    """The pipeline's part of a training config.

    Raises:
      ValueError: a field is out of range.
    """
    return pipeline.PipelineConfig(
        crop_size=config.data.crop_size,
        scale_range=tuple(config.data.scale_range),
        bicubic_probability=config.data.bicubic_probability,
        cache_bytes=int(config.data.cache_gb * 2**30),
        params=get_degradation(config.data.degradation),
        degrade_on=config.data.degrade_on,
        condition_dropout=config.condition.dropout,
    )


def open_photographs(
    config: ConfigDict, manifest: Manifest | None
) -> tuple[Manifest, PhotoSource, PhotoSource | None]:
    """Opens what is trained on and, if there is any, what is validated on.

    Args:
      config: see `default_config`.
      manifest: of the run that goes on, so that sample numbers keep their meaning;
        by default one is made.

    Returns:
      (manifest of all of data.folder, photographs to train on, to validate on).

    Raises:
      OSError, ValueError: see `data.sources.open_source` and `split_manifest`.
    """
    source = pipeline.open_source(
        config.data.folder, make_pipeline_config(config), manifest
    )
    _report(source.manifest)
    size = config.val.crop_size
    held_out = None
    if config.val.folder:
        held_out = open_source(config.val.folder, min_size=size, cache_bytes=0)
        _report(held_out.manifest)
    elif config.val.holdout:
        share = config.val.holdout
        kept, rest = split_manifest(source.manifest, share, size)
        held_out = PhotoSource(source.store, rest, cache_bytes=0)
        train_on = PhotoSource(source.store, kept, cache_bytes=source.cache_bytes)
        return source.manifest, train_on, held_out
    return source.manifest, source, held_out


def find_conditions(
    config: ConfigDict,
    preset: Preset,
    source: PhotoSource,
    held_out: PhotoSource | None,
) -> tuple[ConditionTable | None, ConditionTable | None]:
    """What is said of the photographs to train on and of those to validate on.

    Args:
      config: see `default_config`; its condition.
      preset: of the model.
      source, held_out: from `open_photographs`.

    Raises:
      ValueError: an unknown kind, one that the model does not take, or a file that
        cannot be used.
    """
    file = config.condition.file
    if held_out is None:
        return _conditions(config, preset, source, file), None
    val_file = config.condition.val_file if config.val.folder else file
    return (
        _conditions(config, preset, source, file),
        _conditions(config, preset, held_out, val_file),
    )


def _conditions(config, preset, source, file):
    kind, max_tokens = config.condition.kind, config.condition.max_tokens
    if kind == "none":
        return None
    if kind == "tags":
        if not preset.tag_count:
            raise ValueError(
                f"condition.kind: preset {config.preset} takes features and no tags"
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
            f"{file}: has no tags of {len(missing)} photographs, the first "
            f"{missing[0]}; make it of this folder with `linearsr tag DIR --cache`"
        )
    return [tags[name] for name in names]


@contextlib.contextmanager
def global_batches(
    config: ConfigDict,
    source: PhotoSource,
    conditions: ConditionTable | None,
    mesh: jax.sharding.Mesh,
    *,
    seed: int,
    start_batch: int,
) -> Iterator[Iterator[PyTree]]:
    """Context of the endless stream of all experts' batches, split over a mesh.

    Samples are counted over the experts: batch n of B samples for each of E experts
    is samples n E B and following, the first B of them the cleanest expert's.

    Args:
      config: see `default_config`.
      source: photographs to train on.
      conditions: of the photographs, from `find_conditions`.
      mesh: from `sharding.make_mesh`.
      seed: of the data.
      start_batch: number of the first batch.
    """
    pipeline_config = make_pipeline_config(config)
    experts = len(config.expert_boundaries) + 1
    dataset = pipeline.make_dataset(
        ConditionedSource(source, conditions) if conditions else source,
        pipeline_config,
        seed=seed,
        batch_size=experts * config.batch_size,
        start_batch=start_batch,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    iterator = pipeline.make_iterator(
        dataset, num_workers=config.data.workers, prefetch=config.data.prefetch
    )
    prepare_batch = _make_prepare_batch(pipeline_config, mesh)
    with contextlib.closing(iterator):
        yield (
            prepare_batch(sharding.put_expert_batch(batch, mesh, experts))
            for batch in iterator
        )


def _make_prepare_batch(
    config: pipeline.PipelineConfig, mesh: jax.sharding.Mesh
) -> Callable[[dict], dict]:
    """Returns what makes image_lr, where the pipeline has not, from a global batch."""
    if config.degrade_on == "host":
        return lambda batch: batch
    prepare = functools.partial(
        device_degradations.prepare_batch, params=config.params, factor=config.factor
    )
    return sharding.split_over_batch(prepare, mesh)


def _report(manifest: Manifest) -> None:
    logger.info(
        "%d photographs, %d rejected", len(manifest.files), len(manifest.rejected)
    )
    for name, reason in manifest.rejected.items():
        logger.warning("rejected %s: %s", name, reason)
