"""One module for each library: ``build(family, features)`` returns an object with the operations that the library has.

Every contestant has the same architecture: couplings with alternating halves or autoregressive layers with the order
reversed in turn, two hidden layers of 128 ReLU units, 8 spline bins on [-5, 5]. Where a library cannot express that exactly
(flowjax permutes instead of reversing, distrax has no autoregressive layer) the difference costs or saves next to nothing.

The continuous flow has a velocity of two hidden layers of 64 tanh units, three frequencies of time, random weights of one
rule. Each library solves it its own way; its ``error`` is that against float64 and a far finer solution, so that speeds can
be compared at equal error. FFJORD (torchdiffeq) estimates the trace with one probe and its error leaves that noise out.

Images are 3 x 32 x 32 normal noise (``features`` 3072): three scales of four steps of Glow (actnorm, 1x1 convolution, affine
coupling of channels with a network of 3x3, 1x1, 3x3 convolutions and 64 channels), without the split priors of the recipe
(``glow_recipe`` has them: two networks more, a quarter more work). Residual flows have four layers with networks of two
hidden layers of 64; normflows bounds each linear layer by power iterations, ours the whole block exactly; both estimate the
log-determinant by a roulette with one probe, as in training. Planar layers act on noise, so that draws have a closed form;
log-densities are roots, which the peers do not have. A step of ``variational`` training draws from the flow and descends the
reverse divergence from a standard normal.

``parameters`` counts what is trained; libraries differ by masked weights (counted with the rest), flowjax and distrax by end
slopes of splines, and that is printed beside every time. ``error`` is the largest difference of a log-density from the same
weights in float64 (none for estimates).
"""

COUPLINGS, AUTOREGRESSIVE, HIDDEN, BINS, BOUND, PLANAR = 6, 5, (128, 128), 8, 5.0, 16
VELOCITY, FREQUENCIES, TOLERANCE = (64, 64), 3, 1e-5
IMAGE, SCALES, STEPS, CHANNELS = (3, 32, 32), 3, 4, 64
RESIDUAL, CONTRACTION = 4, (64, 64)
PIXELS = 3 * 32 * 32
FAMILIES = ("real_nvp", "nsf_coupling", "maf", "nsf_ar", "planar", "cnf", "residual", "glow", "glow_recipe")
OPERATIONS = ("log_prob", "train", "sample", "sample_log_prob", "variational")


def event_shape(features: int) -> tuple[int, ...]:
    """Shape of one event: a vector, or an image."""
    return IMAGE if features == PIXELS else (features,)


def applies(family: str, features: int, batch: int) -> bool:
    """Whether a cell exists: images for Glow and for it alone, in batches that fit a machine."""
    image = family.startswith("glow")
    return batch <= 512 if image and features == PIXELS else image == (features == PIXELS)
