"""Runs the command in this process."""

from linearsr_jax.cli import main as cli


def run(capsys, *args):
    """Returns the command's exit code, standard output and standard error."""
    try:
        code = cli.main([str(arg) for arg in args])
    except SystemExit as error:
        code = error.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err
