"""Telling a forward pass that is repeated for the backward pass from one that counts."""

import torch


def is_recomputing() -> bool:
    """Whether this forward pass repeats an earlier one inside a backward pass, as activation checkpointing does.

    It must then make the same random choices, and not count or queue the batch again.
    """
    if torch.compiler.is_compiling():  # checkpoints are part of a compiled graph, which has no such moment
        return False
    return torch._C._current_graph_task_id() != -1
