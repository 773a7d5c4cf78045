"""Do the bundled models shift colours?

python experiments/202611_colour/measure.py FOLDER COUNT MODEL[:STEPS] ...

Of COUNT images of a folder of low-resolution photographs, upscaled with the model's
default settings: the difference between output and bicubic enlargement, in levels of 8
bits, after the low-pass filter that colour fixes work with (five levels of the a trous
wavelet). "shift" is the mean over the image of its channels, absolute, mean over images
and channels; "local" the root mean square over pixels; "worst" the largest shift of an
image and channel; "LR-PSNR" how well the output, reduced, agrees with its input, and
"consistent" the same of outputs that were made consistent.
"""

import sys

import numpy as np
import PIL.Image

from linearsr_jax import Upscaler
from linearsr_jax.core.image_io import find_images, read_image
from linearsr_jax.inference.fidelity import low_pass
from linearsr_jax.metrics.lr_consistency import lr_psnr


def main(folder: str, count: str, *models: str) -> None:
    """Prints one row for each model."""
    paths = find_images(folder)[: int(count)]
    print("| model | shift | worst | local | LR-PSNR | consistent |")
    print("| --- " * 6 + "|")
    for given in models:
        name, _, steps = given.partition(":")
        upscaler = Upscaler.from_pretrained(name)
        shifts, local, agreement, forced = [], [], [], []
        for path in paths:
            image_lr = read_image(path).rgb
            settings = {"steps": int(steps)} if steps else {}
            image_hr = upscaler(image_lr, **settings)
            consistent = upscaler(image_lr, consistent=True, **settings)
            size = image_hr.shape[1::-1]
            bicubic = PIL.Image.fromarray(image_lr).resize(size, PIL.Image.BICUBIC)
            low = low_pass(image_hr.astype(np.float32) - np.asarray(bicubic))
            shifts.append(np.abs(low.mean((0, 1))))
            local.append(np.sqrt(np.mean(low**2)))
            agreement.append(lr_psnr(image_hr, image_lr))
            forced.append(lr_psnr(consistent, image_lr))
        numbers = np.mean(shifts), np.max(shifts), np.mean(local)
        numbers += np.mean(agreement), np.mean(forced)
        print(f"| {given} | " + " | ".join(f"{n:.2f}" for n in numbers) + " |")


if __name__ == "__main__":
    main(*sys.argv[1:])
