"""The public Python API: an image in, one four times as large out."""

import functools
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from linearsr_jax.core.array_types import Float, PyTree, Real
from linearsr_jax.core.scale import SCALE
from linearsr_jax.inference.banded import BandedDenoiser, OnPart
from linearsr_jax.inference.channels import upscale_channels
from linearsr_jax.inference.checked_settings import checked, flag, whole
from linearsr_jax.inference.compilation_cache import compiling_for
from linearsr_jax.inference.errors import UpscaleError
from linearsr_jax.inference.estimates import Estimate, estimate_pass
from linearsr_jax.inference.fidelity import fix_colors, make_consistent
from linearsr_jax.inference.guidance import (
    ConditionError,
    Guidance,
    condition_from_tags,
    make_guidance,
    null_condition,
)
from linearsr_jax.inference.kept_programs import keep_programs
from linearsr_jax.inference.memory_budget import (
    default_budget,
    is_out_of_memory,
    needed_bytes,
    rows_that_fit,
)
from linearsr_jax.inference.offloaded import OffloadedDenoiser
from linearsr_jax.inference.pictures import ImageLike, like, to_image
from linearsr_jax.inference.row_sharding import RowSharding
from linearsr_jax.inference.sampling import (
    cut_segments,
    draw_noise,
    is_random,
    make_upscale,
    upscale,
)
from linearsr_jax.inference.sizes import OutputSize, plan_passes
from linearsr_jax.models.embeddings import Condition
from linearsr_jax.models.layers import cast_kernels
from linearsr_jax.models.linear_dit import inference_unroll
from linearsr_jax.pretrained.model_folder import PretrainedModel, load_pretrained
from linearsr_jax.tagging.vocabulary import parse_tags

logger = logging.getLogger(__name__)

# Guidance that leaves this share of an image this far outside [-1, 1] has spoilt it.
_MANY, _FAR = 0.02, 2.0


