"""The `linearsr` command: parse, call, print.

JAX is imported by the subcommands, so that --help answers at once. Exit codes: 0
done, 1 a run failed, 2 wrong usage. With --json the last line of standard output is
one JSON object; everything else goes to standard error.
"""

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from linearsr_jax import __version__

logger = logging.getLogger("linearsr_jax")


class UsageError(Exception):
    """Arguments that do not go together; exit code 2."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    args = _parser().parse_args(argv)
    logging.basicConfig(
        level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True
    )
    logger.setLevel(logging.INFO)
    try:
        return args.run(args)
    except KeyboardInterrupt:
        print("linearsr: interrupted", file=sys.stderr)
        return 1
    except UsageError as error:
        return _fail(args, error, 2)
    except Exception as error:
        if not _is_expected(error):
            logger.error("linearsr: this is a bug; --debug shows where")
        return _fail(args, error, 1)


def _fail(args: argparse.Namespace, error: Exception, code: int) -> int:
    if args.debug:
        logger.exception("linearsr: failed")
    else:
        text = " ".join(str(error).split()) or type(error).__name__
        print(f"linearsr: {text}", file=sys.stderr)
    return code


def _is_expected(error: Exception) -> bool:
    # Errors of our own modules and of the file system are about the user's input.
    own = type(error).__module__.startswith("linearsr_jax")
    return own or isinstance(error, (OSError, ValueError))


def _upscale(args: argparse.Namespace) -> int:
    from linearsr_jax.upscale_files import plan_outputs, upscale_files
    from linearsr_jax.upscaler import Upscaler

    jobs = plan_outputs(args.inputs, args.output, recursive=args.recursive)
    upscaler = Upscaler.from_pretrained(
        args.model, offload_experts=args.offload_experts
    )
    outputs, failures = upscale_files(
        upscaler, jobs, steps=args.steps, seed=args.seed, overwrite=args.overwrite
    )
    if args.json:
        print(json.dumps({"outputs": outputs}))
    if failures and len(jobs) > 1:
        logger.error("linearsr: %d of %d images failed", failures, len(jobs))
    return 1 if failures else 0


def _train(args: argparse.Namespace) -> int:
    from linearsr_jax.config import ConfigError, load_config, load_stages

    try:
        if len(args.config) > 1:
            stages = load_stages(args.config, args.override)
        else:
            config = load_config(args.config[0], args.override)
    except ConfigError as error:
        raise UsageError(str(error)) from error
    if len(args.config) > 1:
        from linearsr_jax.stages import run_stages

        run_stages(stages, args.workdir)
    else:
        from linearsr_jax.train import train_and_evaluate

        train_and_evaluate(config, args.workdir)
    return 0


def _finetune(args: argparse.Namespace) -> int:
    from linearsr_jax.config import ConfigError
    from linearsr_jax.finetune import finetune
    from linearsr_jax.metrics import tables

    try:
        result = finetune(
            args.photos,
            args.workdir,
            model=args.model,
            overrides=args.override,
            progress=_progress("images"),
        )
    except ConfigError as error:
        raise UsageError(str(error)) from error
    if args.json:
        print(json.dumps(result))
    elif result["model"] is not None:
        model = result.pop("model")
        for name, table in result.items():
            print(f"held-out photographs, {name} input")
            print(tables.format_table(table["rows"]) + "\n")
        print(f"linearsr upscale IN -o OUT --model {model}")
    return 0


def _eval(args: argparse.Namespace) -> int:
    from linearsr_jax import evaluate
    from linearsr_jax.metrics import get_metrics, tables

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
    hr, lr = evaluate.find_folders(args.data) if args.data else (args.hr, args.lr)
    model = args.model or (None if args.sr else "nano")
    methods = dict(evaluate.BASELINES) if args.data or model else {}
    methods |= _folders_by_name(args.sr, methods)
    try:
        evaluate.check_references(methods, metrics, hr, lr)
    except evaluate.MissingReferenceError as error:
        raise UsageError(f"eval: {error}") from error
    if model:
        methods |= _upscalers(model, args.steps, args.seed)
    scores = evaluate.evaluate(
        methods, args.metrics, hr=hr, lr=lr, progress=_progress("images")
    )
    summary = tables.summarize(scores.per_image, scores.per_folder)
    if args.json:
        print(json.dumps(summary))
    else:
        directions = {metric.name: metric.higher_is_better for metric in metrics}
        print(tables.format_table(summary["rows"], directions))
    for path in args.per_image:
        tables.write_per_image(path, scores.per_image, overwrite=args.overwrite)
    return 0


def _folders_by_name(folders: Sequence[Path], taken: Iterable[str]) -> dict[str, Path]:
    """Short names for the rows, long ones where the short are not unique."""
    names = [folder.resolve().name for folder in folders]
    if len({*names, *taken}) < len(names) + len(set(taken)):
        names = [str(folder) for folder in folders]
    return dict(zip(names, folders, strict=True))


def _convert(args: argparse.Namespace) -> int:
    if args.source_model == "ram":
        from linearsr_jax.convert.ram import convert
    else:
        from linearsr_jax.convert.dc_ae import convert

    count = convert(args.source, args.to)
    print(f"{args.to}: {count} parameters")
    return 0


def _tag(args: argparse.Namespace) -> int:
    from linearsr_jax import tag_files
    from linearsr_jax.tagging import load_tagger

    if args.cache and (len(args.inputs) > 1 or not args.inputs[0].is_dir()):
        raise UsageError("tag: --cache is of one folder; give one, and no files")
    if args.lr and not args.cache:
        raise UsageError("tag: --lr is for --cache; give both")
    tagger, progress = load_tagger(args.tagger), _progress("images")
    if args.cache:
        found = tag_files.tag_folder(
            tagger, args.inputs[0], args.cache, is_lr=args.lr, progress=progress
        )
    else:
        files = tag_files.find_files(args.inputs, recursive=args.recursive)
        found = tag_files.tag_files(tagger, files, progress)
    is_printed = not (args.json or args.cache)
    images, failures = tag_files.report(found, is_printed=is_printed)
    if args.json:
        print(json.dumps({"images": images}))
    elif args.cache:
        print(f"{args.cache}: the tags of {len(images)} images")
    return 1 if failures else 0


def _upscalers(model: str, steps: Sequence[int], seed: int) -> dict[str, Callable]:
    from linearsr_jax.upscaler import Upscaler

    upscaler = Upscaler.from_pretrained(model)

    def with_steps(count):
        return lambda image_lr: upscaler(image_lr, steps=count, seed=seed)

    return {
        f"{upscaler.model.name} steps={count}": with_steps(count) for count in steps
    }


def _knee(args: argparse.Namespace) -> int:
    from linearsr_jax.esgf import curve_files, report
    from linearsr_jax.esgf.knee import find_knee

    curve = curve_files.read_curve(args.curve, lower=args.lower, higher=args.higher)
    verdict = find_knee(curve.steps, curve.metrics, curve.higher_is_better)
    if args.plot is not None:
        report.plot_verdict(curve, verdict, args.plot)
    print(
        json.dumps(report.to_json(verdict))
        if args.json
        else report.format_verdict(verdict)
    )
    return 0


def _info(args: argparse.Namespace) -> int:
    from linearsr_jax.info import describe, format_description

    description = describe(args.model)
    print(json.dumps(description) if args.json else format_description(description))
    return 0


def _bench(args: argparse.Namespace) -> int:
    from kernels_pallas import bench_lib

    logging.getLogger("kernels_pallas").setLevel(logging.INFO)
    if args.what == "attention":
        from kernels_pallas.linear_attention.bench import bench

        result = bench()
    else:
        from linearsr_jax.bench_experts import bench_experts

        result = bench_experts(args.preset, args.steps)
    print(json.dumps(result) if args.json else bench_lib.format_report(result))
    return 0


def _progress(unit: str) -> Callable:
    """A bar on a terminal, a line every half minute elsewhere."""
    from tqdm import tqdm

    def lines(items):
        last = time.monotonic()
        for done, item in enumerate(items):
            if time.monotonic() - last >= 30:
                last = time.monotonic()
                logger.info("linearsr: %d of %d %s done", done, len(items), unit)
            yield item

    if sys.stderr.isatty():
        return lambda items: tqdm(items, unit=unit, leave=False)
    return lines


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="linearsr",
        description="x4 super-resolution of photographs with linear attention",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str):
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        sub.add_argument(
            "--debug", action="store_true", help="show a traceback when it fails"
        )
        return sub

    sub = command("upscale", _upscale, "make images four times as large")
    sub.add_argument("inputs", nargs="+", type=Path, metavar="IN", help="image, folder")
    sub.add_argument(
        "-o",
        "--output",
        required=True,
        type=Path,
        metavar="OUT",
        help="file for one image (.png .jpg .webp .bmp .tif), else a folder",
    )
    _add_model(sub)
    sub.add_argument(
        "--steps",
        type=_positive,
        metavar="N",
        help="network evaluations: 1 closest to the truth, more adds detail "
        "(default: the model's)",
    )
    sub.add_argument("--seed", type=_seed, default=0, help="chooses the detail")
    sub.add_argument(
        "--offload-experts",
        action="store_true",
        help="at most two of a model's experts on the device: less memory, slower",
    )
    sub.add_argument(
        "--overwrite", action="store_true", help="replace existing outputs"
    )
    sub.add_argument(
        "--recursive", action="store_true", help="descend into folders of folders"
    )
    _add_json(sub)

    sub = command("train", _train, "train a model; resumes what the workdir holds")
    sub.add_argument(
        "--config",
        nargs="+",
        required=True,
        metavar="FILE[:ARG]",
        help="see configs/; several are stages, each from the knee of the one before",
    )
    _add_workdir(sub, "data.folder=photos")

    sub = command(
        "finetune", _finetune, "teach a model your photos; resumes what stopped"
    )
    sub.add_argument("photos", type=Path, metavar="DIR", help="20 photos or more")
    _add_model(sub)
    _add_workdir(sub, "steps=10000")
    _add_json(sub)

    sub = command("eval", _eval, "score a model, or folders of outputs")
    sub.add_argument("--data", type=Path, help="folder with an HR and an LR folder")
    sub.add_argument("--lr", type=Path, help="folder of images to upscale")
    sub.add_argument("--hr", type=Path, help="folder of true images, same names")
    sub.add_argument(
        "--sr",
        nargs="+",
        type=Path,
        default=[],
        metavar="DIR",
        help="folders of upscaled images, same names: scored in place of a model",
    )
    sub.add_argument(
        "--model",
        help="bundled name or model folder to score (default: nano, without --sr)",
    )
    sub.add_argument(
        "--metrics",
        type=lambda text: text.split(","),
        default=["psnr", "ssim", "lpips"],
        metavar="NAME,NAME",
        help="psnr, ssim, lpips (the default), niqe, lr_psnr; with pyiqa also dists, "
        "musiq, maniqa-pipal, clipiqa, fid, pyiqa:NAME",
    )
    sub.add_argument(
        "--steps",
        type=lambda text: [_positive(part) for part in text.split(",")],
        default=[1, 4],
        metavar="N,N",
        help="one row of the table for each; default: 1,4",
    )
    sub.add_argument("--seed", type=_seed, default=0)
    sub.add_argument(
        "--per-image",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="also write every image's values, as .csv or .json",
    )
    sub.add_argument(
        "--overwrite", action="store_true", help="replace existing --per-image files"
    )
    _add_json(sub)

    sub = command("tag", _tag, "say what images show, in words a model can be given")
    sub.add_argument("inputs", nargs="+", type=Path, metavar="IN", help="image, folder")
    sub.add_argument(
        "--tagger",
        default="light",
        metavar="NAME",
        help="light (part of the package; the default), ram:FOLDER, none",
    )
    sub.add_argument(
        "--recursive", action="store_true", help="descend into folders of folders"
    )
    sub.add_argument(
        "--cache",
        type=Path,
        metavar="FILE.jsonl",
        help="keep the tags of a folder, with all below it, for training; resumes",
    )
    sub.add_argument(
        "--lr", action="store_true", help="with --cache: look at the images reduced x4"
    )
    _add_json(sub)

    sub = command("convert", _convert, "turn other projects' weights into ours")
    sub.add_argument(
        "--from",
        required=True,
        choices=["dc-ae", "ram"],
        dest="source_model",
        help="model",
    )
    sub.add_argument("source", type=Path, metavar="SRC", help="file, folder")
    sub.add_argument("--to", required=True, type=Path, metavar="DIR")

    sub = command("bench", _bench, "time a part of this on the present device")
    sub.add_argument(
        "what",
        choices=["attention", "experts"],
        help="linear attention against the device's copy; sampling with four experts "
        "against one",
    )
    sub.add_argument("--preset", default="nano", help="of experts; default: nano")
    sub.add_argument(
        "--steps", type=_positive, default=8, help="of experts; default: 8"
    )
    _add_json(sub)

    sub = command("knee", _knee, "find where a run stopped getting better")
    sub.add_argument(
        "curve",
        type=Path,
        metavar="WORKDIR|CSV",
        help="a training folder, or a CSV with the header step,METRIC,...",
    )
    for side, other in (("lower", "loss"), ("higher", "accuracy")):
        sub.add_argument(
            f"--{side}",
            action="append",
            default=[],
            metavar="NAME",
            help=f"a metric whose {side} values are better, e.g. {other}",
        )
    sub.add_argument("--plot", type=Path, metavar="PNG", help="draw the evidence")
    _add_json(sub)

    sub = command("info", _info, "say what is installed and what a model is")
    _add_model(sub)
    _add_json(sub)
    return parser


def _add_model(sub: Any) -> None:
    sub.add_argument("--model", default="nano", help="bundled name or model folder")


def _add_workdir(sub: Any, example: str) -> None:
    sub.add_argument("--workdir", required=True, type=Path, help="checkpoints, log")
    sub.add_argument(
        "--override",
        nargs="+",
        action="extend",
        default=[],
        metavar="FIELD=VALUE",
        help=f"change a field of the config, e.g. {example}",
    )


def _add_json(sub: Any) -> None:
    sub.add_argument("--json", action="store_true", help="machine-readable output")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} is not in 0 .. 2**32 - 1")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
