"""Batches: whatever happens to one image, the others are done, in order."""

import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from linearsr_jax.core import image_io
from linearsr_jax.inference import batch
from linearsr_jax.inference.batch import Output, upscale_files
from linearsr_jax.inference.batch_files import FileOptions
from linearsr_jax.inference.batch_inputs import Failure
from linearsr_jax.inference.batch_plan import Job


class FakeUpscaler:
    """Repeats pixels; raises what is asked for at an image of that brightness."""

    def __init__(self, errors=()):
        self.errors = dict(errors)

    def select_tags(self, tags):
        return tuple(tags)

    def __call__(self, image, *, tags):
        if error := self.errors.get(int(image.pixels[0, 0, 0])):
            raise error
        return image.__class__(image.pixels.repeat(4, axis=0).repeat(4, axis=1))


@pytest.fixture
def jobs(tmp_path):
    made = []
    for level in range(6):
        path = tmp_path / f"{level}.png"
        Image.new("RGB", (3, 2), (level, 0, 0)).save(path)
        made.append(Job(path, tmp_path / "out" / path.name))
    return made


def run(jobs, errors=(), overwrite=False):
    upscaler = FakeUpscaler(errors)
    options = {
        "files": FileOptions(overwrite=overwrite),
        "find_tags": lambda pixels: ["bird"],
    }
    return list(upscale_files(upscaler, jobs, **options))


def test_outputs_in_order(jobs):
    outputs = run(jobs)
    assert [each.input for each in outputs] == [str(job.source) for job in jobs]
    assert {(each.width, each.height, each.tags) for each in outputs} == {
        (12, 8, ("bird",))
    }
    for level, job in enumerate(jobs):
        assert Image.open(job.target).getpixel((11, 7)) == (level, 0, 0)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (MemoryError(), "out of memory: MemoryError"),
        (MemoryError(), "close other programs"),
        (
            type("XlaRuntimeError", (RuntimeError,), {})("RESOURCE_EXHAUSTED: 5 GB"),
            "close other programs",
        ),
        (KeyError("x\ny"), "KeyError: 'x\\ny'; this is a bug"),
        (image_io.ImageError("a.png", "is odd"), "a.png: is odd"),
        (ValueError(), "ValueError"),
        (RecursionError("deep"), "this is a bug"),
    ],
)
@pytest.mark.parametrize("place", [0, 2, 5])
def test_any_error_concerns_one_image(jobs, error, text, place):
    results = run(jobs, {place: error})
    assert [type(each) for each in results] == [
        Failure if index == place else Output for index in range(6)
    ]
    assert text in results[place].error
    assert "\n" not in results[place].error
    assert [job.target.exists() for job in jobs].count(True) == 5


def test_unreadable_and_unwritable_images(jobs):
    jobs[1].source.write_text("no image")
    jobs[2].source.unlink()
    jobs[3].target.parent.mkdir()
    jobs[3].target.write_text("was there before")
    results = run(jobs)
    assert [type(each) for each in results] == [
        Output,
        Failure,
        Failure,
        Failure,
        Output,
        Output,
    ]
    assert jobs[3].target.read_text() == "was there before"
    assert type(run(jobs[3:4], overwrite=True)[0]) is Output


def test_all_fail(jobs):
    for job in jobs:
        job.source.write_text("no image")
    assert [type(each) for each in run(jobs)] == [Failure] * 6


def test_reading_and_writing_happen_while_an_image_computes(jobs, monkeypatch):
    """The second image starts only when the third was read and the first written."""
    read, written = threading.Event(), threading.Event()

    class Waiting(FakeUpscaler):
        def __call__(self, image, *, tags):
            if image.pixels[0, 0, 0] == 1:
                assert read.wait(20)
                assert written.wait(20)
            return super().__call__(image, tags=tags)

    read_image, write_image = image_io.read_image, image_io.write_image

    def note_read(path, **kwargs):
        image = read_image(path, **kwargs)
        if Path(path).name == "2.png":
            read.set()
        return image

    def note_write(path, *args, **kwargs):
        write_image(path, *args, **kwargs)
        written.set()

    monkeypatch.setattr(image_io, "read_image", note_read)
    monkeypatch.setattr(image_io, "write_image", note_write)
    options = {"files": FileOptions(), "find_tags": lambda pixels: []}
    results = list(upscale_files(Waiting(), jobs, **options))
    assert [type(each) for each in results] == [Output] * 6


def test_a_large_image_waits_for_the_last_one_to_be_written(jobs, monkeypatch):
    monkeypatch.setattr(batch, "_OVERLAPPED_PIXELS", 1)
    seen = []

    class Looking(FakeUpscaler):
        def __call__(self, image, *, tags):
            seen.append([job.target.exists() for job in jobs].count(True))
            return super().__call__(image, tags=tags)

    list(
        upscale_files(Looking(), jobs, files=FileOptions(), find_tags=lambda pixels: [])
    )
    assert seen == [0, 1, 2, 3, 4, 5]


def test_pictures_are_not_kept(jobs):
    """A batch of thousands must not grow."""
    import gc
    import weakref

    alive = []

    class Counting(FakeUpscaler):
        def __call__(self, image, *, tags):
            result = super().__call__(image, tags=tags)
            alive.append(weakref.ref(result))
            gc.collect()
            assert sum(ref() is not None for ref in alive) <= 3
            return result

    results = upscale_files(
        Counting(), jobs, files=FileOptions(), find_tags=lambda pixels: []
    )
    assert [type(each) for each in results] == [Output] * 6
    assert np.all([job.target.exists() for job in jobs])
