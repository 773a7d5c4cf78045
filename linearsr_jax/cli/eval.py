"""`linearsr eval`: scores models or folders of upscaled images in a table."""

import argparse
import functools
import itertools
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from linearsr_jax.cli.arguments import (
    UsageError,
    add_computation,
    add_json,
    add_overwrite,
    add_seed,
    settings,
)
from linearsr_jax.cli.progress import progress
from linearsr_jax.metrics import describe_metrics

HELP = "score a model or folders of upscaled images"
_DEFAULT_METRICS = ["psnr", "ssim", "lpips"]

_OF_COMPUTATION = ("max_memory", "devices", "dtype")
# Options that scoring finished images has no use for.
_OF_A_MODEL = ("steps", "fidelity", "seed", *_OF_COMPUTATION)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="folder with an HR and an LR folder inside",
    )
    parser.add_argument(
        "--lr", type=Path, metavar="DIR", help="folder of images to upscale"
    )
    parser.add_argument(
        "--hr",
        type=Path,
        metavar="DIR",
        help="folder of the true images, under the same names",
    )
    parser.add_argument(
        "--sr",
        nargs="+",
        type=Path,
        default=[],
        metavar="DIR",
        help="folders of upscaled images, under the same names, to score in place of "
        "a model",
    )
    parser.add_argument(
        "--model",
        help="bundled model or model folder to score (default: nano, without --sr)",
    )
    parser.add_argument(
        "--metrics",
        type=lambda text: text.split(","),
        default=_DEFAULT_METRICS,
        metavar="NAME,NAME",
        help=f"{describe_metrics()} (default: {','.join(_DEFAULT_METRICS)})",
    )
    parser.add_argument(
        "--steps",
        type=settings("steps"),
        metavar="N,N",
        help="numbers of steps, one row of the table each (default: the model's own)",
    )
    parser.add_argument(
        "--fidelity",
        type=settings("fidelity"),
        metavar="F,F",
        help="places on the fidelity slider, one row each (default: the model's own)",
    )
    add_seed(parser, "seed of the model's samples")
    add_computation(parser)
    # None tells what was not given.
    parser.set_defaults(**dict.fromkeys(_OF_COMPUTATION))
    parser.add_argument(
        "--per-image",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="also write each image's scores, as .csv or .json",
    )
    add_overwrite(parser, "existing --per-image files")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Scores everything that was named, and prints the table."""
    from linearsr_jax.evaluation import runner, tables
    from linearsr_jax.evaluation.baselines import BASELINES
    from linearsr_jax.evaluation.folders import find_folders
    from linearsr_jax.inference.compilation_cache import enable_compilation_cache
    from linearsr_jax.metrics import get_metrics

    enable_compilation_cache()
    if not (args.data or args.lr or args.sr):
        raise UsageError("eval: give --data DIR, --lr DIR, or --sr DIR and --hr DIR")
    if args.data and (args.hr or args.lr):
        raise UsageError("eval: --data finds HR and LR itself; leave out --hr and --lr")
    try:
        metrics = get_metrics(args.metrics)
    except ValueError as error:
        raise UsageError(f"--metrics: {error}") from error
    for path in args.per_image:
        tables.check_per_image_path(path, overwrite=args.overwrite)
    if len({os.path.realpath(path) for path in args.per_image}) < len(args.per_image):
        raise UsageError("--per-image: names the same file twice")
    hr, lr = find_folders(args.data) if args.data else (args.hr, args.lr)
    model = args.model or (None if args.sr else "nano")
    methods: dict[str, runner.Method] = {}
    if args.data or model:
        methods |= BASELINES
    methods |= _folders_by_name(args.sr, methods)
    try:
        runner.check_references(methods, metrics, hr, lr)
    except runner.MissingReferenceError as error:
        raise UsageError(f"eval: {error}") from error
    if not model:
        for name in _OF_A_MODEL:
            if getattr(args, name) is not None:
                option = name.replace("_", "-")
                raise UsageError(f"eval: --{option} belongs to --model; --sr has none")
    if model:
        methods |= _upscalers(model, args)
    scores = runner.evaluate(
        methods, args.metrics, hr=hr, lr=lr, progress=progress("images")
    )
    rows = tables.summarize(scores.per_image, scores.per_folder)
    if args.json:
        print(json.dumps(tables.to_json(rows)))
    else:
        directions = {metric.name: metric.higher_is_better for metric in metrics}
        print(tables.format_table(rows, directions))
    for path in args.per_image:
        tables.write_per_image(path, scores.per_image, overwrite=args.overwrite)
    return 0


def _folders_by_name(folders: Sequence[Path], taken: Iterable[str]) -> dict[str, Path]:
    """Names the rows: by the folder's name, or its whole path where that is taken."""
    names = [folder.resolve().name for folder in folders]
    if len({*names, *taken}) < len(names) + len(set(taken)):
        names = [str(folder) for folder in folders]
    return dict(zip(names, folders, strict=True))


def _upscalers(model: str, args: argparse.Namespace) -> dict[str, Callable]:
    from linearsr_jax.inference.upscaler import Upscaler

    given = {name: getattr(args, name) for name in _OF_COMPUTATION}
    settings = {name: value for name, value in given.items() if value is not None}
    upscaler = Upscaler.from_pretrained(model, **settings)
    methods = {}
    steps = args.steps or [upscaler.model.preset.default_steps]
    for count, place in itertools.product(steps, args.fidelity or [None]):
        name = f"{upscaler.model.name} steps={count}"
        if place is not None:
            name += f" fidelity={place:g}"
        methods[name] = functools.partial(
            upscaler, steps=count, seed=args.seed or 0, fidelity=place
        )
    return methods
