"""The web page: pictures in, larger pictures out, with a slider to compare them.

The page is a batch like that of `linearsr upscale`; files come from the browser and go
back to it with all that they carry. Only what was uploaded or made here can be read
through the page: gradio serves files of its own cache, whose place `serve` chooses, and
is given no other folder.
"""

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import PIL.Image

from linearsr_jax.cli.page_limits import PageLimits
from linearsr_jax.core import image_io
from linearsr_jax.core.errors import LinearSRError
from linearsr_jax.core.image_formats import READ_SUFFIXES
from linearsr_jax.inference.batch import Output, upscale_files
from linearsr_jax.inference.batch_files import FileOptions
from linearsr_jax.inference.batch_inputs import Failure
from linearsr_jax.inference.batch_plan import Naming, make_plan
from linearsr_jax.inference.sampling import is_random
from linearsr_jax.inference.upscaler import Upscaler

if TYPE_CHECKING:
    import gradio

_logger = logging.getLogger(__name__)

_EXAMPLE = Path(__file__).parent / "data" / "osprey.png"
_PREVIEW_SIDE = 2048  # pixels; the browser compares pictures no larger than this
_SUFFIX = "_x4"
_KEPT_SECONDS = 3600
_SEEDS = 2**32


class DemoError(LinearSRError):
    """The page cannot be served; one line with the cure."""


def serve(
    upscaler: Upscaler,
    limits: PageLimits,
    *,
    host: str,
    port: int,
    is_blocking: bool = True,
) -> "gradio.Blocks":
    """Serves the page, until Ctrl-C if it blocks.

    Args:
      upscaler: the model.
      limits: what visitors may ask for.
      host: address to listen at; 127.0.0.1 is reached from this machine only.
      port: port to listen at.
      is_blocking: whether to wait; otherwise `close` the page that is returned.

    Raises:
      DemoError: gradio is not installed, or the port is taken.
    """
    # gradio reads both when it is imported, or when an app is made.
    cache = tempfile.mkdtemp(prefix="linearsr-demo-")
    os.environ["GRADIO_TEMP_DIR"] = cache
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        page = make_page(upscaler, limits, Path(cache))
        page.queue(max_size=limits.waiting, default_concurrency_limit=1)
        page.launch(
            server_name=host,
            server_port=port,
            max_file_size=f"{limits.file_megabytes}mb",
            prevent_thread_lock=True,
            share=False,
            footer_links=[],
            css=_CSS,
            quiet=True,
        )
        _logger.info("linearsr: http://%s:%d, Ctrl-C ends it", host, port)
        if is_blocking:
            page.block_thread()
    except OSError as error:
        shutil.rmtree(cache, ignore_errors=True)
        raise DemoError(
            f"{host}:{port}: is taken or cannot be listened at; choose another --port"
        ) from error
    finally:
        if is_blocking:
            shutil.rmtree(cache, ignore_errors=True)
    return page


_CSS = """
.gradio-container { max-width: 1100px !important; margin: 0 auto !important; }
#compare img { image-rendering: auto; }
"""


