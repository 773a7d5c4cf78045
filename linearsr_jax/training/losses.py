"""The training loss: the flow loss, and terms on the estimated image.

Conditional flow matching: the mean square of (output - target) over draws of sigma
and noise, where `diffusion.flow.Prediction` names the target. With presets 600m and
1600m this is the paper's loss; pixel presets predict the preconditioned x0.

Image terms compare the decoded x0_hat with the photograph. They apply to nearly clean
samples, whose x0_hat is sharp. At high sigma x0_hat is a blurred mean, which pulling
towards one sharp image would spoil; where that is wanted, for one step from sigma = 1,
below_sigma allows it. The paper has no such terms.

To add a term, add a function (image_hat, image_hr) -> one number per sample to
IMAGE_TERMS, and its weight to config.loss; those in VIEWED are shown a random view.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import struct

from linearsr_jax.codecs import Codec
from linearsr_jax.core.array_types import Array, Float, HostOrDevice, Int, Key, PyTree
from linearsr_jax.core.image_range import to_unit_range
from linearsr_jax.diffusion.flow import PREDICTIONS, interpolate
from linearsr_jax.diffusion.timestep_sampling import sample_sigma
from linearsr_jax.metrics.lpips import load_parameters, lpips_distance
from linearsr_jax.metrics.lpips_vgg import lpips_vgg_distance
from linearsr_jax.metrics.vgg16 import load_vgg16
from linearsr_jax.models.embeddings import Condition
from linearsr_jax.models.linear_attention import TELEMETRY
from linearsr_jax.models.linear_dit import LinearDiT
from linearsr_jax.models.presets import Preset
from linearsr_jax.training.adversary import Adversary, AdversaryState
from linearsr_jax.training.grid_loss import grid_term
from linearsr_jax.training.noise_weights import clean_weights
from linearsr_jax.training.sharpening import sharpened
from linearsr_jax.training.views import draw_views, take_view

# image_hr and image_lr, uint8 (B, H, W, 3), and condition_tokens and condition_mask as
# in `Condition` where there are conditions.
Batch = dict[str, HostOrDevice]
Telemetry = dict[str, Float[Array, "L"]]
ImageTerm = Callable[
    [Float[Array, "B H W 3"], Float[Array, "B H W 3"]], Float[Array, "B"]
]


# The side of the patches that LPIPS was calibrated on.
_VGG_SIDE = 64


def _l1(image_hat, image_hr):
    return jnp.mean(jnp.abs(image_hat - image_hr), axis=(1, 2, 3))


def _load_lpips() -> ImageTerm:
    params = load_parameters()
    return lambda image_hat, image_hr: lpips_distance(params, image_hat, image_hr)


def _load_lpips_vgg() -> ImageTerm:
    params = load_vgg16()

    def term(*images):
        # Whole views would cost nearly as much as the rest of a step.
        return lpips_vgg_distance(params, *map(_middle, images))

    return term


def _middle(image):
    """Crops to _VGG_SIDE at most."""
    height, width = image.shape[1:3]
    top, left = (max(size - _VGG_SIDE, 0) // 2 for size in (height, width))
    return image[:, top : top + _VGG_SIDE, left : left + _VGG_SIDE]


# Functions that load a term, by name. Images are in [-1, 1], not clipped.
IMAGE_TERMS: dict[str, Callable[[], ImageTerm]] = {
    "l1": lambda: _l1,
    "lpips": _load_lpips,
    "lpips_vgg": _load_lpips_vgg,
    "grid": lambda: grid_term,
}
# Terms that would be gamed if they saw each image at one place and scale.
VIEWED = frozenset({"lpips", "lpips_vgg"})
# What asks for texture, also where there is only noise; see `noise_weights`.
_TEXTURED = frozenset({"lpips", "lpips_vgg", "adversarial", "discriminator"})


@struct.dataclass
class Draws:
    """Random draws for a batch, and the weights that follow from them.

    Attributes:
      sigma: noise level of each sample.
      noise: unit normal noise, in the shape of the latents.
      views: for terms in VIEWED, see `views.draw_views`.
      weights: by term, the weight of each sample in the loss: 1 / B for the flow loss;
        for an image term its weight over the number of samples that it applies to.
      sharpening: amounts by which l1's photographs are sharpened.
    """

    sigma: Float[Array, "B"]
    noise: Float[Array, "B h w C"]
    views: Float[Array, "B 3"]
    weights: dict[str, Float[Array, "B"]]
    sharpening: Float[Array, "B"]


class Loss:
    """The loss of a batch, or the share of a microbatch in it.

    Draws and weights are made for the whole batch, so the shares of its microbatches,
    however it is split, add up to the loss of the batch.
    """

    def __init__(
        self,
        model: LinearDiT,
        preset: Preset,
        *,
        mass_at_one: float,
        boundaries: Sequence[float] = (),
        below_sigma: float = 0.0,
        flow: float = 1.0,
        adversarial: float = 0.0,
        adversary: Adversary | None = None,
        half_at_noise: float = 0.0,
        sharpen: float = 0.0,
        **weights: float,
    ):
        """Loads the image terms that have a weight.

        Args:
          model, preset: network to train.
          mass_at_one, boundaries: see `timestep_sampling.sample_sigma`.
          below_sigma: image terms apply to samples with sigma < below_sigma.
          flow: weight of the flow loss.
          adversarial: weight of the model's loss against the adversary, whose own
            loss has weight 1.
          adversary: needed if adversarial is not 0.
          half_at_noise: noise, in levels of 255, at which LPIPS and the adversary
            count half; 0 for no such weights. See `noise_weights`.
          sharpen: l1 compares with the photograph sharpened by this amount times one
            less the weight by half_at_noise, so a clean sample with the photograph
            as it is. See `sharpening`.
          **weights: weight of each image term, by name.

        Raises:
          ValueError: a weight is negative, there is no such term, or sharpen comes
            without half_at_noise.
          VggWeightsError: lpips_vgg has a weight, and VGG16's are not installed.
        """
        for name, weight in weights.items():
            if name not in IMAGE_TERMS or not weight >= 0.0:
                raise ValueError(
                    f"loss.{name}={weight}: must be at least 0 and the weight of one "
                    f"of {', '.join(IMAGE_TERMS)}"
                )
        self._model = model
        self._prediction = PREDICTIONS[preset.prediction]
        self._sample_sigma = functools.partial(
            sample_sigma,
            shift=preset.shift,
            mass_at_one=mass_at_one,
            boundaries=boundaries,
        )
        for name, weight in (
            ("flow", flow),
            ("adversarial", adversarial),
            ("half_at_noise", half_at_noise),
            ("sharpen", sharpen),
        ):
            if not weight >= 0.0:
                raise ValueError(f"loss.{name}={weight}: must be at least 0")
        if sharpen and not half_at_noise:
            raise ValueError("loss.sharpen needs loss.half_at_noise, which says where")
        self.adversary = adversary if adversarial else None
        self._adversarial = adversarial
        self._below_sigma = below_sigma
        self._half_at_noise = half_at_noise
        self._sharpen = sharpen
        self._flow = flow
        self._weights = {name: weight for name, weight in weights.items() if weight}
        self._terms = {name: IMAGE_TERMS[name]() for name in self._weights}

    def draw(
        self,
        key: Key[Array, ""],
        batch: Batch,
        codec: Codec,
        expert: int | Int[Array, ""] = 0,
    ) -> Draws:
        """Draws sigma and noise for a whole batch of an expert."""
        key_sigma, key_noise = jax.random.split(key)
        size, height, width, _ = batch["image_hr"].shape
        sigma = self._sample_sigma(key_sigma, size, expert=expert)
        factor = codec.factor
        shape = (size, height // factor, width // factor, codec.channels)
        views = draw_views(jax.random.fold_in(key, 2), size)
        clean = jnp.ones(size)
        if self._half_at_noise:
            clean = clean_weights(
                to_unit_range(jnp.asarray(batch["image_lr"])),
                to_unit_range(jnp.asarray(batch["image_hr"])),
                half_at=self._half_at_noise,
            )
        return self.weigh(sigma, jax.random.normal(key_noise, shape), views, clean)

    def weigh(
        self,
        sigma: Float[Array, "B"],
        noise: Float[Array, "B h w C"],
        views: Float[Array, "B 3"],
        clean: Float[Array, "B"] | float = 1.0,
    ) -> Draws:
        """Computes the weights for given draws; clean is from `clean_weights`."""
        size = len(sigma)
        nearly_clean = sigma < self._below_sigma
        share = nearly_clean / jnp.maximum(jnp.sum(nearly_clean), 1)
        weights = {name: weight * share for name, weight in self._weights.items()}
        if self.adversary:
            weights["adversarial"] = self._adversarial * share
            weights["discriminator"] = share
        weights = {
            name: weight * clean if name in _TEXTURED else weight
            for name, weight in weights.items()
        }
        weights["flow"] = jnp.full(size, self._flow / size)
        sharpening = self._sharpen * (1 - jnp.broadcast_to(clean, sigma.shape))
        return Draws(sigma, noise, views, weights, sharpening)

    def __call__(
        self,
        params: PyTree,
        codec: Codec,
        batch: Batch,
        draws: Draws,
        critic: AdversaryState | None = None,
    ) -> tuple[Float[Array, ""], tuple[dict[str, Float[Array, "B"]], Telemetry]]:
        """Computes the weighted sum of all terms.

        Args:
          params: parameters of the model.
          codec: codec; an argument, so that its weights are not compiled in.
          batch: samples; see `Batch`.
          draws: draws for these samples.
          critic: state of the adversary; without it there is no adversarial term.

        Returns:
          (loss, (values, telemetry)): values has the unweighted value of each term and
          sample; telemetry has one entry per layer, see `LinearSelfAttention`.
        """
        image_hr, image_lr = (
            to_unit_range(jnp.asarray(batch[name])) for name in ("image_hr", "image_lr")
        )
        x0 = codec.encode(image_hr, image_lr)
        condition = None
        if "condition_tokens" in batch:
            condition = Condition(
                jnp.asarray(batch["condition_tokens"]),
                jnp.asarray(batch["condition_mask"]),
            )
        level = draws.sigma[:, None, None, None]
        x_sigma = interpolate(x0, draws.noise, level)
        output, sown = self._model.apply(
            {"params": params},
            self._prediction.network_input(x_sigma, level),
            draws.sigma,
            image_lr,
            condition,
            mutable=TELEMETRY,
        )
        error = output - self._prediction.target(x0, draws.noise, level)
        values = {"flow": jnp.mean(jnp.square(error), axis=(1, 2, 3))}
        if self._terms or critic:
            x0_hat = self._prediction.x0_hat(x_sigma, output, level)
            # Replace samples without weight rather than multiplying by 0, because a
            # gradient that is not finite would spoil the sum.
            image_hat = jnp.where(
                level < self._below_sigma,
                codec.decode(x0_hat, image_lr),
                image_hr,
            )
            pair = image_hat, image_hr
            viewed = pair
            if VIEWED & self._terms.keys():
                viewed = tuple(take_view(image, draws.views) for image in pair)
            seen = dict.fromkeys(self._terms, pair) | dict.fromkeys(VIEWED, viewed)
            if self._sharpen:
                seen["l1"] = image_hat, sharpened(image_hr, draws.sharpening)
            for name, term in self._terms.items():
                values[name] = term(*seen[name])
            if critic and self.adversary:
                values["adversarial"], values["discriminator"] = self.adversary.losses(
                    critic.params, critic.directions, *pair
                )
        loss = sum(
            (jnp.sum(draws.weights[name] * values[name]) for name in values),
            start=jnp.zeros([]),
        )
        return loss, (values, sown[TELEMETRY]["blocks"]["attention"])
