from __future__ import annotations

import torch

from raydvae.training.flat import gather, scatter, strided

CL = torch.channels_last


def test_what_is_gathered_is_scattered_whatever_the_memory_layout() -> None:
    torch.manual_seed(0)
    shapes = [(4, 3, 3, 3), (5,), (2, 6), (4, 3, 1, 1)]
    plain = [torch.randn(shape) for shape in shapes]
    mixed = [t.to(memory_format=CL) if t.ndim == 4 else t for t in plain]
    one, other = torch.empty(2, sum(t.numel() for t in plain))
    gather(plain, one)
    gather(mixed, other)
    assert torch.equal(one, other)
    back = [torch.empty_like(t) for t in mixed]
    scatter(one, back)
    assert all(torch.equal(a, b) for a, b in zip(back, plain, strict=True))


def test_a_value_takes_on_the_layout_of_its_parameter() -> None:
    parameter, value = torch.randn(4, 3, 3, 3).to(memory_format=CL), torch.randn(4, 3, 3, 3)
    assert strided(value, parameter).stride() == parameter.stride()
    assert torch.equal(strided(value, parameter), value)
