"""`linearsr demo`: a web page on this machine."""

import argparse
import signal

from linearsr_jax.cli.arguments import add_model, positive, setting
from linearsr_jax.cli.page_limits import PageLimits

HELP = "serve a web page that upscales"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_model(parser)
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to listen at; 0.0.0.0 lets other machines in, without a password "
        "(default: %(default)s, this machine only)",
    )
    parser.add_argument(
        "--port",
        type=positive,
        default=7860,
        metavar="N",
        help="port to listen at (default: %(default)s)",
    )
    parser.add_argument(
        "--max-memory",
        type=setting("max_memory"),
        metavar="GB",
        help="memory for one image, as in `linearsr upscale`",
    )
    parser.add_argument(
        "--max-megapixels",
        type=positive,
        default=PageLimits.megapixels,
        metavar="N",
        help="size of each picture that the page takes (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Serves until Ctrl-C or SIGTERM."""
    from linearsr_jax.cli.demo_page import serve
    from linearsr_jax.inference.compilation_cache import enable_compilation_cache
    from linearsr_jax.inference.upscaler import Upscaler

    # Ends like Ctrl-C, so that no pictures stay behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    enable_compilation_cache()
    upscaler = Upscaler.from_pretrained(args.model, max_memory=args.max_memory)
    serve(
        upscaler,
        PageLimits(megapixels=args.max_megapixels),
        host=args.host,
        port=args.port,
    )
    return 0
