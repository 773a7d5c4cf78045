"""Reading curves: good files, hostile files, training logs."""

import json

import numpy as np
import pytest

from linearsr_jax.esgf.curve_files import CurveError, read_curve


def read(tmp_path, text, name="curve.csv", **options):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_curve(path, **options)


def test_csv(tmp_path):
    curve = read(
        tmp_path, "step,psnr,val_lpips_light\n100,20.5,0.4\n200,,0.3\n300,nan,inf\n"
    )
    np.testing.assert_array_equal(curve.steps, [100, 200, 300])
    np.testing.assert_array_equal(curve.metrics["psnr"], [20.5, np.nan, np.nan])
    np.testing.assert_array_equal(curve.metrics["val_lpips_light"], [0.4, 0.3, np.inf])
    assert curve.higher_is_better == {"psnr": True, "val_lpips_light": False}


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbfstep,psnr\r\n1,2\r\n3,4\r\n",  # BOM, CRLF
        " step , psnr \n 1 , 2 \n\n 3 ,4\n\n",  # spaces, blank lines
        '"step","psnr"\n"1","2"\n3.0,4e0',  # quotes, floats, no last newline
        "psnr,Step\n4,3\n2,1\n",  # other order of columns and rows
        "step,psnr\n1,2\n2,\n3,4\n",  # a row of empty cells: no evaluation
    ],
)
def test_forms_of_csv(tmp_path, text):
    curve = read(tmp_path, text)
    np.testing.assert_array_equal(curve.steps, [1, 3])
    np.testing.assert_array_equal(curve.metrics["psnr"], [2, 4])


@pytest.mark.parametrize(
    "name, is_higher",
    [
        ("PSNR", True),
        ("val_ssim_bicubic", True),
        ("musiq", True),
        ("maniqa-pipal", True),
        ("clip_iqa", True),
        ("train/loss", False),
        ("dists", False),
        ("niqe", False),
        ("FID", False),
    ],
)
def test_direction_follows_from_the_name(tmp_path, name, is_higher):
    curve = read(tmp_path, f"step,{name}\n1,2\n")
    assert curve.higher_is_better == {name: is_higher}


def test_direction_by_hand(tmp_path):
    text = "step,error,psnr,lossless\n1,2,3,4\n"
    curve = read(tmp_path, text, lower=["error", "psnr"], higher=["lossless"])
    assert curve.higher_is_better == {"error": False, "psnr": False, "lossless": True}
    with pytest.raises(CurveError, match=r"'error': are higher .* --lower error"):
        read(tmp_path, text)
    with pytest.raises(
        CurveError, match="'eror' is not a metric; there are error, psnr"
    ):
        read(tmp_path, text, lower=["eror"])
    with pytest.raises(CurveError, match="in both --lower and --higher; leave"):
        read(tmp_path, text, lower=["error"], higher=["error"])


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "is empty; its first line is step,<metric>,"),
        (" \n\n", "is empty"),
        ("step;psnr\n1;2\n", "line 1: needs one column called step; .* with commas"),
        (f"step,{'x' * 200_000}\n", "line 1: field larger than field limit"),
        ("iteration,psnr\n1,2\n", "line 1: needs one column called step"),
        ("step,step,psnr\n1,1,2\n", "line 1: needs one column called step"),
        ("step\n1\n", "line 1: has no metric"),
        ("step,psnr,psnr\n1,2,3\n", "line 1: column 'psnr' occurs twice"),
        ("step,psnr,\n1,2,3\n", "line 1: unnamed column"),
        ("step,psnr\n1,2\n1,3\n", "line 3: step 1 occurs twice"),
        ("step,psnr\n1,2\n2,good\n", "line 3: psnr is 'good', not a number"),
        ("step,psnr\n1,2,3\n", "line 2: has 3 cells, the header 2"),
        ("step,psnr\n1.5,2\n", "line 2: step is not a whole number"),
        ("step,psnr\n,2\n", "line 2: step is not a whole number"),
        ("step,psnr\ninf,2\n", "line 2: step is not a whole number"),
        ("step,psnr\n1e30,2\n", r"line 2: step is not a whole number below 2\^53"),
        # The nearest float is 2 ** 53.
        (f"step,psnr\n{2**53 + 1},2\n", "line 2: step is not a whole number"),
        (b"\x89PNG\x00\xff", "is not a text file"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path, text, message):
    with pytest.raises(CurveError, match=message) as caught:
        read(tmp_path, text)
    assert "curve.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_header_alone_is_an_empty_curve(tmp_path):
    curve = read(tmp_path, "step,psnr\n")
    assert len(curve.steps) == len(curve.metrics["psnr"]) == 0


