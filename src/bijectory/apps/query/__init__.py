r"""Questions to a joint density: some columns when others are known, and some columns whatever the others.

A flow of a joint table has no closed form for :math:`p(r \mid k) = p(k, r) / p(k)`, where :math:`k` are the known columns,
:math:`r` the rest. Draws from it are made by *adaptive importance sampling*, in standardised units:

1. rows drawn from the joint that lie near the known values, moved onto them by a linear regression (Beaumont 2002), are the
   first guess of the rest;
2. the guess is smoothed into a mixture of Student-t kernels :math:`q(r)` (with the shrinkage of West 1993, which keeps its
   covariance), draws from it are weighted by :math:`w = p(k, r) / q(r)` and resampled, four times over;
3. fresh draws from the last mixture are weighted; the mean weight estimates :math:`p(k)` without bias, and draws resampled
   by weight are rows from :math:`p(r \mid k)`.

Where these weights are worth too few draws, or their Pareto shape is above its limit (many unknown columns), *Markov chains*
take over: Hamiltonian moves on the rest by the gradient of the exact joint density, in coordinates whitened by the last
mixture, with draws of the mixture proposed in between so that chains cross between modes. Half of them start from the
weighted draws and half from the first guess, and split R-hat says whether they forgot where. The density of the known values
is then found by bridge sampling between the chains and a normal mixture fitted to half of them.

*Exact*: draws of ``Marginal.sample``, and both where every column is known or none is. *Approximate*: conditional draws, to
the extent of the effective sample size that comes with them, and marginal log-densities, to their standard error. A density
that the first guess misses altogether (a far mode in many dimensions) is seen by neither.

References:
    Approximate Bayesian computation in population genetics, Beaumont, Zhang, Balding 2002, Genetics 162(4).
    Approximating posterior distributions by mixtures, West 1993, JRSS B 55(2).
    Population Monte Carlo, Cappé, Guillin, Marin, Robert 2004, JCGS 13(4).
    Simulating ratios of normalizing constants via a simple identity, Meng, Wong 1996, Statistica Sinica 6(4), eq. 4.1.
    Estimating marginal likelihoods for mixture and Markov switching models using bridge sampling techniques,
    Frühwirth-Schnatter 2004, Econometrics Journal 7(1), eq. 16 (standard error).
"""

from bijectory.apps.query.ask import Marginal, Query, conditional

__all__ = ["Marginal", "Query", "conditional"]
