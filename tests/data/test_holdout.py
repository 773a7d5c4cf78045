"""Which photographs are held out."""

import numpy as np
import pytest

from linearsr_jax.data.holdout import split_manifest
from linearsr_jax.data.manifest import Manifest


def manifest(count, sizes=None):
    names = tuple(f"{i:03d}.png" for i in range(count))
    return Manifest(names, sizes or ((100, 80),) * count, {"bad.png": "broken"})


@pytest.mark.parametrize(
    ("count", "share", "expected"),
    [(20, 0.1, 2), (95, 0.1, 10), (2, 0.9, 1), (3, 0.1, 1)],
)
def test_share(count, share, expected):
    whole = manifest(count)
    kept, held_out = split_manifest(whole, share, 64)
    assert len(held_out) == expected
    assert set(kept.files) | set(held_out.files) == set(whole.files)
    assert len(kept) + len(held_out) == count
    assert list(kept.files) == sorted(kept.files)


def test_the_choice_is_of_the_name_only():
    _, held_out = split_manifest(manifest(50), 0.1, 64)
    fewer = Manifest((*held_out.files, "x.png"), (*held_out.sizes, (99, 99)))
    _, again = split_manifest(fewer, 0.8, 64)
    # Those that come first among fifty come first among any of them.
    assert len(set(again.files) & set(held_out.files)) >= len(held_out) - 1
    assert split_manifest(manifest(50), 0.1, 64)[1] == held_out


def test_sizes_go_with_their_files():
    sizes = tuple((70 + i, 200) for i in range(30))
    for part in split_manifest(manifest(30, sizes), 0.3, 64):
        for name, size in zip(part.files, part.sizes, strict=True):
            assert size == sizes[int(name[:3])]


def test_the_choice_has_no_stride_or_end():
    _, held_out = split_manifest(manifest(200), 0.5, 64)
    indices = np.array([int(name[:3]) for name in held_out.files])
    assert 60 < np.mean(indices) < 140
    assert len(set(np.diff(indices))) > 3


def test_small_photographs_are_only_trained_on():
    sizes = ((100, 80),) * 3 + ((63, 500),) * 7
    _, held_out = split_manifest(manifest(10, sizes), 0.9, 64)
    assert set(held_out.files) <= {"000.png", "001.png", "002.png"}


@pytest.mark.parametrize(
    ("photographs", "share", "message"),
    [
        (manifest(1), 0.1, "at least 2 usable"),
        (manifest(5), 1.0, "between 0 and 1"),
        (manifest(4, ((50, 50),) * 4), 0.1, "with 64 pixels or more .* 4 and 0"),
    ],
)
def test_errors(photographs, share, message):
    with pytest.raises(ValueError, match=message):
        split_manifest(photographs, share, 64)
