"""Images: read them, fit their distribution, and use it."""

from bijectory.apps.images.fit import ImageFit, fit_images, image_config, load_images
from bijectory.apps.images.model import ImageFlow
from bijectory.apps.images.read import Images, grid, holds_images, read_images, write_grid
from bijectory.apps.images.schema import ImageSchema

__all__ = [
    "ImageFit",
    "ImageFlow",
    "ImageSchema",
    "Images",
    "fit_images",
    "grid",
    "holds_images",
    "image_config",
    "load_images",
    "read_images",
    "write_grid",
]
