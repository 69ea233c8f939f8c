"""Layers and recipes of images: values by hand, log-determinants per pixel, shapes, refusals, depth."""

import math

import pytest
import torch
from torch.nn import functional as F

import bijectory as bj
from bijectory.errors import ConfigError, DataError, DtypeError, ShapeError
from bijectory.nets import Conv, ConvNet, ConvResNet
from bijectory.ops.image import conv2d, mix
from laws.cases import randomize

F64 = torch.float64
RECIPES = {"glow": {"steps": 2, "hidden": 4}, "real_nvp_image": {"hidden": 4, "blocks": 1}}
recipes = pytest.mark.parametrize("name", RECIPES)


def build(name, shape=(1, 4, 4), context=0, **keywords):
    torch.manual_seed(0)
    return getattr(bj, name)(shape, context, **{"levels": 4, **RECIPES[name], **keywords})


def pixels(*shape, levels=4, dtype=torch.float32):
    return levels * torch.rand(shape, generator=torch.Generator().manual_seed(3), dtype=dtype)


# -- squeezes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_squeeze_is_space_to_depth(factor):
    x = torch.randn(2, 3, 2, 6, 12)
    z, ladj = bj.Squeeze(factor)(x)
    assert torch.equal(z, F.pixel_unshuffle(x, factor))
    assert torch.equal(ladj, torch.zeros(2, 3))
    assert bj.Squeeze(factor).latent_shape(x.shape[2:]) == z.shape[2:]
    assert bj.Squeeze(factor).data_shape(z.shape[2:]) == x.shape[2:]


def test_haar_is_orthogonal_and_its_first_channels_are_a_small_image():
    x = torch.randn(5, 2, 4, 6, dtype=F64)
    z, ladj = bj.Haar()(x)
    assert torch.allclose(z[:, :2], 2 * F.avg_pool2d(x, 2))
    assert torch.allclose(z.square().sum((1, 2, 3)), x.square().sum((1, 2, 3)))
    assert not ladj.any()
    constant = bj.Haar()(torch.ones(2, 4, 4))[0]
    assert not constant[2:].any()


@pytest.mark.parametrize("layer", [bj.Squeeze(), bj.Haar()])
def test_squeezes_refuse_what_does_not_fit(layer):
    with pytest.raises(ShapeError, match=r"divisible by 2 .* got \(1, 3, 4\); pad or crop"):
        layer.latent_shape(torch.Size((1, 3, 4)))
    with pytest.raises(ShapeError, match="channels must be divisible by 4"):
        layer.data_shape(torch.Size((2, 3, 4)))


# -- channels -----------------------------------------------------------------------------------------------------------


def test_actnorm_makes_every_channel_standard_and_counts_every_pixel():
    x = torch.tensor([5.0, -1.0]).reshape(2, 1, 1) + torch.tensor([2.0, 0.1]).reshape(2, 1, 1) * torch.randn(
        64, 2, 3, 4
    )
    layer = bj.ActNorm(2, event_dim=3)
    layer.initialize(x)
    z, ladj = layer(x)
    assert torch.allclose(z.mean((0, 2, 3)), torch.zeros(2), atol=1e-5)
    assert torch.allclose(z.std((0, 2, 3), correction=0), torch.ones(2), atol=1e-5)
    assert torch.allclose(ladj, -12 * x.std((0, 2, 3), correction=0).log().sum().expand(64), rtol=1e-5)
    again = bj.ActNorm(2, event_dim=3)
    again.load_state_dict(layer.state_dict())
    again.initialize(100 * x)
    assert torch.equal(again.loc, layer.loc)


def test_actnorm_refuses_a_channel_without_variance():
    x = torch.randn(8, 2, 3, 3)
    x[:, 1] = 7.0
    with pytest.raises(DataError, match=r"\[1\] do not vary"):
        bj.ActNorm(2, event_dim=3).initialize(x)


