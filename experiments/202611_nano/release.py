"""Makes a finished run the bundled nano, with the photographs' credits in its card.

python experiments/202611_nano/release.py runs/nano PHOTOS/photos.jsonl
"""

import json
import sys
from pathlib import Path

from linearsr_jax.pretrained import model_folder
from linearsr_jax.pretrained.model_card import model_card

TARGET = Path("linearsr_jax/weights/nano-flow")


def main(workdir: str, photos: str) -> None:
    """Reads workdir/model, writes `TARGET`."""
    model = model_folder.load_pretrained(Path(workdir) / "model")
    licences = {}
    for line in Path(photos).read_text().splitlines():
        photo = json.loads(line)
        licences[Path(photo["file"]).name] = photo["licence"]
    card = model_card(model.training)
    for name in model.training["files"]:
        card = card.replace(f"- {name}\n", f"- {name}: {licences[name]}\n")
    model_folder.save_model(TARGET, model, card)


if __name__ == "__main__":
    main(*sys.argv[1:])
