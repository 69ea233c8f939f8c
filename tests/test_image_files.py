"""Images from files: what is read, and what is refused with which remedy."""

import numpy as np
import pytest
from PIL import Image

from bijectory.apps import ImageSchema, read_images, run_kind
from bijectory.apps.images import holds_images, write_grid
from bijectory.apps.images.schema import find_layout, find_levels, to_levels
from bijectory.errors import CheckpointError, ConfigError, ContextError, DataError, DomainError, NonFiniteError
from images_support import blobs, write_idx


def save_png(folder, images, name="{:02d}.png"):
    folder.mkdir(parents=True, exist_ok=True)
    for k, image in enumerate(images):
        Image.fromarray(image).save(folder / name.format(k))


def test_numpy_files(tmp_path):
    x, y = blobs(5)
    np.save(tmp_path / "a.npy", x)
    np.savez(tmp_path / "b.npz", images=x, labels=y)
    np.savez(tmp_path / "c.npz", pixels=x)
    np.savez(tmp_path / "d.npz", x_train=x, y_train=y[:, None])
    for name, labelled in (("a.npy", False), ("b.npz", True), ("c.npz", False), ("d.npz", True)):
        found = read_images(tmp_path / name)
        np.testing.assert_array_equal(found.images, x)
        np.testing.assert_array_equal(found.labels, y if labelled else None)
        assert holds_images(tmp_path / name)


@pytest.mark.parametrize("end", ["", ".gz"])
def test_idx_with_the_labels_beside_it(tmp_path, end):
    x, y = blobs(7)
    write_idx(tmp_path / f"t10k-images-idx3-ubyte{end}", x)
    path = tmp_path / f"t10k-images-idx3-ubyte{end}"
    assert read_images(path).labels is None
    write_idx(tmp_path / f"t10k-labels-idx1-ubyte{end}", y)
    found = read_images(path)
    np.testing.assert_array_equal(found.images, x)
    np.testing.assert_array_equal(found.labels, y)
    assert holds_images(path)
    with pytest.raises(DataError, match="images-idx3 file"):
        read_images(tmp_path / f"t10k-labels-idx1-ubyte{end}")


def test_a_folder_of_pictures_grey_colour_and_by_class(tmp_path):
    x, _ = blobs(4)
    colour, _ = blobs(4, channels=3)
    save_png(tmp_path / "grey", x)
    found = read_images(tmp_path / "grey")
    np.testing.assert_array_equal(found.images, x)
    assert found.names == ("00.png", "01.png", "02.png", "03.png")
    save_png(tmp_path / "colour", colour)
    np.testing.assert_array_equal(read_images(tmp_path / "colour").images, colour)
    Image.fromarray(x[0]).save(tmp_path / "colour" / "grey.png")
    assert read_images(tmp_path / "colour").images.shape == (5, 4, 4, 3)
    for name in ("cat", "dog"):
        save_png(tmp_path / "classes" / name, x[:2])
    assert read_images(tmp_path / "classes").labels.tolist() == ["cat", "cat", "dog", "dog"]
    Image.fromarray(x[0] > 0).save(tmp_path / "grey" / "bits.png")
    np.testing.assert_array_equal(read_images(tmp_path / "grey").images[-1], 255 * (x[0] > 0))


def refused(path, *words, error=DataError):
    with pytest.raises(error) as caught:
        read_images(path)
    for word in words:
        assert word in str(caught.value)


def test_refusals(tmp_path):
    refused(tmp_path / "nope.npz", "no file or folder")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "empty")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "train-images-idx3-ubyte.gz").write_text("x")
    refused(tmp_path / "text", "train-images-idx3-ubyte.gz", "Pass a file in it")
    save_png(tmp_path / "mixed", [np.zeros((4, 4), np.uint8), np.zeros((4, 5), np.uint8)])
    refused(tmp_path / "mixed", "differ in size", "00.png is 4 x 4", "01.png is 5 x 4")
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "a.png").write_bytes(b"no picture")
    refused(tmp_path / "fake", "a.png", "not a picture")
    (tmp_path / "deep").mkdir()
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep" / "a.png")
    refused(tmp_path / "deep", "8 bits")
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n")
    refused(tmp_path / "rows.csv", "no file of images")
    np.save(tmp_path / "flat.npy", np.zeros((5, 3)))
    refused(tmp_path / "flat.npy", "(5, 3)", "expected (n, height, width)")
    np.savez(tmp_path / "two.npz", a=np.zeros((5, 3, 3)), b=np.zeros((5, 3, 3)))
    refused(tmp_path / "two.npz", "call the one to use 'images'")
    np.savez(tmp_path / "labels.npz", images=np.zeros((5, 3, 3)), labels=np.zeros(4))
    refused(tmp_path / "labels.npz", "5 images", "(4,)")
    (tmp_path / "bad.npz").write_bytes(b"PK\3\4 no archive")
    refused(tmp_path / "bad.npz", "not a readable NumPy file")
    write_idx(tmp_path / "short-idx3-ubyte", np.zeros((5, 3, 3)))
    whole = (tmp_path / "short-idx3-ubyte").read_bytes()
    (tmp_path / "short-idx3-ubyte").write_bytes(whole[:-1])
    refused(tmp_path / "short-idx3-ubyte", "60 bytes", "announces 61")
    write_idx(tmp_path / "packed.gz", np.zeros((50, 3, 3)))
    packed = (tmp_path / "packed.gz").read_bytes()
    (tmp_path / "packed.gz").write_bytes(packed[:-9])
    refused(tmp_path / "packed.gz", "damaged gzip")
    for name in ("rows.csv", "flat.npy", "bad.npz", "nope.npz"):
        assert not holds_images(tmp_path / name)


