"""A simulator whose posterior is known: theta ~ N(0, 1), x = theta + N(0, 1), so theta | x ~ N(x / 2, 1 / 2)."""

import math

import torch
from torch.distributions import Normal

import bijectory as bj
from bijectory.apps.posterior import NeuralPosterior, Prior, simulate


def prior():
    return Prior([Normal(0.0, 1.0)])


def simulator(theta):
    return theta + torch.randn(theta.shape)


def pairs(n, seed):
    return simulate(prior(), simulator, n, seed=seed)


def known(scale=1.0, shift=0.0):
    """The posterior with its deviation multiplied by ``scale``: exact for 1."""
    layer = bj.Regression(1, 1).double()
    layer.slope.fill_(0.5)
    layer.offset.fill_(shift)
    layer.factor.fill_(1 / (scale * math.sqrt(0.5)))
    layer.initialised.fill_(True)
    return NeuralPosterior(bj.Flow(layer, bj.StandardNormal(1)).double(), prior(), (1,))
