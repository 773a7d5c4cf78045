"""How often the tests that mutate files do it.

The environment variable MUTATIONS multiplies it, for a volume that takes long:
MUTATIONS=10 pytest tests/pretrained tests/core -k "mutated or damage".
"""

import os

TIMES = int(os.environ.get("MUTATIONS", "1"))