def test_layout_is_decided_by_the_shape():
    assert find_layout((5, 28, 28)) == "HW"
    assert find_layout((5, 32, 32, 3)) == "HWC"
    assert find_layout((5, 3, 32, 32)) == "CHW"
    assert find_layout((5, 1, 28, 28)) == "CHW"
    assert find_layout((5, 3, 4, 4)) == "HWC"  # both ends are small: the last wins
    for shape in ((5, 28), (5, 28, 28, 28), (5, 2, 3, 4, 5)):
        with pytest.raises(DataError, match="expected"):
            find_layout(shape)


def test_levels():
    assert find_levels(np.array([0, 16.0])) == 17
    assert find_levels(np.array([0, 255], np.uint8)) == find_levels(np.array([0, 100])) == 256
    assert find_levels(np.array([0.0, 0.5])) == 256
    np.testing.assert_array_equal(to_levels(np.array([[0.0, 0.5, 1.0]]), 256), [[0, 128, 255]])
    np.testing.assert_array_equal(to_levels(np.array([[0.0, 16.0]]), 17), [[0, 16]])
    with pytest.raises(DomainError, match=r"image 1.*expected 0 ... 16"):
        to_levels(np.array([[0, 16], [0, 17]]), 17)
    with pytest.raises(DomainError, match="floats in"):
        to_levels(np.array([[-0.5, 0.5]]), 256)
    with pytest.raises(NonFiniteError, match="image"):
        to_levels(np.array([[0.0, np.nan]]), 256)
    with pytest.raises(ConfigError, match="65536"):
        to_levels(np.array([[0, 1]]), 1)


def test_schema(tmp_path):
    schema = ImageSchema(shape=(3, 4, 5), levels=8, layout="HWC", classes=("cat", "dog"), counts=(3, 1), images=4)
    schema.save(tmp_path / "schema.json")
    assert ImageSchema.load(tmp_path / "schema.json") == schema
    assert run_kind(tmp_path) == "image"
    x = np.random.default_rng(0).integers(0, 8, (6, 4, 5, 3))
    levels = schema.encode(x)
    assert levels.shape == (6, 3, 4, 5)
    np.testing.assert_array_equal(schema.decode(levels), x)
    np.testing.assert_array_equal(schema.context(["dog", "cat"]), [[0, 1], [1, 0]])
    np.testing.assert_array_equal(schema.context("dog", 2), [[0, 1], [0, 1]])
    for labels, words in ((None, "give a label: cat, dog"), ("cow", "unknown label cow"), (["cat"] * 2, "2 labels")):
        with pytest.raises(ContextError, match=words):
            schema.context(labels, 3)
    with pytest.raises(DataError, match=r"takes \(n, 4, 5, 3\)"):
        schema.encode(x[0])
    (tmp_path / "schema.json").write_text('{"kind": "image", "shape": [1]}')
    with pytest.raises(CheckpointError, match="not a valid schema"):
        ImageSchema.load(tmp_path / "schema.json")


def test_numbers_and_names_of_classes():
    schema = ImageSchema(shape=(1, 4, 4), levels=8, layout="HW", classes=(0, 7), counts=(1, 1))
    for label in (7, "7", 7.0, np.int64(7)):
        np.testing.assert_array_equal(schema.context(label, 1), [[0, 1]])


def test_a_grid_shows_every_image(tmp_path):
    x = np.zeros((5, 4, 4), np.uint8)
    x[3] = 7
    write_grid(tmp_path / "grid.png", x, levels=8, columns=3)
    picture = np.asarray(Image.open(tmp_path / "grid.png"))
    assert picture.shape == (11, 16, 3)
    assert (picture[6:10, 1:5] == 255).all()
    assert (picture[1:5, 1:5] == 0).all()
