"""How the workers of one training exchange gradients: alone in a process, or over torch.distributed.

A global batch is cut into equal *slices*. A slice is always computed the same way, by one thread or one device, and
the slices' results are always added in slice order, whoever computed them. So the sum has the same bits on one worker
as on many, which plain all-reduce (torch's DDP) does not promise.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor


class Group(Protocol):
    """The workers that train one model together."""

    rank: int
    size: int

    def mean(self, rows: Tensor) -> Tensor:
        """Average (local slices, K) over all slices of all workers, in slice order; every worker gets (K,)."""
        ...


class Alone:
    """A group of one."""

    rank = 0
    size = 1

    def mean(self, rows: Tensor) -> Tensor:
        """See `Group.mean`."""
        return _ordered_mean(rows)


class Distributed:
    """The workers of the initialized default process group (gloo or NCCL)."""

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()

    def mean(self, rows: Tensor) -> Tensor:
        """See `Group.mean`. Each worker adds up its share of the columns, so traffic is that of a ring all-reduce."""
        slices, columns = rows.shape
        share = -(-columns // self.size)
        padded = torch.nn.functional.pad(rows, (0, share * self.size - columns))
        sent = padded.view(slices, self.size, share).transpose(0, 1).contiguous()
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent)
        mine = _ordered_mean(received.view(self.size * slices, share))
        out = mine.new_empty(self.size * share)
        dist.all_gather_into_tensor(out, mine)
        return out[:columns]


def _ordered_mean(rows: Tensor) -> Tensor:
    out = rows[0].clone()
    for row in rows[1:]:
        out += row
    return out.div_(len(rows))
