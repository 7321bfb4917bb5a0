"""The training job on a cluster; takes the options of ``sodbatch train``.

ray job submit --address http://127.0.0.1:8265 --working-dir jobs -- python train.py ...
"""

import sys

from sodbatch.cli import main

sys.exit(main(["train", *sys.argv[1:]]))
