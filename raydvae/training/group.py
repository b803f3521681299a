"""How the workers of one training exchange gradients: alone in a process, or over torch.distributed.

A global batch is cut into *slices*. A slice is always computed the same way, by one thread or one device, and the
slices' results are always added in slice order, whoever computed them. So the sum has the same bits on one worker as
on many, which plain all-reduce (torch's DDP) does not promise. Workers need not have equally many slices.
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

    def mine(self, slices: int) -> range:
        """Return the slices, of so many in all, that this worker computes."""
        ...

    def mean(self, rows: Tensor) -> Tensor:
        """Average (local slices, K) over all slices of all workers, in slice order; every worker gets (K,)."""
        ...


def shares(slices: int, size: int) -> list[range]:
    """Return the slices of each of ``size`` workers: as equally many as can be, in order."""
    return [range(rank * slices // size, (rank + 1) * slices // size) for rank in range(size)]


class Alone:
    """A group of one."""

    rank = 0
    size = 1

    def mine(self, slices: int) -> range:
        """See `Group.mine`."""
        return range(slices)

    def mean(self, rows: Tensor) -> Tensor:
        """See `Group.mean`."""
        return _ordered_mean(rows)


class Distributed:
    """The workers of the initialized default process group (gloo or NCCL)."""

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()
        self.counts = [1] * self.size

    def mine(self, slices: int) -> range:
        """See `Group.mine`."""
        parts = shares(slices, self.size)
        self.counts = [len(part) for part in parts]
        return parts[self.rank]

    def mean(self, rows: Tensor) -> Tensor:
        """See `Group.mean`. Each worker adds up its share of the columns, so traffic is that of a ring all-reduce."""
        slices, columns = rows.shape
        share = -(-columns // self.size)
        padded = torch.nn.functional.pad(rows, (0, share * self.size - columns))
        sent = padded.view(slices, self.size, share).transpose(0, 1).reshape(-1)
        received = sent.new_empty(sum(self.counts) * share)
        dist.all_to_all_single(
            received,
            sent,
            output_split_sizes=[count * share for count in self.counts],
            input_split_sizes=[slices * share] * self.size,
        )
        mine = _ordered_mean(received.view(-1, share))
        out = mine.new_empty(self.size * share)
        dist.all_gather_into_tensor(out, mine)
        return out[:columns]


def _ordered_mean(rows: Tensor) -> Tensor:
    out = rows[0].clone()
    for row in rows[1:]:
        out += row
    return out.div_(len(rows))
