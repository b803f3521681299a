"""Batch normalization folded into the convolutions before it: at inference it is a scale and a shift."""

from __future__ import annotations

from itertools import pairwise
from typing import TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

M = TypeVar("M", bound=nn.Module)


def fold(model: M) -> M:
    """Fold each normalization that directly follows a convolution, in place; ``model`` is in eval mode.

    Our modules register each one right after its convolution. Outputs stay the same but for rounding.
    """
    for module in list(model.modules()):
        for (first, conv), (second, norm) in pairwise(list(module.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, first, fuse_conv_bn_eval(conv, norm))
                setattr(module, second, nn.Identity())
    return model