@pytest.mark.parametrize("channels", [1, 2, 3, 12, 48])
def test_conv1x1_starts_as_a_rotation_and_stays_well_conditioned(channels):
    layer = bj.Conv1x1(channels, seed=5).double()
    eye = torch.eye(channels, dtype=F64)
    assert torch.allclose(layer.matrix() @ layer.matrix().T, eye, atol=1e-14)
    assert channels < 3 or layer.matrix().diagonal().abs().max() < 0.99
    with torch.no_grad():
        layer.factors.copy_(100 * torch.randn(channels, channels))
    assert torch.linalg.cond(layer.matrix()) <= layer.max_condition
    x = torch.randn(2, channels, 3, 3, dtype=F64)
    assert torch.allclose(layer.inverse(layer(x)[0])[0], x, atol=1e-10)
    want = 9 * torch.linalg.slogdet(layer.matrix()).logabsdet
    assert torch.allclose(layer(x)[1], want.expand(2), rtol=1e-10, atol=1e-10)
    assert torch.allclose(layer(x)[0][0, :, 1, 2], layer.matrix() @ x[0, :, 1, 2])


def test_conv1x1_frozen_gives_the_same_numbers():
    flow = randomize(build("glow"), scale=0.15)
    x = pixels(3, 1, 4, 4)
    frozen = flow.frozen()
    assert torch.allclose(frozen.log_prob(x), flow.log_prob(x), atol=1e-4)
    z = flow.to_latent(x)[0]
    assert torch.allclose(frozen.to_data(z)[0], flow.to_data(z)[0], atol=1e-4)


# -- couplings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("swap", [False, True])
def test_checkerboard_keeps_every_second_pixel(swap):
    layer = randomize(bj.ImageCoupling(bj.Affine(), 2, "checkerboard", swap=swap, hidden=4))
    x = torch.randn(3, 2, 3, 4)
    moved = (layer(x)[0] != x).all(0).all(0)
    even = (torch.arange(3).unsqueeze(1) + torch.arange(4)) % 2 == 0
    assert torch.equal(moved, even if swap else ~even)


@pytest.mark.parametrize("swap", [False, True])
def test_channel_mask_keeps_one_part_whole(swap):
    layer = randomize(bj.ImageCoupling(bj.Affine(), 5, swap=swap, hidden=4))
    x = torch.randn(3, 5, 2, 2)
    same = (layer(x)[0] == x).all(0).flatten(1).all(1).tolist()
    assert same == ([False] * 3 + [True] * 2 if swap else [True] * 3 + [False] * 2)


def test_couplings_start_at_the_identity():
    for mask in ("channels", "checkerboard"):
        x = torch.randn(2, 4, 4, 4)
        z, ladj = bj.ImageCoupling(bj.Affine(), 4, mask)(x)
        assert torch.equal(z, x)
        assert not ladj.any()


def test_couplings_take_any_scalar_family():
    for family in (bj.Shift(), bj.RationalQuadratic(4, 3.0), bj.MixtureCdf(3)):
        layer = randomize(bj.ImageCoupling(family, 2, "checkerboard", hidden=4)).double()
        x = torch.randn(3, 2, 4, 4, dtype=F64)
        z, ladj = layer(x)
        back, ladj_back = layer.inverse(z)
        assert torch.allclose(back, x, atol=1e-8)
        assert torch.allclose(ladj_back, -ladj, atol=1e-8)


def test_couplings_refuse():
    with pytest.raises(ConfigError, match="needs at least 2 channels, got 1; squeeze first"):
        bj.ImageCoupling(bj.Affine(), 1)
    with pytest.raises(ConfigError, match="mask must be one of"):
        bj.ImageCoupling(bj.Affine(), 2, "stripes")


# -- multi-scale --------------------------------------------------------------------------------------------------------


def test_multiscale_lists_what_leaves_first():
    flow = bj.Multiscale(bj.Squeeze(), bj.Squeeze(), bj.Squeeze(), shape=(1, 8, 8))
    x = torch.arange(64.0).reshape(1, 8, 8)
    z, _ = flow(x)
    assert z.shape == flow.latent_shape(x.shape) == (64,)
    assert torch.equal(z[:32], F.pixel_unshuffle(x, 2)[2:].flatten())
    assert torch.equal(flow.inverse(z)[0], x)
    assert sorted(z.tolist()) == x.flatten().tolist()


