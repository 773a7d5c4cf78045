"""Classifier-free guidance on any of the network's outputs.

The paper does not say what its guidance removes; here it is the tags and never the LR
image, so that guidance exaggerates what the tags change and nothing else.
"""


def guide(unconditional, conditional, guidance_scale: float):
    """Returns uncond + w (cond - uncond); w = 1 is the conditional output.

    x0_hat, velocity and noise are affine in each other at a given sigma, so
    guiding one guides all. The null condition removes tags, never the LR image.
    """
    return unconditional + guidance_scale * (conditional - unconditional)
