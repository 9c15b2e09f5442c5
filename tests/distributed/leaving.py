"""How a process of several ends."""

import os
import sys

import torch.distributed as dist


def leave_together() -> None:
    """Nobody leaves while another still talks to it.  And then at once: gloo's threads now and then abort an
    interpreter that winds down ("terminate called without an active exception")."""
    if dist.is_initialized():
        dist.barrier()
        sys.stdout.flush()
        os._exit(0)
