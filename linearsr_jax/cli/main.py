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

from linearsr_jax.cli.arguments import make_parser

logger = logging.getLogger("linearsr_jax")


class UsageError(Exception):
    """Arguments that do not go together; exit code 2."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    args = make_parser(COMMANDS).parse_args(argv)
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
        if isinstance(error, OSError) and error.filename and error.strerror:
            text = f"{error.filename}: {error.strerror}"
        print(f"linearsr: {text}", file=sys.stderr)
    return code


def _is_expected(error: Exception) -> bool:
    # Errors of our own modules and of the file system are about the user's input.
    own = type(error).__module__.startswith("linearsr_jax")
    return own or isinstance(error, (OSError, ValueError))


def _upscale(args: argparse.Namespace) -> int:
    from linearsr_jax.inference.batch import plan_outputs, upscale_files
    from linearsr_jax.inference.compilation_cache import enable_compilation_cache
    from linearsr_jax.inference.conditions import of_file
    from linearsr_jax.inference.upscaler import Upscaler

    enable_compilation_cache()
    jobs = plan_outputs(args.inputs, args.output, recursive=args.recursive)
    upscaler = Upscaler.from_pretrained(
        args.model,
        offload_experts=args.offload_experts,
        max_memory=args.max_memory,
        dtype=args.dtype,
    )
    condition = None
    if args.condition:
        condition = of_file(args.condition, upscaler.model.preset)
    outputs, failures = upscale_files(
        upscaler,
        jobs,
        overwrite=args.overwrite,
        find_tags=_tag_finder(args, upscaler.model.tagger),
        steps=args.steps,
        seed=args.seed,
        condition=condition,
        guidance_scale=args.guidance_scale,
    )
    if args.json:
        print(json.dumps({"outputs": outputs}))
    if failures and len(jobs) > 1:
        logger.error("linearsr: %d of %d images failed", failures, len(jobs))
    return 1 if failures else 0


def _tag_finder(args: argparse.Namespace, default_tagger: str) -> Callable:
    """What says what an image shows: the user, a tagger, or nobody."""
    from linearsr_jax.tagging import load_tagger
    from linearsr_jax.tagging.vocabulary import parse_tags

    if args.condition or args.tags is not None:
        tags = parse_tags(args.tags or "")
        return lambda pixels: tags
    tagger = load_tagger(args.tagger or default_tagger)
    return lambda pixels: [tag for tag, _ in tagger(pixels)]


def _train(args: argparse.Namespace) -> int:
    from linearsr_jax.config.loading import ConfigError, load_config, load_stages

    try:
        if len(args.config) > 1:
            stages = load_stages(args.config, args.override)
        else:
            config = load_config(args.config[0], args.override)
    except ConfigError as error:
        raise UsageError(str(error)) from error
    if len(args.config) > 1:
        from linearsr_jax.training.stages import run_stages

        run_stages(stages, args.workdir)
    else:
        from linearsr_jax.training.loop import train_and_evaluate

        train_and_evaluate(config, args.workdir)
    return 0


def _finetune(args: argparse.Namespace) -> int:
    from linearsr_jax.config.loading import ConfigError
    from linearsr_jax.evaluation import tables
    from linearsr_jax.training.finetune import finetune

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
    from linearsr_jax.evaluation import runner as evaluate
    from linearsr_jax.evaluation import tables
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
    from linearsr_jax.convert import dc_ae, gemma2, ram, sana

    converters = {
        "dc-ae": dc_ae.convert,
        "gemma2": gemma2.convert,
        "ram": ram.convert,
    }
    if args.source_model == "sana":
        count = sana.convert(args.source, args.to, args.codec)
    elif args.codec is not None:
        raise UsageError("convert: --codec goes with --from sana only")
    else:
        count = converters[args.source_model](args.source, args.to)
    print(f"{args.to}: {count} parameters")
    return 0


def _tag(args: argparse.Namespace) -> int:
    from linearsr_jax.inference.compilation_cache import enable_compilation_cache
    from linearsr_jax.tagging import files as tag_files
    from linearsr_jax.tagging import load_tagger

    enable_compilation_cache()
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


def _text(args: argparse.Namespace) -> int:
    from linearsr_jax.tagging.cache import load_tag_cache
    from linearsr_jax.text_encoder import files as text_files
    from linearsr_jax.text_encoder.encoder import TextEncoder

    if (args.text is None) == (args.tags is None):
        raise UsageError("text: give TEXT or --tags CACHE, one of them")
    text_files.check_output(args.output, overwrite=args.overwrite)
    # Before the weights: they take long to load.
    tags = None if args.tags is None else load_tag_cache(args.tags)
    instruction = text_files.find_instruction(args.instruction)
    encoder = TextEncoder.load(args.encoder, args.dtype, instruction)
    if tags is None:
        counts = text_files.write_condition(encoder, args.text, args.output)
    else:
        counts = text_files.write_features(
            encoder, tags, args.output, _progress("texts")
        )
    if args.json:
        print(json.dumps({"output": str(args.output), **counts}))
    else:
        print(
            f"{args.output}: " + ", ".join(f"{n} {what}" for what, n in counts.items())
        )
    return 0


def _upscalers(model: str, steps: Sequence[int], seed: int) -> dict[str, Callable]:
    from linearsr_jax.inference.upscaler import Upscaler

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
    from linearsr_jax.cli.info_text import describe, format_description

    description = describe(args.model)
    print(json.dumps(description) if args.json else format_description(description))
    return 0


def _bench(args: argparse.Namespace) -> int:
    from kernels_pallas import bench_lib

    logging.getLogger("kernels_pallas").setLevel(logging.INFO)
    if args.what == "attention":
        from kernels_pallas.linear_attention.bench import bench

        result = bench()
    elif args.what == "experts":
        from linearsr_jax.benchmarks.experts import bench_experts

        result = bench_experts(args.preset, args.steps)
    elif args.what == "forward":
        from linearsr_jax.benchmarks.model import bench_forward

        result = bench_forward(args.preset, args.size, args.dtype)
    else:
        from linearsr_jax.benchmarks.model import bench_upscale

        result = bench_upscale(args.preset, args.size, args.steps, args.dtype)
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


COMMANDS = {
    "upscale": _upscale,
    "train": _train,
    "finetune": _finetune,
    "eval": _eval,
    "tag": _tag,
    "text": _text,
    "convert": _convert,
    "bench": _bench,
    "knee": _knee,
    "info": _info,
}


if __name__ == "__main__":
    sys.exit(main())
