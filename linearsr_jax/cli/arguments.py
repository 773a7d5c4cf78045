"""The arguments of the `linearsr` command. No JAX: --help answers at once."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from linearsr_jax.core.version import __version__

Command = Callable[[argparse.Namespace], int]


def make_parser(commands: Mapping[str, Command]) -> argparse.ArgumentParser:
    """The parser; what it returns has `run`, the command that was asked for.

    Args:
      commands: what runs, by the names of the subcommands.
    """
    parser = argparse.ArgumentParser(
        prog="linearsr",
        description="x4 super-resolution of photographs with linear attention",
    )
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str):
        sub = subparsers.add_parser(name, help=text, description=text)
        sub.set_defaults(run=commands[name])
        sub.add_argument(
            "--debug", action="store_true", help="show a traceback when it fails"
        )
        return sub

    sub = command("upscale", "make images four times as large")
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
    what_it_shows = sub.add_mutually_exclusive_group()
    what_it_shows.add_argument(
        "--tags", metavar="TAG,TAG", help='what the images show; "" for nothing'
    )
    what_it_shows.add_argument(
        "--tagger",
        metavar="NAME",
        help="who says what each image shows: none, light, ram:FOLDER (default: the "
        "model's)",
    )
    what_it_shows.add_argument(
        "--condition",
        type=Path,
        metavar="FILE",
        help="features in place of tags, for models that take them (.safetensors)",
    )
    sub.add_argument(
        "--guidance-scale",
        type=float,
        default=1.0,
        metavar="W",
        help="how much tags count; other than 1 (the default) takes twice the time",
    )
    sub.add_argument(
        "--max-memory",
        type=float,
        metavar="GB",
        help="for one image, weights apart; larger ones go in bands of rows, with the "
        "same result (default: half of the machine's, 80 %% of an accelerator's)",
    )
    sub.add_argument(
        "--offload-experts",
        action="store_true",
        help="at most two of a model's experts on the device: less memory, slower",
    )
    _add_dtype(sub, "of the computation; bfloat16 for large models on accelerators")
    sub.add_argument(
        "--overwrite", action="store_true", help="replace existing outputs"
    )
    sub.add_argument(
        "--recursive", action="store_true", help="descend into folders of folders"
    )
    _add_json(sub)

    sub = command("train", "train a model; resumes what the workdir holds")
    sub.add_argument(
        "--config",
        nargs="+",
        required=True,
        metavar="FILE[:ARG]",
        help="see configs/; several are stages, each from the knee of the one before",
    )
    _add_workdir(sub, "data.folder=photos")

    sub = command("finetune", "teach a model your photos; resumes what stopped")
    sub.add_argument("photos", type=Path, metavar="DIR", help="20 photos or more")
    _add_model(sub)
    _add_workdir(sub, "steps=10000")
    _add_json(sub)

    sub = command("eval", "score a model, or folders of outputs")
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

    sub = command("tag", "say what images show, in words a model can be given")
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

    sub = command("text", "turn texts into the features that SANA's models take")
    sub.add_argument(
        "text", nargs="?", metavar="TEXT", help='what an image shows; "" for nothing'
    )
    sub.add_argument(
        "--tags",
        type=Path,
        metavar="CACHE",
        help="in place of TEXT: the tags of a folder, from linearsr tag --cache",
    )
    sub.add_argument(
        "--encoder",
        required=True,
        type=Path,
        metavar="DIR",
        help="from linearsr convert --from gemma2",
    )
    sub.add_argument(
        "-o",
        "--output",
        required=True,
        type=Path,
        metavar="FILE",
        help="safetensors: of TEXT for upscale --condition, of --tags for training's "
        "condition.file; the latter resumes",
    )
    sub.add_argument(
        "--instruction",
        type=Path,
        metavar="FILE",
        help="what the encoder reads before each text, as SANA was trained",
    )
    sub.add_argument(
        "--dtype",
        choices=["float32", "bfloat16"],
        default="float32",
        help="of the computation and the features; default: float32",
    )
    sub.add_argument(
        "--overwrite", action="store_true", help="replace an existing output"
    )
    _add_json(sub)

    sub = command("convert", "turn other projects' weights into ours")
    sub.add_argument(
        "--from",
        required=True,
        choices=["dc-ae", "gemma2", "ram", "sana"],
        dest="source_model",
        help="model",
    )
    sub.add_argument("source", type=Path, metavar="SRC", help="file, folder")
    sub.add_argument("--to", required=True, type=Path, metavar="DIR")
    sub.add_argument(
        "--codec",
        type=Path,
        metavar="SRC",
        help="DC-AE for sana, converted or not (default: the pipeline's vae)",
    )

    sub = command("bench", "time a part of this on the present device")
    sub.add_argument(
        "what",
        choices=["attention", "experts", "forward", "upscale"],
        help="linear attention against the device's copy; sampling with four experts "
        "against one; one evaluation of the network by part; a whole image",
    )
    sub.add_argument("--preset", default="nano", help="model size; default: nano")
    sub.add_argument(
        "--steps",
        type=_positive,
        default=8,
        help="of experts and upscale; default: 8",
    )
    sub.add_argument(
        "--size",
        type=_positive,
        nargs="+",
        default=[512],
        metavar="PIXELS",
        help="output pixels a side, of forward and upscale; default: 512",
    )
    _add_dtype(sub, "of forward and upscale")
    _add_json(sub)

    sub = command("knee", "find where a run stopped getting better")
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

    sub = command("info", "say what is installed and what a model is")
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


def _add_dtype(sub: Any, text: str) -> None:
    sub.add_argument(
        "--dtype",
        choices=["float32", "bfloat16"],
        default="float32",
        help=f"{text} (default: float32)",
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