def test_multiscale_refuses():
    with pytest.raises(ShapeError, match=r"takes \(1, 4, 4\), got \(1, 8, 8\)"):
        bj.Multiscale(bj.Squeeze(), shape=(1, 4, 4)).latent_shape(torch.Size((1, 8, 8)))
    with pytest.raises(ShapeError, match="pad or crop"):
        bj.Multiscale(bj.Squeeze(), shape=(1, 3, 4))
    with pytest.raises(ConfigError, match="level 0 puts out 1 channel"):
        bj.Multiscale(bj.Conv1x1(1), bj.Squeeze(), shape=(1, 4, 4))
    with pytest.raises(DtypeError, match="transforms of images, got LU"):
        bj.Multiscale(bj.LU(4), shape=(1, 4, 4))


# -- networks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "build", [lambda: ConvNet(2, 3, 4, 5, head_scale=1.0), lambda: ConvResNet(2, 3, 4, 2, 5, head_scale=1.0)]
)
@pytest.mark.parametrize("batch", [(), (7,), (5, 7), (0,)])
def test_networks_take_any_batch_and_broadcast_the_context(build, batch):
    torch.manual_seed(0)
    net = build()
    x, c = torch.randn(*batch, 2, 4, 6), torch.randn(5)
    out = net(x, c)
    assert out.shape == (*batch, 3, 4, 6)
    flat = net(x.reshape(-1, 2, 4, 6), c.expand(math.prod(batch), 5))
    assert torch.allclose(out.reshape(flat.shape), flat, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(net(torch.ones(2, 4, 6), c), net(torch.ones(2, 4, 6), c + 1))


def test_weight_norm_starts_as_the_plain_convolution():
    torch.manual_seed(1)
    plain = Conv(3, 4)
    torch.manual_seed(1)
    normed = Conv(3, 4, weight_norm=True)
    x = torch.randn(2, 3, 5, 5)
    assert torch.allclose(plain(x), normed(x), atol=1e-6)
    with torch.no_grad():
        normed.weight.mul_(7.0)  # the length lives in the gain
    assert torch.allclose(plain(x), normed(x), atol=1e-5)


def test_networks_refuse():
    for net in (ConvNet, ConvResNet):
        with pytest.raises(ConfigError, match="hidden=0 must be at least 1"):
            net(1, 1, 0)
        with pytest.raises(ConfigError, match="activation='rleu' is unknown"):
            net(1, 1, activation="rleu")
    with pytest.raises(ConfigError, match="kernel must be odd"):
        Conv(1, 1, 2)


# -- recipes ------------------------------------------------------------------------------------------------------------


@recipes
@pytest.mark.parametrize(("shape", "scales"), [((1, 28, 28), 2), ((3, 32, 32), 3), ((1, 8, 8), 2), ((1, 2, 6), 1)])
def test_scales_are_chosen_by_what_divides(name, shape, scales):
    flow = build(name, shape, steps=1) if name == "glow" else build(name, shape)
    levels = flow.transform[1].levels
    assert len(levels) == scales + (name == "real_nvp_image")
    assert flow.event_shape == shape
    assert flow.base.event_shape == (math.prod(shape),)


@recipes
def test_recipes_refuse_shapes(name):
    with pytest.raises(ConfigError, match=r"divisible by 2: pad the images to \(1, 28, 28\), or crop"):
        build(name, (1, 27, 28))
    with pytest.raises(ConfigError, match=r"shape=\(1, 28, 28\) with 3 scales .* \(1, 32, 32\), or pass scales=2"):
        build(name, (1, 28, 28), scales=3)
    with pytest.raises(ConfigError, match=r"must be \(channels, height, width\)"):
        build(name, (28, 28))
    with pytest.raises(ConfigError, match="scales must be an integer of at least 1, got 0"):
        build(name, scales=0)


@recipes
@pytest.mark.parametrize("batch", [(), (7,), (5, 7), (0,)])
def test_flows_of_images_take_any_batch(name, batch):
    flow = randomize(build(name, context=2), scale=0.15).double()
    x, c = pixels(*batch, 1, 4, 4, dtype=F64), torch.randn(2, dtype=F64)
    z, ladj = flow.to_latent(x, c)
    assert z.shape == (*batch, 16)
    assert ladj.shape == flow.log_prob(x, c).shape == batch
    back, ladj_back = flow.to_data(z, c)
    assert torch.allclose(back, x, atol=1e-9)
    assert torch.allclose(ladj_back, -ladj, atol=1e-9)
    assert flow.sample(3, c.expand(2, 2)).shape == (3, 2, 1, 4, 4)


@recipes
def test_log_det_of_two_scales_equals_autodiff(name):
    flow = randomize(build(name, scales=2), scale=0.15).double()
    x = pixels(2, 1, 4, 4, dtype=F64)
    jac = torch.func.vmap(torch.func.jacrev(lambda v: flow.to_latent(v)[0]))(x).flatten(2)
    assert torch.allclose(flow.to_latent(x)[1], torch.linalg.slogdet(jac).logabsdet, atol=1e-9)
    assert (jac != 0).any(1).all()


@recipes
def test_initialize_standardises_every_actnorm_on_the_way(name):
    flow = build(name, (1, 8, 8))
    x = pixels(64, 1, 8, 8)
    flow.initialize(x)
    norms = [m for m in flow.modules() if isinstance(m, bj.ActNorm)]
    assert norms
    assert all(m.initialised for m in norms)
    z = flow.to_latent(x)[0]
    assert z.abs().mean() < 3
    assert flow.log_prob(x).mean() > build(name, (1, 8, 8)).log_prob(x).mean()


def test_a_trained_glow_of_32_steps_comes_back():
    torch.manual_seed(0)
    flow = bj.glow((1, 8, 8), levels=16, steps=16, hidden=8)
    low = F.interpolate(torch.rand(256, 1, 4, 4), scale_factor=2, mode="bilinear")
    x = (15 * low).floor() + torch.rand(256, 1, 8, 8)
    flow.initialize(x)
    before, adam = flow.log_prob(x).mean().item(), torch.optim.Adam(flow.parameters(), 3e-3)
    for _ in range(30):
        adam.zero_grad()
        (-flow.log_prob(x[torch.randperm(256)[:64]]).mean()).backward()
        adam.step()
    with torch.no_grad():
        assert flow.log_prob(x).mean() > before + 20
        back = flow.to_data(flow.to_latent(x)[0])[0]
    assert (back - x).abs().max() / 16 <= 1e-5


def test_pixels_on_their_bounds_are_inside():
    flow = build("glow")
    x = torch.tensor([0.0, 4.0]).reshape(2, 1, 1, 1).expand(2, 1, 4, 4)
    assert flow.log_prob(x).isfinite().all()


def test_each_network_runs_once_forward_and_once_back_in_a_reversible_step():
    flow = build("glow", reversible=True)
    runs = {name: 0 for name, m in flow.named_modules() if isinstance(m, ConvNet)}
    for name, m in flow.named_modules():
        if name in runs:
            m.register_forward_hook(lambda *_, name=name: runs.__setitem__(name, runs[name] + 1))
    flow.log_prob(pixels(2, 1, 4, 4)).sum().backward()
    assert set(runs.values()) == {2}


@pytest.mark.parametrize("batch", [(), (3,), (2, 3), (0,)])
def test_channels_are_mixed_by_a_product_as_by_a_convolution(batch):
    x, weight = torch.randn(*batch, 4, 2, 3), torch.randn(4, 4)
    expected = conv2d(x, weight[..., None, None])
    torch.testing.assert_close(mix(x, weight), expected, rtol=1e-5, atol=1e-5)
