"""One module for each library: ``build(family, features)`` returns an object with the operations that the library has.

Every contestant has the same architecture: couplings with alternating halves or autoregressive layers with the order
reversed in turn, two hidden layers of 128 ReLU units, 8 spline bins on [-5, 5]. Where a library cannot express that exactly
(flowjax permutes instead of reversing, distrax has no autoregressive layer) the difference costs or saves next to nothing.

The continuous flow has a velocity of two hidden layers of 64 tanh units, three frequencies of time, random weights of one
rule. Each library solves it its own way; its ``error`` is that against float64 and a far finer solution, so that speeds can
be compared at equal error. FFJORD (torchdiffeq) estimates the trace with one probe and its error leaves that noise out.
"""

COUPLINGS, AUTOREGRESSIVE, HIDDEN, BINS, BOUND, PLANAR = 6, 5, (128, 128), 8, 5.0, 16
VELOCITY, FREQUENCIES, TOLERANCE = (64, 64), 3, 1e-5
FAMILIES = ("real_nvp", "nsf_coupling", "maf", "nsf_ar", "planar", "cnf")
OPERATIONS = ("log_prob", "train", "sample", "sample_log_prob")
