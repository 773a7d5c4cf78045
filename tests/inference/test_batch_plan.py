"""Plans of batches: what goes where, what is left out and what is refused."""

import itertools
import os

import numpy as np
import pytest

from linearsr_jax.core.image_io import write_image
from linearsr_jax.core.images import Image
from linearsr_jax.inference.batch_inputs import PlanError
from linearsr_jax.inference.batch_plan import Naming, make_plan
from linearsr_jax.inference.manifest import Manifest


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    """A working directory with images (empty files do for planning) and other files."""
    monkeypatch.chdir(tmp_path)
    for name in (
        "in/a.jpg",
        "in/B.PNG",
        "in/notes.txt",
        "in/.hidden.png",
        "in/.git/x.png",
        "in/deep/c.webp",
        "in/deep/deeper/d.gif",
        "in/deep/deeper/e.tif",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def pairs(plan):
    return [(str(job.source), str(job.target)) for job in plan.jobs]


def touch(*names):
    for name in names:
        os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
        open(name, "w").close()


def test_folder():
    plan = make_plan(["in"], "out")
    assert pairs(plan) == [("in/B.PNG", "out/B.PNG"), ("in/a.jpg", "out/a.jpg")]
    assert [skip.input for skip in plan.skipped] == ["in/notes.txt"]
    assert plan.failures == ()


def test_folders_inside_are_mirrored():
    plan = make_plan(["in"], "out", recursive=True)
    assert pairs(plan)[2:] == [
        ("in/deep/c.webp", "out/deep/c.webp"),
        ("in/deep/deeper/d.gif", "out/deep/deeper/d.png"),
        ("in/deep/deeper/e.tif", "out/deep/deeper/e.tif"),
    ]
    assert [skip.input for skip in plan.skipped] == ["in/notes.txt"]


def test_patterns_keep_the_place_below_their_fixed_part():
    assert pairs(make_plan(["in/*.jpg"], "out")) == [("in/a.jpg", "out/a.jpg")]
    plan = make_plan(["in/**/*.[tw]*"], "out")
    assert pairs(plan) == [
        ("in/deep/c.webp", "out/deep/c.webp"),
        ("in/deep/deeper/e.tif", "out/deep/deeper/e.tif"),
    ]
    assert [skip.input for skip in plan.skipped] == ["in/notes.txt"]
    (failure,) = make_plan(["in/*.bmp"], "out").failures
    assert (failure.input, failure.error) == ("in/*.bmp", "matches no image")


@pytest.mark.parametrize(
    ("recursive", "reason"),
    [
        (False, "no images in this folder; name another, or add --recursive"),
        (True, "no images in or below this folder; name another"),
    ],
)
def test_an_empty_folder(recursive, reason):
    os.mkdir("empty")
    (failure,) = make_plan(["empty"], "out", recursive=recursive).failures
    assert failure.error == reason


def test_patterns_see_no_hidden_files_and_follow_no_links():
    os.symlink("..", "in/deep/back")  # glob's "**" goes round in it
    os.symlink("deep", "in/link")
    assert pairs(make_plan(["in/**/*.png"], "out")) == []
    for pattern in ("in/**", "in/**/*"):
        found = [source for source, _ in pairs(make_plan([pattern], "out"))]
        assert found == [
            "in/B.PNG",
            "in/a.jpg",
            "in/deep/c.webp",
            "in/deep/deeper/d.gif",
            "in/deep/deeper/e.tif",
        ]
    found = [source for source, _ in pairs(make_plan(["in/*/*"], "out"))]
    assert found == ["in/deep/c.webp"]
    assert len(make_plan(["in/.h*"], "out").jobs) == 1
    for pattern in ("in/a**g", "in/a***g", "in/***.jpg"):
        assert pairs(make_plan([pattern], "out")) == [("in/a.jpg", "out/a.jpg")]
    # A dot that is named counts, also behind "**".
    touch("in/deep/.thumbs/t.png")
    for pattern in ("in/**/.thumbs/*", "in/*/.thumbs/t.*"):
        found = pairs(make_plan([pattern], "out"))
        assert found == [("in/deep/.thumbs/t.png", "out/deep/.thumbs/t.png")]


def test_a_file_whose_name_looks_like_a_pattern():
    touch("in/x[1].png")
    assert pairs(make_plan(["in/x[1].png"], "out")) == [("in/x[1].png", "out/x[1].png")]


def test_one_image_to_a_file_or_a_folder():
    assert pairs(make_plan(["in/a.jpg"], "b.png")) == [("in/a.jpg", "b.png")]
    assert pairs(make_plan(["in/a.jpg"], "b")) == [("in/a.jpg", "b/a.jpg")]
    assert pairs(make_plan(["in/a.jpg"], "b.c/")) == [("in/a.jpg", "b.c/a.jpg")]
    os.mkdir("d.png")
    assert pairs(make_plan(["in/a.jpg"], "d.png")) == [("in/a.jpg", "d.png/a.jpg")]


def test_streams():
    (job,) = make_plan(["-"], "-").jobs
    assert (job.source, job.target) == (None, None)
    assert pairs(make_plan(["in/a.jpg"], "-")) == [("in/a.jpg", "None")]
    assert pairs(make_plan(["-", "in/a.jpg"], "out")) == [
        ("None", "out/stdin.png"),
        ("in/a.jpg", "out/a.jpg"),
    ]


@pytest.mark.parametrize(
    ("inputs", "output", "message"),
    [
        ([""], "out", "no name"),
        (["in/a.jpg"], "", "no name"),
        (["-", "-"], "out", "read once"),
        (["in"], "x.png", "takes one image"),
        (["in"], "-", "takes one image"),
        (["in/a.jpg", "in/B.PNG"], "x.png", "takes one image"),
        (["in", "in/a.jpg"], "-", "takes one image"),
        (["in"], "in/notes.txt", "is a file"),
        (["in"], "in", "the folder of the inputs"),
        (["in"], "./in/deep/..", "the folder of the inputs"),
    ],
)
def test_what_does_not_go_together(inputs, output, message):
    with pytest.raises(PlanError, match=message):
        make_plan(inputs, output)


def test_missing_inputs_do_not_stop_the_others():
    os.mkdir("empty")
    plan = make_plan(["absent", "empty", "in/a.jpg", "gone.png"], "out")
    assert pairs(plan) == [("in/a.jpg", "out/a.jpg")]
    assert [failure.input for failure in plan.failures] == [
        "absent",
        "empty",
        "gone.png",
    ]


def test_unreadable_folders_are_failures(monkeypatch):
    """Simulated: the superuser may read all."""
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("deeper"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    plan = make_plan(["in"], "out", recursive=True)
    assert len(plan.jobs) == 3
    (failure,) = plan.failures
    assert failure.input == "in/deep/deeper"
    assert failure.error == "Permission denied"


def test_outputs_that_would_share_a_name():
    touch("in/a.PNG", "in/a.tif", "other/a.jpg", "in/a_jpg.png")
    naming = Naming(image_suffix=".png")
    plan = make_plan(["in", "other"], "out", naming=naming)
    expected = {
        "in/B.PNG": "out/B.png",
        "in/a.PNG": "out/a_png.png",
        "in/a.jpg": "out/a_jpg.png",
        "in/a.tif": "out/a_tif.png",
        "in/a_jpg.png": "out/a_jpg_png.png",
        "other/a.jpg": "out/a_2.png",
    }
    assert dict(pairs(plan)) == expected
    assert dict(pairs(make_plan(["in", "other"], "out", naming=naming))) == expected


def test_the_same_input_twice_is_done_once():
    assert len(make_plan(["in/a.jpg", "./in/a.jpg", "in"], "out").jobs) == 2


def test_names_that_differ_in_capitals_only():
    touch("in/A.jpg")
    targets = [target.casefold() for _, target in pairs(make_plan(["in"], "out"))]
    assert len(set(targets)) == 3


def test_outputs_inside_the_inputs_are_no_inputs():
    touch("in/big/a.jpg", "in/big/old.png")
    plan = make_plan(["in"], "in/big", recursive=True)
    assert not [source for source, _ in pairs(plan) if source.startswith("in/big")]
    plan = make_plan(["in/**/*.png"], "in/big", recursive=True)
    assert not [source for source, _ in pairs(plan) if source.startswith("in/big")]


def test_suffix_in_the_folder_of_the_inputs():
    naming = Naming("_x4")
    first = make_plan(["in"], "in", naming=naming)
    assert pairs(first) == [("in/B.PNG", "in/B_x4.PNG"), ("in/a.jpg", "in/a_x4.jpg")]
    touch("in/B_x4.PNG")
    again = make_plan(["in"], "in", naming=naming)
    assert pairs(again) == [("in/a.jpg", "in/a_x4.jpg")]
    # As a shell gives them.
    again = make_plan(["in/B.PNG", "in/B_x4.PNG", "in/a.jpg"], "in", naming=naming)
    assert pairs(again) == [("in/a.jpg", "in/a_x4.jpg")]
    assert not again.failures
    write_result("in/a_x4.png")
    for overwrite in (False, True):
        again = make_plan(
            ["in/a.jpg", "in/a_x4.png"],
            "in",
            naming=Naming("_x4", ".png"),
            overwrite=overwrite,
        )
        assert not again.failures
        expected = [("in/a.jpg", "in/a_x4.png")] if overwrite else []
        assert pairs(again) == expected
    with pytest.raises(PlanError, match="must not name a folder"):
        make_plan(["in"], "out", naming=Naming("/../x"))


def write_result(name, **settings):
    image = Image(np.zeros((2, 2, 1), np.uint8))
    comment = Manifest("nano", "0", settings).to_json()
    write_image(name, image, comment=comment, overwrite=True)


def test_results_of_other_settings_are_not_enlarged_again():
    write_result("in/a_x2.png")
    touch("in/bmp_x2.bmp")
    with open("in/bmp_x2.bmp.json", "w") as file:
        file.write(Manifest("nano", "0").to_json())
    plan = make_plan(["in"], "in", naming=Naming("_x4"))
    assert [source for source, _ in pairs(plan)] == ["in/B.PNG", "in/a.jpg"]
    reasons = {skip.input: skip.reason for skip in plan.skipped}
    assert "is an output" in reasons["in/a_x2.png"]
    assert "is an output" in reasons["in/bmp_x2.bmp"]
    # Unless they are named, or go elsewhere.
    for inputs in (["in/a_x2.png"], ["in", "in/a_x2.png"]):
        found = pairs(make_plan(inputs, "in", naming=Naming("_x4")))
        assert ("in/a_x2.png", "in/a_x2_x4.png") in found
    assert len(make_plan(["in"], "out").jobs) == 4


class TestMaps:
    """Maps of uncertainty, which lie beside outputs."""

    naming = Naming(has_map=True)

    def test_names_are_shared_with_no_output(self):
        touch("in/a_uncertainty.png")
        plan = make_plan(["in"], "out", naming=self.naming)
        found = {str(job.target): str(job.uncertainty) for job in plan.jobs}
        assert found == {
            "out/B.PNG": "out/B_uncertainty.png",
            "out/a_jpg.jpg": "out/a_jpg_uncertainty.png",
            "out/a_uncertainty_png.png": "out/a_uncertainty_png_uncertainty.png",
        }

    def test_no_input_is_replaced(self):
        touch("x_uncertainty.png")
        plan = make_plan(
            ["x_uncertainty.png"], "x.png", naming=self.naming, overwrite=True
        )
        assert plan.jobs == ()
        assert "x_uncertainty.png is an input itself" in plan.failures[0].error

    def test_only_a_map_of_an_earlier_run_is_replaced(self):
        touch("x_uncertainty.png")
        plan = make_plan(["in/a.jpg"], "x.jpg", naming=self.naming)
        assert "x_uncertainty.png: exists already" in plan.failures[0].error
        # An image of that name, enlarged before.
        write_result("x_uncertainty.png")
        plan = make_plan(["in/a.jpg"], "x.jpg", naming=self.naming)
        assert "x_uncertainty.png: exists already" in plan.failures[0].error
        write_result("y_uncertainty.png", uncertainty=2)
        assert make_plan(["in/a.jpg"], "y.jpg", naming=self.naming).jobs


def test_a_file_with_the_name_of_a_manifest():
    touch("x.bmp.json")
    plan = make_plan(["in/a.jpg"], "x.bmp")
    assert "x.bmp.json: exists already" in plan.failures[0].error
    assert make_plan(["in/a.jpg"], "x.bmp", overwrite=True).jobs
    with open("x.bmp.json", "w") as file:
        file.write(Manifest("nano", "0").to_json())
    assert make_plan(["in/a.jpg"], "x.bmp").jobs


def test_existing_outputs():
    touch("out/a.jpg", "b.png")
    plan = make_plan(["in"], "out")
    assert pairs(plan) == [("in/B.PNG", "out/B.PNG")]
    assert plan.skipped[-1].reason == "the output exists"
    assert len(make_plan(["in"], "out", overwrite=True).jobs) == 2
    (failure,) = make_plan(["in/a.jpg"], "b.png").failures
    assert "--overwrite" in failure.error
    plan = make_plan(["in/a.jpg"], "b.png", skip_existing=True)
    assert (len(plan.jobs), len(plan.skipped), plan.failures) == (0, 1, ())


@pytest.mark.parametrize("link", [None, os.symlink, os.link])
def test_an_input_is_never_replaced(link):
    target = "in/a.jpg"
    if link:
        target = "in/link.jpg"
        link(os.path.abspath("in/a.jpg"), target)
    plan = make_plan(["in/a.jpg"], target, overwrite=True)
    assert plan.jobs == ()
    assert "never replaced" in plan.failures[0].error
    # Nor is an input that has the name of another's output.
    touch("in/a.png")
    naming = Naming(image_suffix=".png")
    for inputs in (["in/a.jpg", "in/a.png"], ["in/a.png", "in/a.jpg"]):
        plan = make_plan(inputs, "in", naming=naming, overwrite=True)
        assert "in/a.png" not in dict(pairs(plan)).values()
    naming = Naming("_x4", ".png")
    touch("in/a_x4.png")
    plan = make_plan(["in"], "in", naming=naming, overwrite=True)
    assert "in/a_x4.png" not in dict(pairs(plan)).values()
    with pytest.raises(PlanError, match="folder of the inputs"):
        make_plan(["in/*.jpg"], "in", overwrite=True)
    # Nor is another input.
    plan = make_plan(["in/a.jpg", "in/B.PNG"], "in", overwrite=True)
    assert plan.jobs == ()


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("in/notes.txt/out/x.png", "Not a directory"),
        ("in/notes.txt/x.png", "Not a directory"),
    ],
)
def test_refusals_before_the_work(output, message):
    (failure,) = make_plan(["in/a.jpg"], output).failures
    assert message in failure.error


def test_a_format_that_is_not_written_is_wrong_usage():
    for output in ("x.gif", "x.xyz"):
        with pytest.raises(PlanError, match=f"-o {output}: cannot write .* use one of"):
            make_plan(["in/a.jpg"], output)


def test_a_folder_of_outputs_may_have_a_dot():
    plan = make_plan(["in/*.jpg"], "results.v2")
    assert pairs(plan) == [("in/a.jpg", "results.v2/a.jpg")]


def test_shards_share_the_work():
    whole = make_plan(["in"], "out", recursive=True)
    parts = [
        pairs(make_plan(["in"], "out", recursive=True, shard=(i, 3))) for i in (1, 2, 3)
    ]
    assert sorted(itertools.chain(*parts)) == sorted(pairs(whole))
    assert [len(part) for part in parts] == [2, 2, 1]
