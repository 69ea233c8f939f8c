"""One step of the optimiser without bookkeeping: the same numbers as torch's own, and the same state."""

import copy

import pytest
import torch
from torch import nn

from bijectory.training.update import Update, shorten


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def adamw(model: nn.Module) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.parameters(), 1e-2, weight_decay=0.1, fused=True)


def pull(model: nn.Module, k: int = 0) -> None:
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(k))
    for p in model.parameters():
        p.grad = None
    model(x).square().mean().backward()


def pair():
    """A model under torch's optimiser, its twin under ours."""
    plain = small()
    ours = copy.deepcopy(plain)
    first, second = adamw(plain), adamw(ours)
    return plain, first, ours, Update(second, list(ours.parameters()))


def both_step(plain, first, ours, update, ks):
    for k in ks:
        pull(plain, k)
        pull(ours, k)
        for group in first.param_groups:
            group["lr"] = 1e-2 / (k + 1)
        first.step()
        update.step(1e-2 / (k + 1))


def check_equal(plain, first, ours, update):
    for p, q in zip(plain.parameters(), ours.parameters(), strict=True):
        assert torch.equal(p, q)
        a, b = first.state[p], update.optimizer.state[q]
        assert set(a) == set(b)
        for name in a:
            assert torch.equal(a[name], b[name])
            assert a[name].shape == b[name].shape


def test_steps_are_those_of_torch_bit_for_bit(monkeypatch):
    parts = pair()
    both_step(*parts, range(2))
    update = parts[3]
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", lambda *_: pytest.fail("the slow way"))
        pull(parts[2], 2)
        update.step(1e-2 / 3)
    pull(parts[0], 2)
    parts[1].param_groups[0]["lr"] = 1e-2 / 3
    parts[1].step()
    check_equal(*parts)
    assert update.optimizer.param_groups[0]["lr"] == 1e-2 / 3


def test_settings_changed_by_a_callback_hold():
    parts = pair()
    both_step(*parts, range(2))
    for optimizer in (parts[1], parts[3].optimizer):
        optimizer.param_groups[0] |= {"weight_decay": 0.3, "betas": (0.5, 0.6)}
    both_step(*parts, range(2, 5))
    check_equal(*parts)


@pytest.mark.parametrize("event", ["clear", "load", "hook", "missing"])
def test_what_happens_to_the_state_is_seen(event):
    parts = plain, first, ours, update = pair()
    both_step(*parts, range(3))
    second = update.optimizer
    calls = []
    if event == "clear":  # as after a restore
        first.state.clear()
        second.state.clear()
    elif event == "load":
        first.load_state_dict(copy.deepcopy(first.state_dict()))
        second.load_state_dict(copy.deepcopy(second.state_dict()))
    elif event == "hook":
        second.register_step_post_hook(lambda *_: calls.append(1))
    else:
        for model in (plain, ours):
            pull(model)
            next(model.parameters()).grad = None
        first.step()
        update.step(first.param_groups[0]["lr"])
        check_equal(*parts)
    both_step(*parts, range(3, 6))
    check_equal(*parts)
    assert len(calls) == (3 if event == "hook" else 0)


def test_neighbours_in_memory_are_one():
    model = small()
    params = list(model.parameters())
    update = Update(adamw(model), params)
    flat = torch.arange(sum(p.numel() for p in params), dtype=torch.float32)
    for p, piece in zip(params, flat.split([p.numel() for p in params]), strict=True):
        p.grad = piece.view_as(p)
    (found,) = update.gradients()
    assert torch.equal(found, flat)
    norm = update.length([found])
    assert norm == torch.linalg.vector_norm(flat)
    shorten([found], 1.0, norm, norm.item())
    assert torch.linalg.vector_norm(torch.cat([p.grad.flatten() for p in params])).item() == pytest.approx(1.0)


def test_a_gap_another_order_or_another_storage_parts_them():
    model = small()
    a, b, c, d = list(model.parameters())  # 12, 4, 4, 1 values
    update = Update(adamw(model), [a, b, c, d])
    flat = torch.arange(40.0)
    a.grad, b.grad = flat[:12].view(4, 3), flat[12:16]
    c.grad, d.grad = flat[20:24].view(1, 4), flat[16:17]
    assert [g.numel() for g in update.gradients()] == [16, 4, 1]
    b.grad = flat[12:16].clone()
    assert [g.numel() for g in update.gradients()] == [12, 4, 4, 1]
    b.grad, c.grad = flat[12:16], None
    assert [g.numel() for g in update.gradients()] == [17]
    a.grad = flat[:12].view(3, 4).mT
    assert [g.numel() for g in update.gradients()] == [12, 5]
    a.grad = b.grad = d.grad = None
    assert update.gradients() == []
    assert update.length([]) == 0


def test_two_storages_that_touch_stay_two():
    model = small()
    params = list(model.parameters())
    update = Update(adamw(model), params)
    memory = bytearray(4 * 21)
    for p, start in zip(params, (0, 12, 16, 20), strict=True):
        p.grad = torch.frombuffer(memory, dtype=torch.float32, count=p.numel(), offset=4 * start).view_as(p)
    assert [g.numel() for g in update.gradients()] == [12, 4, 4, 1]


def test_short_gradients_are_left_alone_and_long_ones_shortened_as_torch_does():
    model = small()
    pull(model)
    norm = nn.utils.get_total_norm([p.grad for p in model.parameters()]).item()
    for longest in (1e-3, 0.99 * norm, norm, 1.01 * norm, 1e3):
        models = small(), small()
        for model in models:
            pull(model)
        params = list(models[1].parameters())
        update = Update(adamw(models[1]), params)
        gradients = update.gradients()
        norm = update.length(gradients)
        assert norm == nn.utils.clip_grad_norm_(models[0].parameters(), longest)
        shorten(gradients, longest, norm, norm.item())
        for p, q in zip(models[0].parameters(), params, strict=True):
            assert torch.equal(p.grad, q.grad)


def test_forget_drops_every_gradient():
    model = small()
    pull(model)
    Update(adamw(model), list(model.parameters())).forget()
    assert all(p.grad is None for p in model.parameters())
