"""Ranges and probabilities of the random degradations, by name.

Real-ESRGAN's second-order degradation (Wang et al., 2021, sec. 3 and
options/train_realesrgan_x4plus.yml): the field trains with two sets of them, STANDARD,
and LIGHT, which makes its test sets. CAMERA is for `camera`; no set of real pairs had
a part in choosing it, and what is marked "Ours" there has no source.
"""

import dataclasses

Range = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class RealEsrganParams:
    """Ranges and probabilities of the second-order degradation.

    Names ending in 1 and 2 belong to the first and second round. Ranges are
    (low, high), drawn uniformly. Fields without a default are those the field varies.

    Attributes:
      sigma1, sigma2: standard deviation of blur kernels in pixels.
      beta_generalized, beta_plateau: shape exponents, below and above 1 with
        probability 1/2 each.
      resize_range1, resize_range2: scale factors, (low, 1) for down and (1, high)
        for up; the second is relative to the final LR size.
      noise_sigma1, noise_sigma2: Gaussian noise in units of 1/255.
      poisson_scale1, poisson_scale2: factor on the Poisson noise.
      jpeg_quality1, jpeg_quality2: JPEG quality, integers, both ends included.
      second_blur_prob: probability of the second blur.
      no_degradation_prob: probability of the plain bicubic image.
      kernel_probs: probabilities of isotropic and anisotropic Gaussian, generalized
        Gaussian, and plateau kernels, in that order.
      kernel_sizes: sides of kernels in pixels, odd, equally probable, at most 21.
      sinc_prob1, sinc_prob2, final_sinc_prob: probability of a sinc kernel.
      resize_probs1, resize_probs2: probabilities of enlarging, reducing and keeping.
      gaussian_prob1, gaussian_prob2: probability of Gaussian, else Poisson noise.
      gray_noise_prob1, gray_noise_prob2: probability that R, G and B get the same
        noise.
    """

    sigma1: Range
    sigma2: Range
    beta_generalized: Range
    beta_plateau: Range
    resize_range1: Range
    resize_range2: Range
    noise_sigma1: Range
    noise_sigma2: Range
    poisson_scale1: Range
    poisson_scale2: Range
    jpeg_quality1: tuple[int, int]
    jpeg_quality2: tuple[int, int]
    second_blur_prob: float
    no_degradation_prob: float
    kernel_probs: tuple[float, ...] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    kernel_sizes: tuple[int, ...] = (7, 9, 11, 13, 15, 17, 19, 21)
    sinc_prob1: float = 0.1
    sinc_prob2: float = 0.1
    final_sinc_prob: float = 0.8
    resize_probs1: tuple[float, float, float] = (0.2, 0.7, 0.1)
    resize_probs2: tuple[float, float, float] = (0.3, 0.4, 0.3)
    gaussian_prob1: float = 0.5
    gaussian_prob2: float = 0.5
    gray_noise_prob1: float = 0.4
    gray_noise_prob2: float = 0.4


# StableSR, AdcSR, PiSA-SR (params.yml) and the field's DIV2K-Val test set.
LIGHT = RealEsrganParams(
    sigma1=(0.2, 1.5),
    sigma2=(0.2, 1.0),
    beta_generalized=(0.5, 2.0),
    beta_plateau=(1.0, 1.5),
    resize_range1=(0.3, 1.5),
    resize_range2=(0.6, 1.2),
    noise_sigma1=(1.0, 15.0),
    noise_sigma2=(1.0, 12.0),
    poisson_scale1=(0.05, 2.0),
    poisson_scale2=(0.05, 1.0),
    jpeg_quality1=(60, 95),
    jpeg_quality2=(60, 100),
    second_blur_prob=0.5,
    no_degradation_prob=0.01,
)

