"""A photograph as a table, and back."""

import numpy as np
import pandas as pd

from bijectory.apps.photograph import bounds, paint, pixels, save_side_by_side


def picture(height=6, width=10):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_pixels_and_paint_are_inverse_up_to_the_noise():
    image = picture()
    rows = pixels(image)
    assert rows.shape == (60, 5)
    np.testing.assert_array_equal(paint(rows, 6, 10, shrink=1), image)
    np.testing.assert_array_equal(
        np.floor(pixels(image, seed=1)).sort_values(["x", "y"]), np.floor(rows).sort_values(["x", "y"])
    )


def test_rows_lie_within_their_bounds():
    image = picture()
    for name, (low, high) in bounds(image).items():
        assert pixels(image)[name].between(low, high, inclusive="left").all()


def test_shrinking_takes_the_mean_and_cells_without_rows_are_white():
    rows = pd.DataFrame(
        {"x": [0.1, 1.9], "y": [0.1, 1.9], "red": [10.0, 30.0], "green": [0.0, 0.0], "blue": [5.0, 5.0]}
    )
    small = paint(rows, 2, 4, shrink=2)
    assert small[0, 0].tolist() == [20, 0, 5]
    assert small[0, 1].tolist() == [255, 255, 255]


def test_side_by_side(tmp_path):
    from matplotlib.image import imread

    save_side_by_side(tmp_path / "p.png", picture(), picture(), gap=2)
    assert imread(tmp_path / "p.png").shape[:2] == (6, 22)
