r"""Divergence of vector fields, :math:`\operatorname{tr} \partial v / \partial z`: exact or estimated.

``exact`` sends every unit vector through the Jacobian :math:`J`: as many passes as the event has entries.
``hutchinson`` needs one pass for each probe :math:`e`: with :math:`\mathbb E\, e e^\top = I`, the mean of
:math:`e^\top J e` is the trace, and that of :math:`|e^\top J|^2` the squared Frobenius norm of :math:`J`. ``hutchpp`` spends
half of its probes on a basis of the directions in which :math:`J` is large, takes the trace there exactly, and estimates the
rest: less noise where few directions carry the Jacobian, more passes where none do. Probes are tensors that the caller draws
(``probes``): a solver must see the same ones throughout a solve, or its integrand is not a function of time.
``perceptron`` is the exact trace of a perceptron in closed form, for about the price of one pass, whatever the dimension.

References:
    A stochastic estimator of the trace of the influence matrix, Hutchinson 1990.
    FFJORD, Grathwohl, Chen, Bettencourt, Sutskever, Duvenaud 2019, arXiv:1810.01367, eq. 7-8.
    Hutch++: Optimal Stochastic Trace Estimation, Meyer, Musco, Musco, Woodruff 2021, arXiv:2010.09649, algorithm 1.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from bijectory.errors import ConfigError, check
from bijectory.ops.shape import linear, sum_event

VectorField = Callable[[Tensor], Tensor]
"""``(*batch, *event) -> (*batch, *event)``, every row for itself."""

Pull = Callable[[Tensor], Tensor]
"""Probes ``(k, *event)`` or ``(k, *batch, *event)`` -> the products :math:`e^\\top J`, ``(k, *batch, *event)``."""

MODES = ("reverse", "batched", "forward")


def exact(
    v: VectorField, z: Tensor, event_dim: int = 1, mode: Literal["reverse", "batched", "forward"] = "reverse"
) -> tuple[Tensor, Tensor]:
    """Value and divergence of ``v``.

    ``"reverse"`` pulls one unit vector back after the other, in memory that the batch alone bounds. ``"batched"`` pulls
    all of them at once, ``"forward"`` pushes all of them at once: both in ``d`` times the memory. Measured on one CPU core
    with a perceptron of widths (64, 64), milliseconds of value and divergence, without gradients / with a backward pass:

    ==== ====  ============= ============= =============
    rows    d        reverse       batched       forward
    ==== ====  ============= ============= =============
      64    2      0.9 / 2.0     0.8 / 2.1     2.4 / 3.6
      64    8      1.8 / 5.4     1.0 / 3.0     2.1 / 4.7
      64   64        19 / 20      6.0 / 11      8.9 / 15
     256    2      1.3 / 2.7     1.6 / 3.0     2.9 / 4.7
     256    8      3.1 / 6.5     3.0 / 5.8     3.1 / 7.3
     256   64        21 / 37       17 / 58       25 / 51
    1024    2      3.0 / 5.8     4.0 / 8.4     5.3 / 9.3
    1024    8       7.1 / 15      9.7 / 25       13 / 27
    1024   64       39 / 102      93 / 204      99 / 259
    ==== ====  ============= ============= =============

    So: ``"batched"`` for small batches, where the number of calls is what costs, else ``"reverse"``. A forward pass saves
    nothing here; it is there for fields whose backward pass is dear or missing.

    Args:
        v: The field.
        z: Points ``(*batch, *event)``.
        event_dim: Number of rightmost dimensions of an event.
        mode: Which derivatives, see above; the same numbers to rounding.

    Returns:
        ``v(z)`` and its divergence ``(*batch,)``.

    Raises:
        ConfigError: On another ``mode``.

    Example:
        >>> exact(lambda z: z**2, torch.tensor([[1.0, 2.0]]))[1]
        tensor([6.])
    """
    check(mode in MODES, ConfigError, f"mode must be one of {MODES}, got {mode!r}.")
    event = z.shape[z.dim() - event_dim :]
    basis = torch.eye(event.numel(), dtype=z.dtype, device=z.device).reshape(-1, *event)
    if mode == "forward":

        def push(e: Tensor) -> tuple[Tensor, Tensor]:
            value, tangent, *_ = torch.func.jvp(v, (z,), (e.expand_as(z),))
            return value, sum_event(tangent * e, event_dim)

        values, terms = torch.func.vmap(push)(basis)  # the values are one, expanded
        return values[0], terms.sum(0)
    value, pull, *_ = torch.func.vjp(v, z)
    if mode == "batched":
        terms = torch.func.vmap(lambda e: sum_event(pull(e.expand_as(value))[0] * e, event_dim))(basis)
        return value, terms.sum(0)
    total = z.new_zeros(z.shape[: z.dim() - event_dim])
    for e in basis.unbind():  # a loop, so that the batch alone bounds the memory
        total = total + sum_event(pull(e.expand_as(value))[0] * e, event_dim)
    return value, total


def probes(
    shape: Sequence[int], noise: Literal["rademacher", "gaussian"] = "rademacher", *, generator: torch.Generator | None
) -> Tensor:
    """Random tensors of mean 0 and covariance 1, in float32.

    Args:
        shape: ``(k, *event)`` to share them between rows, or ``(k, *batch, *event)``.
        noise: Signs, which have the least variance, or normal numbers.
        generator: Where they come from; None: the global one of the CPU.

    Raises:
        ConfigError: On another ``noise``.

    Example:
        >>> probes((2, 3), generator=torch.Generator().manual_seed(0)).abs()
        tensor([[1., 1., 1.],
                [1., 1., 1.]])
    """
    known = ("rademacher", "gaussian")
    check(noise in known, ConfigError, f"noise must be one of {known}, got {noise!r}.")
    device = torch.device("cpu") if generator is None else generator.device
    if noise == "gaussian":
        return torch.randn(*shape, generator=generator, device=device)
    return 2.0 * torch.randint(0, 2, tuple(shape), generator=generator, device=device) - 1.0


def pullback(v: VectorField, z: Tensor) -> tuple[Tensor, Pull]:
    """Value of ``v``, and the function that pulls probes back through it, one after the other.

    Example:
        >>> value, pull = pullback(lambda z: z**2, torch.tensor([[1.0, 2.0]]))
        >>> pull(torch.eye(2))[0]
        tensor([[2., 0.]])
    """
    value, one, *_ = torch.func.vjp(v, z)
    return value, lambda e: torch.stack([one(p)[0] for p in spread(e, value).unbind()])


def spread(e: Tensor, value: Tensor) -> Tensor:
    """Probes ``(k, *event)`` or ``(k, *batch, *event)`` at the shape of the field's value: ``(k, *batch, *event)``.

    Example:
        >>> spread(torch.ones(4, 2), torch.zeros(5, 3, 2)).shape
        torch.Size([4, 5, 3, 2])
    """
    return e.reshape(len(e), *(1,) * (value.dim() + 1 - e.dim()), *e.shape[1:]).expand(len(e), *value.shape)


def hutchinson(v: VectorField, z: Tensor, e: Tensor, event_dim: int = 1) -> tuple[Tensor, Tensor]:
    r"""Value of ``v`` and an unbiased estimate of its divergence for every probe.

    Args:
        v: The field.
        z: Points ``(*batch, *event)``.
        e: Probes ``(k, *event)`` or ``(k, *batch, *event)``.
        event_dim: Number of rightmost dimensions of an event.

    Returns:
        ``v(z)``, and :math:`e^\top (\partial v / \partial z)\, e` of shape ``(k, *batch)``: average over ``k`` with
        ``estimates.mean_and_error``.

    Example:
        >>> e = probes((4, 2), generator=torch.Generator().manual_seed(0))
        >>> hutchinson(lambda z: z**2, torch.tensor([[1.0, 2.0]]), e)[1].mean()  # exact: the Jacobian is diagonal
        tensor(6.)
    """
    value, pull = pullback(v, z)
    return value, inner(pull(e), spread(e, value), event_dim)


def hutchpp(v: VectorField, z: Tensor, e: Tensor, event_dim: int = 1) -> tuple[Tensor, Tensor]:
    r"""Value of ``v`` and an unbiased estimate of its divergence by Hutch++ for every second probe.

    The first half of the probes, :math:`S`, makes an orthonormal basis :math:`Q` of :math:`J^\top S`; each :math:`g` of the
    other half gives

    .. math:: \operatorname{tr} Q^\top J Q + g^\top (I - Q Q^\top)\, J\, (I - Q Q^\top)\, g .

    An even number ``k`` of probes costs ``3k/2`` passes: so many probes of ``hutchinson`` are the fair comparison. Exact as
    soon as the sketch spans the range of :math:`J^\top`, with twice as many probes as the event has entries at the latest.
    See ``deflated`` for gradients.

    Args:
        v: The field.
        z: Points ``(*batch, *event)``.
        e: Probes ``(k, *event)`` or ``(k, *batch, *event)``, ``k >= 2``.
        event_dim: Number of rightmost dimensions of an event.

    Returns:
        ``v(z)``, and estimates ``(k - k // 2, *batch)``, independent given :math:`Q`: average over them with
        ``estimates.mean_and_error``.

    Raises:
        ConfigError: With fewer than two probes.

    Example:
        >>> e = probes((4, 2), generator=torch.Generator().manual_seed(0))
        >>> hutchpp(lambda z: z.flip(-1), torch.zeros(1, 2), e)[1].abs().max() < 1e-6  # hutchinson: 2 or -2
        tensor(True)
    """
    s, g = split(e)
    value, pull = pullback(v, z)
    return value, deflated(pull, pull(s), g, event_dim)


def split(e: Tensor) -> tuple[Tensor, Tensor]:
    """The probes of Hutch++: half of them for the sketch, the others, at least as many, for what it leaves.

    Raises:
        ConfigError: With fewer than two probes.

    Example:
        >>> [len(half) for half in split(torch.zeros(5, 3))]
        [2, 3]
    """
    check(len(e) >= 2, ConfigError, f"Hutch++ needs at least 2 probes, got {len(e)}.")
    half = len(e) // 2
    return e[:half], e[half:]


def deflated(pull: Pull, sketch: Tensor, g: Tensor, event_dim: int = 1) -> Tensor:
    r"""Trace on the span of the sketch, exactly, plus an estimate of the rest for every probe.

    :math:`Q` is a constant to gradients. They are unbiased all the same, since the estimate is so for every :math:`Q`, but
    are not the derivatives of this one number. The derivative of an orthonormal basis does not exist where the Jacobian has
    lost rank, as it has everywhere in a field with a zero last layer.

    Args:
        pull: Of the field, see ``pullback``.
        sketch: Pulled probes :math:`s^\top J`, ``(m, *batch, *event)``.
        g: Probes ``(k, *event)`` or ``(k, *batch, *event)``, independent of the sketch.
        event_dim: Number of rightmost dimensions of an event.

    Returns:
        ``(k, *batch)``.

    Example:
        >>> _, pull = pullback(lambda z: z.flip(-1), torch.zeros(2))
        >>> deflated(pull, pull(torch.eye(2)), torch.ones(1, 2)).abs() < 1e-6
        tensor([True])
    """
    event = sketch.shape[sketch.dim() - event_dim :]
    columns = sketch.detach().flatten(sketch.dim() - event_dim).movedim(0, -1)
    q = torch.linalg.qr(columns).Q.movedim(-1, 0).unflatten(-1, event)
    g = spread(g, sketch[0])
    along = torch.stack([inner(q, p, event_dim) for p in g.unbind()])  # (k, r, *batch)
    shadow = (along.reshape(*along.shape, *(1,) * event_dim) * q).sum(1)
    rest = g - shadow
    return inner(pull(q), q, event_dim).sum(0) + inner(pull(rest), rest, event_dim)


def inner(a: Tensor, b: Tensor, event_dim: int = 1) -> Tensor:
    """Scalar products of events, ``(k, *batch, *event) -> (k, *batch)``; the arguments broadcast.

    Example:
        >>> inner(torch.ones(2, 5, 3), torch.ones(5, 3)).shape
        torch.Size([2, 5])
    """
    return sum_event(a * b, event_dim)


def perceptron(weights: Sequence[Tensor], slopes: Sequence[Tensor]) -> Tensor:
    r"""Divergence of a perceptron from its weights and the slopes of its activations.

    With :math:`J = W_{L+1} G_L W_L \cdots G_1 W_1` and diagonal :math:`G_l = \operatorname{diag}(g_l)`,

    .. math::
        \operatorname{tr} W_1 \; (L = 0), \qquad
        g_1^\top \operatorname{diag}(W_1 W_2) \; (L = 1), \qquad
        g_2^\top \left(W_2 \circ (W_1 W_3)^\top\right) g_1 \; (L = 2):

    one more product of the size of the hidden layer. For :math:`L > 2` the product :math:`W_1 W_{L+1}` is carried through
    the layers in between, for every row.

    Args:
        weights: :math:`W_1, …, W_{L+1}` as ``(outputs, inputs)``; inputs of the first = outputs of the last.
        slopes: :math:`g_l`, ``(*batch, width)``.

    Returns:
        The divergence, ``(*batch,)``, or a scalar for ``L = 0``.

    Example:
        >>> perceptron([torch.eye(2), 3 * torch.eye(2)], [torch.tensor([1.0, 0.5])])
        tensor(4.5000)
    """
    first, last = weights[0], weights[-1]
    if not slopes:
        return first.diagonal().sum()
    ends = first @ last  # (width of layer 1, width of layer L)
    if len(slopes) == 1:
        return linear(slopes[0], ends.diagonal().unsqueeze(0)).squeeze(-1)
    if len(slopes) == 2:
        return (linear(slopes[0], weights[1] * ends.mT) * slopes[1]).sum(-1)
    carried = slopes[0].unsqueeze(-2) * ends.mT  # row j: the j-th unit of the last layer seen by layer 1
    for w, g in zip(weights[1:-2], slopes[1:-1], strict=True):
        carried = g.unsqueeze(-2) * (carried @ w.mT)
    return ((carried * weights[-2]).sum(-1) * slopes[-1]).sum(-1)
