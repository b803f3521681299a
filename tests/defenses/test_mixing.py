"""Boxes, weights and labels of the mixing augmentations."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from raydvae.defenses.mixing import cutmix, cutout, mixup

ROWS, SIDE = 6, 12


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered() -> tuple[Tensor, Tensor]:
    """Images that hold nothing but their own number, 1 to 6, and a class each."""
    x = torch.arange(1.0, ROWS + 1).reshape(-1, 1, 1, 1).expand(ROWS, 3, SIDE, SIDE)
    return x.contiguous(), F.one_hot(torch.arange(ROWS), ROWS).float()


def is_box(mask: Tensor) -> bool:
    """Whether a mask (H, W) is one rectangle."""
    rows, columns = mask.any(1), mask.any(0)
    gaps = [(~line).long().diff().abs().sum().item() for line in (rows, columns)]
    return bool((mask == (rows[:, None] & columns[None, :])).all()) and max(gaps) <= 2


def test_cutout_blacks_out_one_square_of_each_image_and_nothing_else() -> None:
    seen = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    whole = 0
    for seed in range(60):
        x, _ = numbered()
        out = cutout(x, 6, seeded(seed))
        hidden = (out == 0).all(1)
        assert (out[~hidden[:, None].expand_as(out)] == x[~hidden[:, None].expand_as(x)]).all()
        for mask in hidden:
            assert is_box(mask)
            assert 3 * 3 <= mask.sum() <= 6 * 6, "at most cut at two borders"
            whole += int(mask.sum() == 36)
            seen |= mask
        assert len({tuple(mask.flatten().tolist()) for mask in hidden}) > 1, "each image has a square of its own"
    assert seen.all()
    # 7 of the 12 places a side leave the square whole.
    assert abs(whole / (60 * ROWS) - (7 / 12) ** 2) < 0.1


def test_mixup_mixes_images_and_labels_in_the_same_share() -> None:
    shares = []
    for seed in range(200):
        x, targets = numbered()
        out, mixed = mixup(x, targets, seeded(seed))
        assert torch.allclose(mixed.sum(1), torch.ones(ROWS))
        expected = (mixed @ torch.arange(1.0, ROWS + 1)).reshape(-1, 1, 1, 1).expand_as(x)
        assert torch.allclose(out, expected)
        partners = [row.nonzero().flatten().tolist() for row in mixed]
        assert all(1 <= len(pair) <= 2 and own in pair for own, pair in enumerate(partners))
        assert torch.allclose(mixed.sum(0), torch.ones(ROWS)), "every image is a partner once"
        shares += [mixed[own, own].item() for own in range(ROWS) if len(partners[own]) == 2][:1]
    quarters = torch.histc(torch.tensor(shares), 4, 0, 1) / len(shares)
    assert (quarters - 0.25).abs().max() < 0.1, "uniform: Beta(1, 1)"


def test_cutmix_labels_by_the_area_that_is_seen() -> None:
    mixtures, covered = 0, []
    for seed in range(200):
        x, targets = numbered()
        out, mixed = cutmix(x, targets, seeded(seed))
        assert torch.allclose(mixed.sum(1), torch.ones(ROWS))
        foreign = (out != x).any(1)
        for own in range(ROWS):
            shown = torch.stack([(out[own, 0] == number + 1).float().mean() for number in range(ROWS)])
            assert torch.allclose(shown, mixed[own], atol=1e-6)
            assert is_box(foreign[own]) or not foreign[own].any()
        moved = foreign[foreign.flatten(1).any(1)]
        assert all((mask == moved[0]).all() for mask in moved), "one box a slice"
        mixtures += bool(len(moved))
        covered += [moved[0].float().mean().item()] if len(moved) else []
    assert 0.3 < mixtures / 200 < 0.55, "half of the slices, less some whose box or whose partners are nothing"
    assert min(covered) < 0.1 and max(covered) > 0.6


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_cutmix_happens_as_often_as_it_is_asked_to(probability: float) -> None:
    x, targets = numbered()
    changed = sum(bool((cutmix(x, targets, seeded(seed), probability)[0] != x).any()) for seed in range(50))
    assert changed == 0 if probability == 0 else changed > 40
