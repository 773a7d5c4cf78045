"""The `linearsr` command, and `python -m linearsr_jax`."""

import sys


def main() -> int:
    """Runs the command line and returns the exit code."""
    try:
        # Here, so that a Ctrl-C while it is imported ends like any other.
        from linearsr_jax.cli.main import main as run

        return run()
    except KeyboardInterrupt:
        print("linearsr: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
