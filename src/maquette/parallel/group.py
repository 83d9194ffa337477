"""A group of ranks: one process each, one gradient between them.

Gradients are summed by one all-reduce over flat buckets that are the same at every step. (DDP
builds its buckets anew in its second step, which changes the order of the additions: a resumed
run on three ranks or more would no longer be the same run bit for bit.)
"""

import os
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from maquette.base.machine import pick_device

BUCKET_BYTES = 64 << 20
MEETING = "MAQUETTE_MEETING"  # the file in which the ranks of one machine meet


class Group:
    """The ranks of a run; a single process is a group of one, without any communication.

    `with join(...) as group:` leaves it at the end.
    """

    def __init__(self, rank: int = 0, world: int = 1, device: torch.device | None = None) -> None:
        self.rank, self.world = rank, world
        self.device = device or torch.device("cpu")

    def __enter__(self) -> "Group":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        interrupted = kind is not None and not issubclass(kind, Exception)
        if self.world > 1 and not interrupted:  # amid a collective, leaving would wait for it
            dist.destroy_process_group()

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which writes and prints for all."""
        return self.rank == 0

    def sum(self, *numbers: float | Tensor) -> list[float]:
        """Each number summed over the ranks, in fp64; the device is waited for once."""
        with torch.no_grad():
            total = torch.stack(
                [torch.as_tensor(n, dtype=torch.float64, device=self.device) for n in numbers]
            )
            if self.world > 1:
                dist.all_reduce(total)
        return total.tolist()

    @torch.no_grad()
    def copy_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Broadcast tensors from rank 0."""
        if self.world > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def barrier(self) -> None:
        """Wait for every rank."""
        if self.world > 1:
            dist.barrier()

    @torch.no_grad()
    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum the gradients over the ranks; see `sum_tensors`."""
        if self.world == 1:
            return
        gradients = []
        for p in parameters:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
            gradients.append(p.grad)
        self.sum_tensors(gradients)

    @torch.no_grad()
    def sum_tensors(self, tensors: Iterable[Tensor]) -> None:
        """Sum tensors over the ranks, in place, in fixed buckets."""
        if self.world == 1:
            return
        bucket: list[Tensor] = []
        size = 0
        for tensor in tensors:
            bucket.append(tensor)
            size += tensor.numel() * tensor.element_size()
            if size >= BUCKET_BYTES:
                _sum_flat(bucket)
                bucket, size = [], 0
        _sum_flat(bucket)


def join(wanted: str = "auto") -> Group:
    """Join the ranks that the environment describes.

    RANK and WORLD_SIZE are torchrun's, with its MASTER_ADDR and MASTER_PORT, or our launcher's, with
    the file in which they meet. Without such an environment, a group of one.
    wanted: the device, as a recipe names it.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    kind = pick_device(wanted)
    if world == 1:
        return Group(device=torch.device(kind))
    rank = int(os.environ["RANK"])
    store = None  # torchrun's, at MASTER_ADDR
    if MEETING in os.environ:
        store = dist.FileStore(os.environ[MEETING], world)  # type: ignore[attr-defined] # documented
    if kind == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", rank)))
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", store=store, rank=rank, world_size=world, device_id=device)
        return Group(rank, world, device)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    return Group(rank, world)


def _sum_flat(tensors: list[Tensor]) -> None:
    if not tensors:
        return
    flat = torch.cat([t.reshape(-1) for t in tensors])
    dist.all_reduce(flat)
    for tensor, summed in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(summed.view_as(tensor))
