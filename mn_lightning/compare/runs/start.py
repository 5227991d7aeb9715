"""``python .../runs/start.py FOLDER VARIANT SEED`` is the process of one run.

With ``python -m``, Python searches the current folder before all others: a file random.py there would take the place of
the standard library's. Here the current folder comes last. Lightning's strategies start their processes with this path,
too.
"""

import gc
import os
import sys

if __name__ == "__main__":
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if path and os.path.abspath(path) != here]
    sys.path.append(os.getcwd())
    from mn_lightning.utils.imports import without_garbage_collection

    with without_garbage_collection():
        from mn_lightning.compare.runs.__main__ import main
    gc.freeze()  # what is imported stays
    sys.exit(main(sys.argv[1:]))
