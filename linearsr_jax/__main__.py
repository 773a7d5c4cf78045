"""`python -m linearsr_jax`: the `linearsr` command."""

import sys

from linearsr_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
