"""Several steps in one launch: every program ends a step before any of them begins the next.

A launch costs the host more time than most steps cost the device. Steps hand on what they find through memory.

All programs of a launch have to run at the same time, or those that wait would wait for ever: see
:func:`mn_lightning.kernels.triton.launch.launch_steps`, which asks the GPU for that.
"""

import triton
import triton.language as tl


@triton.jit
def begins(step, first, last, arrived):
    """Whether this launch does ``step``; if so, wait until all programs have ended the steps before it.

    Args:
        step: number of the step.
        first: the launch's first step.
        last: the step after its last one. A GPU does all steps in one launch. Triton's interpreter runs one program
            after the other, so that none can wait for the next: there, each step is a launch of its own.
        arrived: counts the programs that have come to the end of a step.
    """
    here = (first <= step) & (step < last)
    if here & (step > first):
        tl.debug_barrier()  # one thread counts, when the others have written what they have to write
        tl.atomic_add(arrived, 1)
        expected = tl.num_programs(0) * (step - first)
        while tl.atomic_add(arrived, 0) < expected:
            pass
    return here


@triton.jit
def ends(first, last, arrived):
    """Set ``arrived`` back to 0 for the next launch, when the last program of this one is done."""
    if last - first > 1:
        if tl.atomic_add(arrived, 1) == tl.num_programs(0) * (last - first) - 1:
            tl.atomic_xchg(arrived, 0)