class Upscaler:
    """Upscales images x4 with one model.

    The network is compiled once per image size and number of steps, for each expert.
    An image that fits goes in one pass, a larger one in bands: see `banded`.

        up = Upscaler.from_pretrained("nano")
        image_hr = up(image_lr, steps=4, seed=0)

    Attributes:
      model: the weights and what they mean.
    """

    def __init__(
        self,
        model: PretrainedModel,
        *,
        offload_experts: bool = False,
        max_memory: float | None = None,
        dtype: str = "float32",
        devices: int = 1,
        on_part: OnPart = lambda done, total: None,
    ):
        """Places the weights on the default device, or on several.

        Args:
          model: model from `pretrained.load_pretrained`.
          offload_experts: whether to keep the experts on the host, with at most two of
            them on the device, for models that do not fit. Every image then transfers
            them.
          max_memory: estimated GB that an image may take, not counting the weights. An
            image that would take more is upscaled in bands of rows, which is slower and
            gives the same result. By default half of the machine's memory, or four
            fifths of an accelerator's.
          dtype: type of the computation, "float32", or "bfloat16" for large models on
            accelerators.
          devices: over how many devices of this process the rows of an image are
            split; see `row_sharding`. They take the plain form of each operation, which
            XLA can divide, in place of the kernels.
          on_part: told how far an image is that goes in bands; see `banded.OnPart`.

        Raises:
          UpscaleError: max_memory is no number of GB above 0, dtype is another type,
            there are fewer devices, or several for offloaded experts.
        """
        if dtype not in ("float32", "bfloat16"):
            raise UpscaleError(f"dtype {dtype!r} must be float32 or bfloat16")
        if max_memory is not None:
            max_memory = checked("max_memory", max_memory)
        found = jax.local_devices()
        devices = whole("devices", devices, 1, len(found))
        if offload_experts and devices > 1:
            raise UpscaleError("offload_experts is for one device; leave devices out")
        sharding = RowSharding(found[:devices]) if devices > 1 else None
        self._sharding = sharding
        self.model = model
        # What the user allows is kept; the default is a guess.
        self._limit = math.inf if max_memory is None else max_memory * 1e9
        self._budget = default_budget() if max_memory is None else int(max_memory * 1e9)
        self._network = network = model.preset.make_model(
            dtype=jnp.dtype(dtype),
            scan_unroll=inference_unroll(model.preset.depth),
            implementation="reference" if sharding else None,
        )
        self._codec = jax.device_put(model.codec.astype(network.dtype))
        if offload_experts:
            offloaded = OffloadedDenoiser(network, model.preset)

        def experts_at(fidelity):
            experts = model.experts if fidelity is None else model.experts_at(fidelity)
            experts = tuple(cast_kernels(x, network.dtype) for x in experts)
            if offload_experts:
                return experts
            return jax.device_put(experts, sharding and sharding.copies)

        # Of the place on the slider that was used last; a page moves it to and fro.
        self._experts_at = functools.lru_cache(maxsize=1)(experts_at)
        self._experts_at(self._place(None))

        def compiled(steps, rows, parts):
            grid = {"steps": steps, "boundaries": model.boundaries}
            if rows is None and not offload_experts:
                outputs = (sharding.rows(parts), None) if sharding else None
                function = make_upscale(network, model.preset, **grid)
                jitted = jax.jit(function, out_shardings=outputs)
                if sharding:
                    return jitted
                return keep_programs(jitted, f"{network} {model.preset} {grid}")
            denoiser = (
                offloaded
                if rows is None
                else BandedDenoiser(network, model.preset, rows, on_part)
            )
            segments = cut_segments(model.preset, **grid)
            return functools.partial(upscale, denoiser, segments)

        # By number of steps, rows and parts; here and not on the class, so that it ends
        # with self.
        self._compiled = functools.cache(compiled)

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path = "nano", **settings: Any
    ) -> "Upscaler":
        """Loads a bundled model by name, or a model folder.

        Args:
          name_or_path: see `pretrained.load_pretrained`.
          **settings: see `Upscaler`.

        Raises:
          PretrainedError: see `pretrained.load_pretrained`.
        """
        return cls(load_pretrained(name_or_path), **settings)

    def __call__(
        self,
        image: ImageLike,
        *,
        steps: int | None = None,
        seed: int = 0,
        tags: str | Sequence[str] = (),
        condition: Condition | None = None,
        guidance_scale: float = 1.0,
        fidelity: float | None = None,
        scale: float | None = None,
        size: tuple[int | None, int | None] | None = None,
        max_side: int | None = None,
        color_fix: bool | None = None,
        consistent: bool = False,
    ) -> ImageLike:
        """Upscales one image.

        Args:
          image: PIL image of any mode but F, `core.images.Image`, or uint8 or uint16
            array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) with alpha last; any size.
          steps: network evaluations, at most `core.limits.MAX_STEPS`; None is the
            model's default. Without a fidelity slider one gives the conditional mean,
            the closest to the true image on average, and more sample detail. With one
            fidelity says what comes out; such a model may be trained for one step, as
            nano is, and more look worse.
          seed: chooses the detail; 0 <= seed < 2**32. With one step of a pixel model
            nothing is random and every seed gives the same image.
          tags: what the image shows, see `select_tags`; a `tagging.load_tagger` can
            say it.
          condition: features in place of tags, from `guidance.condition_from_file`.
          guidance_scale: how much the tags count, from 0 to
            `core.limits.MAX_GUIDANCE_SCALE`; see `diffusion.guidance`. Other than 1
            costs twice the time, and means nothing without tags.
          fidelity: for models with a slider: 0 is the mean of what the truth may be,
            the closest to it on average; 1 the picture that looks most real. None is
            the model's default. Every place costs the same.
          scale, size, max_side: the output's size, see `sizes.OutputSize`; x4 if none
            is given.
          color_fix: whether the coarse colours are replaced by the input's, see
            `fidelity.fix_colors`. By default for models that may shift colours: those
            that decode them from latents.
          consistent: whether the output is changed so that it becomes its input when
            it is reduced, see `fidelity.make_consistent`. That keeps noise, too.

        Returns:
          The same kind of image, of the new size and the same depth. A
          Pillow image is upright and L, RGB, RGBA or I;16. It and a
          `core.images.Image` keep profile, EXIF, XMP and resolution.

        Raises:
          UpscaleError: unusable image, size, steps, seed, scale or fidelity, tags and a
            condition, too little memory, or a result that is not finite or saturated.
          ConditionError: tags for a model that takes none.
        """
        steps = self.model.preset.default_steps if steps is None else steps
        steps = checked("steps", steps)
        seed = checked("seed", seed)
        guidance_scale = checked("guidance_scale", guidance_scale)
        consistent = flag("consistent", consistent)
        if color_fix is not None:
            color_fix = flag("color_fix", color_fix)
        if tags and condition is not None:
            raise UpscaleError("give tags or a condition, not both")
        if condition is None:
            condition = condition_from_tags(self.select_tags(tags), self.model.preset)
        guidance = make_guidance(condition, null_condition(self.model), guidance_scale)
        enlarge = functools.partial(
            self._enlarge,
            steps=steps,
            seed=seed,
            guidance=guidance,
            experts=self._experts_at(self._place(fidelity)),
        )
        given = to_image(image)
        height, width = given.pixels.shape[:2]
        target = OutputSize(scale, size, max_side).of(width, height)
        if color_fix is None:
            color_fix = not self.model.codec.keeps_colors

        def finish(output, given):
            if color_fix:
                output = fix_colors(output, given)
            return make_consistent(output, given) if consistent else output

        return like(image, upscale_channels(given, target, enlarge, finish))

    def uncertainty(
        self, image: Any, *, count: int = 8, seed: int = 0, **settings: Any
    ) -> Float[np.ndarray, "H W"]:
        """Measures where results of several seeds differ: detail that is made up.

        Args:
          image: see `__call__`.
          count: number of seeds, from `seed` on; at least 2.
          seed: the first of them.
          **settings: further arguments of `__call__`.

        Returns:
          The standard deviation over seeds, in levels of 0..255, root mean square over
          the colours.

        Raises:
          UpscaleError: see `__call__`, or the model with so many steps gives the same
            result for every seed.
        """
        count = checked("count", count)
        steps = settings.get("steps")
        steps = self.model.preset.default_steps if steps is None else steps
        steps = checked("steps", steps)
        if not is_random(self.model.preset, steps):
            raise UpscaleError(
                f"model {self.model.name} with {steps} step gives the same result for "
                "every seed, so none is uncertain; use the model nano-flow (--model) "
                "with 4 steps (--steps)"
            )
        given = to_image(image)
        full = np.iinfo(given.pixels.dtype).max
        # Welford's algorithm: two images at a time.
        mean = deviation = np.float32(0)
        for done in range(count):
            pixels = self(given, seed=seed + done, **settings).pixels * (255 / full)
            before = pixels - mean
            mean = mean + before / (done + 1)
            deviation = deviation + before * (pixels - mean)
        return np.sqrt(np.mean(deviation, axis=2) / (count - 1)).astype(np.float32)

    def estimate(
        self,
        width: int,
        height: int,
        *,
        size: OutputSize = OutputSize(),  # noqa: B008 (immutable)
        steps: int | None = None,
        guided: bool = False,
    ) -> Estimate:
        """Estimates what an opaque image will take; transparency doubles the time.

        Args:
          width, height: size of the input in pixels.
          size: that of the output.
          steps: see `__call__`.
          guided: whether a guidance scale other than 1 doubles the evaluations.

        Raises:
          UpscaleError: the output cannot be that size.
        """
        shapes = plan_passes((width, height), size.of(width, height))
        passes = [
            estimate_pass(
                self._network,
                self._codec,
                grid,
                self._budget,
                steps=steps or self.model.preset.default_steps,
                count=1 + guided,
                parts=self._parts(grid),
            )
            for grid in (self._grid(*shape) for shape in shapes)
        ]
        return Estimate(
            max(one.memory for one in passes),
            sum(one.seconds for one in passes),
            passes[-1].rows,
        )

    def _grid(self, width: int, height: int) -> tuple[int, int]:
        """The (h, w) of the latents of an input."""
        multiple = self.model.codec.factor // SCALE
        return -(-height // multiple), -(-width // multiple)

    def _place(self, fidelity: float | None) -> float | None:
        """Returns where the slider stands; None for a model that has none."""
        if fidelity is None:
            return self.model.default_fidelity if self.model.mean_experts else None
        if self.model.mean_experts is None:
            raise UpscaleError(
                f"model {self.model.name} has no fidelity slider; leave fidelity out"
            )
        return checked("fidelity", fidelity)

    def select_tags(self, tags: str | Sequence[str]) -> tuple[str, ...]:
        """Selects the tags that the model has learned.

        Args:
          tags: see `tagging.vocabulary.parse_tags`.

        Returns:
          The tags that the model was trained with, or all known ones if it has no list;
          others are left out with a warning.

        Raises:
          ConditionError: there are tags, and the model takes none; or tags are no text.
        """
        try:
            parsed = parse_tags(tags)
        except TypeError as error:
            raise ConditionError(f"tags: {error}") from error
        if parsed and not self.model.preset.tag_count:
            raise ConditionError(f"model {self.model.name} takes no tags; give none")
        trained = self.model.training.get("tags", parsed)
        if unseen := [tag for tag in parsed if tag not in trained]:
            logger.warning(
                "%s: left out, model %s has seen no photograph of it",
                ", ".join(unseen),
                self.model.name,
            )
        return tuple(tag for tag in parsed if tag in trained)

    def _enlarge(
        self,
        pixels: Real[np.ndarray, "y x 3"],
        *,
        experts: tuple[PyTree, ...],
        steps: int,
        seed: int,
        guidance: Guidance,
    ) -> Float[np.ndarray, "4*y 4*x 3"]:
        height, width = pixels.shape[:2]
        # Codecs with a factor above 4 need LR sides that fill whole latent pixels.
        multiple = self.model.codec.factor // SCALE
        pad = ((0, -height % multiple), (0, -width % multiple), (0, 0))
        pixels = np.pad(pixels, pad, mode="edge")
        grid = self._grid(pixels.shape[1], pixels.shape[0])
        rows, parts = self._rows(grid, guidance.evaluations), self._parts(grid)
        while True:
            # Bands overwrite it, and memory may run out after that.
            noise = draw_noise(
                self.model.preset,
                self.model.codec,
                *pixels.shape[:2],
                steps=steps,
                seed=seed,
            )
            inputs = (pixels, noise)
            if self._sharding and rows is None:
                inputs = jax.device_put(inputs, self._sharding.rows(parts))
            try:
                with compiling_for(f"inputs of {width}x{height} pixels"):
                    image, is_finite = self._compiled(steps, rows, parts)(
                        experts, self._codec, *inputs, guidance
                    )
                image, is_finite = np.asarray(image), bool(is_finite)
                break
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                rows = _fewer_rows(rows, len(noise), error)
        if not is_finite:
            raise UpscaleError(
                "the model's output is not finite; please report the image and model"
            )
        if guidance.evaluations > 1 and _is_saturated(image):
            raise UpscaleError(
                "guidance saturates the image; bring guidance_scale (--guidance-scale) "
                "nearer to 1"
            )
        return image[: SCALE * height, : SCALE * width]

    def _parts(self, grid: tuple[int, int]) -> int:
        """Counts the parts that the rows of a whole image are split into."""
        return self._sharding.parts(grid[0]) if self._sharding else 1

    def _rows(self, grid: tuple[int, int], count: int) -> int | None:
        """Chooses the rows of a band, or refuses what the user gave too little for."""
        fit, parts = (self._network, self._codec, grid), self._parts(grid)
        rows = rows_that_fit(*fit, self._budget, count, parts)
        needed = needed_bytes(*fit, rows, count, parts)
        if needed > self._limit:
            height, width = (side * self.model.codec.factor // SCALE for side in grid)
            raise UpscaleError(
                f"{width}x{height} pixels need about {needed / 1e9:.2g} GB, even "
                "in bands of one row; raise max_memory (--max-memory) or give a "
                "smaller image"
            )
        return rows


def _fewer_rows(rows: int | None, height: int, error: Exception) -> int:
    """Returns half of the rows that memory did not suffice for."""
    if rows == 1 or height == 1:
        raise UpscaleError(
            "out of memory, even in bands of one row; dtype bfloat16 (--dtype), "
            "offload_experts (--offload-experts) or a smaller image need less"
        ) from error
    rows = (height if rows is None else rows) // 2
    logger.warning(
        "out of memory; again in bands of %d rows; max_memory (--max-memory) begins "
        "with them",
        rows,
    )
    return rows


def _is_saturated(image: Float[np.ndarray, "H W 3"]) -> bool:
    """Tells whether many levels are far from what can be shown."""
    return bool(np.mean(np.abs(image) > _FAR) > _MANY)
