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
    gc.disable()  # to look for garbage again and again while so much is imported would take a fifth of the time
    from mn_lightning.compare.runs.__main__ import main

    gc.freeze()
    gc.enable()
    sys.exit(main(sys.argv[1:]))