def make_page(upscaler: Upscaler, limits: PageLimits, folder: Path) -> "gradio.Blocks":
    """Makes the page.

    Args:
      upscaler: the model.
      limits: what visitors may ask for.
      folder: where results are kept for an hour.

    Raises:
      DemoError: gradio is not installed.
    """
    try:
        import gradio as gr
    except ModuleNotFoundError as error:
        raise DemoError(
            'the page needs gradio; pip install "linearsr_jax[demo]"'
        ) from error

    model = upscaler.model
    has_slider = model.mean_experts is not None

    def enlarge(files, fidelity, steps, seed, tags, progress=gr.Progress()):  # noqa: B008
        if not files:
            raise gr.Error("Choose a picture first.", print_exception=False)
        if len(files) > limits.files:
            raise gr.Error(
                f"{len(files)} pictures at once; the limit is {limits.files}.",
                print_exception=False,
            )
        settings = {"steps": int(steps), "seed": _seed(seed)}
        if has_slider:
            settings["fidelity"] = fidelity
        pairs: list[tuple[str, str]] = []
        for done, result in enumerate(
            _run(upscaler, files, tags, folder, limits, settings)
        ):
            progress((done + 1, len(files)), unit="pictures")
            if isinstance(result, Failure):
                gr.Warning(f"{Path(result.input).name}: {_reason(result)}")
            else:
                pairs.append((result.input, result.output))
        if not pairs:
            raise gr.Error(
                "None of the pictures could be enlarged.", print_exception=False
            )
        names = [Path(output).name for _, output in pairs]
        choice = gr.Dropdown(names, value=names[0], visible=len(names) > 1)
        return pairs, choice, _preview(*pairs[0]), [output for _, output in pairs]

    def look(name, pairs):
        return next(_preview(*pair) for pair in pairs if Path(pair[1]).name == name)

    with gr.Blocks(
        title="linearsr", analytics_enabled=False, delete_cache=(600, _KEPT_SECONDS)
    ) as page:
        gr.Markdown(
            "# linearsr\nEnlarges photographs four times in each direction. Pictures "
            f"stay on the machine that serves this page, for an hour. Up to "
            f"{limits.files} at once, of {limits.megapixels} megapixels and "
            f"{limits.file_megabytes} MB."
        )
        pairs = gr.State([])
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                files = gr.File(
                    label="Photographs",
                    file_count="multiple",
                    file_types=list(READ_SUFFIXES),
                    height=170,
                    elem_id="files",
                )
                fidelity = gr.Slider(
                    0,
                    1,
                    value=model.default_fidelity,
                    step=0.05,
                    label="Fidelity",
                    info="0 is closest to the photograph, 1 is sharpest",
                    visible=has_slider,
                    elem_id="fidelity",
                )
                with gr.Accordion("More", open=False):
                    steps = gr.Slider(
                        1,
                        limits.steps,
                        value=model.preset.default_steps,
                        step=1,
                        label="Steps",
                        info="more steps draw more detail",
                        visible=not model.is_of_one_step,
                    )
                    seed = gr.Number(
                        0,
                        label="Seed",
                        precision=0,
                        minimum=0,
                        visible=not model.is_of_one_step or is_random(model.preset, 1),
                    )
                    tags = gr.Textbox(
                        label="Tags",
                        placeholder="bird, branch",
                        info="what the pictures show; may stay empty",
                        visible=model.preset.tag_count > 0,
                    )
                button = gr.Button("Enlarge", variant="primary", elem_id="enlarge")
                gr.Examples([[[str(_EXAMPLE)]]], [files], example_labels=["Osprey"])
            with gr.Column(scale=2, min_width=300):
                choice = gr.Dropdown(
                    [], label="Picture", visible=False, elem_id="choice"
                )
                slider = gr.ImageSlider(
                    label="Before and after",
                    type="pil",
                    format="webp",
                    interactive=False,
                    max_height=600,
                    elem_id="compare",
                )
                results = gr.File(
                    label="Results", file_count="multiple", elem_id="results"
                )
        button.click(
            enlarge,
            [files, fidelity, steps, seed, tags],
            [pairs, choice, slider, results],
            api_visibility="private",
        )
        choice.input(look, [choice, pairs], slider, api_visibility="private")
    return page


def _run(
    upscaler: Upscaler,
    files: Sequence[str],
    tags: str,
    folder: Path,
    limits: PageLimits,
    settings: dict[str, Any],
) -> Iterator[Output | Failure]:
    """Upscales uploaded files into a new folder below `folder`."""
    _remove_old(folder)
    results = Path(tempfile.mkdtemp(prefix="results-", dir=folder))
    plan = make_plan(list(files), str(results), naming=Naming(_SUFFIX))
    yield from plan.failures
    known = upscaler.select_tags(tags or "")
    yield from upscale_files(
        upscaler,
        plan.jobs,
        find_tags=lambda pixels: known,
        files=FileOptions(max_pixels=limits.megapixels * 1_000_000),
        **settings,
    )


def _remove_old(folder: Path) -> None:
    for path in folder.glob("results-*"):
        if time.time() - path.stat().st_mtime > _KEPT_SECONDS:
            shutil.rmtree(path, ignore_errors=True)


def _seed(number: float | None) -> int:
    return int(number or 0) % _SEEDS


def _reason(failure: Failure) -> str:
    """Returns what went wrong without the server's names of files."""
    return failure.error.removeprefix(f"{failure.input}: ").replace(
        str(Path(failure.input).parent) + os.sep, ""
    )


def _preview(before: str, after: str) -> tuple[PIL.Image.Image, PIL.Image.Image]:
    """Returns both pictures at one size, that of the larger or what fits a screen."""
    small, large = (
        PIL.Image.fromarray(image_io.read_image(path, refuse=frozenset()).rgb)
        for path in (before, after)
    )
    large.thumbnail((_PREVIEW_SIDE, _PREVIEW_SIDE))
    # Pixels as they are: any smoother enlargement would be a model, too.
    return small.resize(large.size, PIL.Image.Resampling.NEAREST), large