# Real-ESRGAN, OSEDiff and SeeSR's make_paired_data. SeeSR leaves one image in a hundred
# undegraded and the other two none, which we follow: a training run sets its share of
# bicubic images separately (PipelineConfig.degradations).
STANDARD = RealEsrganParams(
    sigma1=(0.2, 3.0),
    sigma2=(0.2, 1.5),
    beta_generalized=(0.5, 4.0),
    beta_plateau=(1.0, 2.0),
    resize_range1=(0.15, 1.5),
    resize_range2=(0.3, 1.2),
    noise_sigma1=(1.0, 30.0),
    noise_sigma2=(1.0, 25.0),
    poisson_scale1=(0.05, 3.0),
    poisson_scale2=(0.05, 2.5),
    jpeg_quality1=(30, 95),
    jpeg_quality2=(30, 95),
    second_blur_prob=0.8,
    no_degradation_prob=0.0,
)


@dataclasses.dataclass(frozen=True)
class CameraParams:
    """Ranges and probabilities of `camera`; ranges are drawn uniformly.

    Attributes:
      lens_probs: probabilities of no blur, Gaussian, oriented Gaussian, disc.
      sigma: standard deviation of the Gaussian in HR pixels.
      sigma_oriented: sigma of either axis of the oriented one.
      disc_radius: radius in HR pixels.
      area_prob: probability of photosites instead of the cubic.
      noise_prob: probability of noise at all.
      shot: its part that grows with the light; log-uniform.
      log_read: (slope, offset, spread): the log of its constant part is normal around
        slope log(shot) + offset.
      smoothing_prob, smoothing: chance of a Gaussian, and its sigma in LR pixels.
      jpeg_prob, jpeg_quality: chance of a JPEG, and its qualities, both ends included.
    """

    lens_probs: tuple[float, float, float, float]
    sigma: Range
    sigma_oriented: Range
    disc_radius: Range
    area_prob: float
    noise_prob: float
    shot: Range
    log_read: tuple[float, float, float]
    smoothing_prob: float
    smoothing: Range
    jpeg_prob: float
    jpeg_quality: tuple[int, int]


CAMERA = CameraParams(
    # Ours: how often a photograph is blurred, and how, has no source.
    lens_probs=(0.1, 0.4, 0.25, 0.25),
    # For x4: IKC (Gu et al., 2019, sec. 5.1).
    sigma=(0.2, 4.0),
    # DIV2KRK, the test set of KernelGAN (Bell-Kligler et al., 2019, sec. 5).
    sigma_oriented=(0.6, 5.0),
    # A blur of a pixel and a half of the LR image at most, as wide as the Gaussians
    # above: a disc's standard deviation is half its radius. Ours.
    disc_radius=(0.5, 6.0),
    # Ours: photosites and cubic equally often.
    area_prob=0.5,
    # Unprocessing (Brooks et al., 2019, sec. 3.1) fits the relation of the two parts on
    # phones, with shot in [1e-4, 0.012]. Ours: going on below for larger sensors, and
    # half without noise, as most files are denoised before they are saved.
    noise_prob=0.5,
    shot=(1e-5, 0.012),
    log_read=(2.18, 1.2, 0.26),
    # Processing smooths a little what a camera reads; how often and how much is ours.
    smoothing_prob=0.5,
    smoothing=(0.2, 0.8),
    # Cameras save at 90 and more, messengers and sites at 75 to 85. The chance and the
    # range are ours.
    jpeg_prob=0.5,
    jpeg_quality=(75, 98),
)

# "bicubic" is the classical LR image, without parameters.
DEGRADATIONS: dict[str, RealEsrganParams | CameraParams | None] = {
    "bicubic": None,
    "light": LIGHT,
    "standard": STANDARD,
    "camera": CAMERA,
}


def get_degradation(name: str) -> RealEsrganParams | CameraParams | None:
    """Looks up a degradation by its key in DEGRADATIONS.

    Raises:
      ValueError: there is no such degradation; the message lists all.
    """
    if name not in DEGRADATIONS:
        raise ValueError(
            f"unknown degradation {name!r}; use one of {', '.join(DEGRADATIONS)}"
        )
    return DEGRADATIONS[name]