def test_training_folder(tmp_path):
    rows = [
        {"step": 50, "loss": 0.9, "learning_rate": 1e-3},
        {"step": 100, "val_psnr_light": 26.0, "val_gain_light": 0.1},
        {"step": 200, "loss": 0.8},
        {"step": 200, "val_psnr_light": None, "val_lpips_light": 0.3},
    ]
    text = "\n".join(map(json.dumps, rows)) + '\n{"step": 250, "val_ps'
    (tmp_path / "metrics.jsonl").write_text(text)
    curve = read_curve(tmp_path)
    np.testing.assert_array_equal(curve.steps, [100, 200])
    np.testing.assert_array_equal(curve.metrics["val_psnr_light"], [26, np.nan])
    np.testing.assert_array_equal(curve.metrics["val_lpips_light"], [np.nan, 0.3])
    assert curve.higher_is_better["val_lpips_light"] is False
    assert set(curve.metrics) == {"val_psnr_light", "val_lpips_light"}


def test_the_newest_row_says_what_votes_and_what_is_better(tmp_path):
    rows = [
        {"step": 1, "val_odd_light": 3.0, "val_psnr_light": 20.0},  # before 0.2
        {
            "step": 2,
            "val_odd_light": 2.0,
            "val_psnr_light": 21.0,
            "val_odd_light_raw": 2.5,
            "higher_is_better": {"val_odd_light": False, "val_odd_light_raw": False},
            "voters": ["val_odd_light"],
        },
    ]
    text = "\n".join(map(json.dumps, rows))
    curve = read(tmp_path, text, name="metrics.jsonl")
    assert curve.higher_is_better == {"val_odd_light": False}
    np.testing.assert_array_equal(curve.metrics["val_odd_light"], [3, 2])
    asked = read(tmp_path, text, name="metrics.jsonl", higher=["val_psnr_light"])
    assert asked.higher_is_better == {"val_odd_light": False, "val_psnr_light": True}


def test_logs_that_do_not_say_what_votes(tmp_path):
    row = {
        "step": 1,
        "val_psnr_light": 20.0,
        "val_psnr_light_raw": 20.0,
        "val_gain_light": 1.0,
        "val_loss_at_110": 1.0,
    }
    curve = read(tmp_path, json.dumps(row), name="metrics.jsonl")
    assert curve.higher_is_better == {"val_psnr_light": True}


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"step": 1, "loss": 2}\n', "has no validations"),
        ("", "has no validations"),
        ('hello\n{"step": 1, "val_psnr": 2}\n', "line 1: is not a line of a log"),
        ('{"val_psnr": 2}\n{"step": 1, "val_psnr": 2}\n', "line 1: is not a line"),
        ('{"step": 1, "val_psnr": "x"}\n{"step": 2}', "line 1: val_psnr is 'x', not"),
        ('{"step": "1", "val_psnr": 1}\n{"step": 2}', "line 1: is not a line"),
        (f'{{"step": {10**30}, "val_psnr": 1}}', "line 1: step is not a whole number"),
        (f'{{"step": {10**400}, "val_psnr": 1}}', "line 1: step is '10*', not a num"),
        (f'{{"step": 1, "val_psnr": {10**400}}}', "line 1: val_psnr is '10*', not"),
    ],
)
def test_broken_logs(tmp_path, text, message):
    with pytest.raises(CurveError, match=message):
        read(tmp_path, text, name="metrics.jsonl")


def test_no_file(tmp_path):
    with pytest.raises(CurveError, match=r"not a training folder.* metrics\.jsonl"):
        read_curve(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"absent\.csv"):
        read_curve(tmp_path / "absent.csv")
