"""The main job on a cluster; takes the options of ``sodbatch predict``.

ray job submit --address http://127.0.0.1:8265 --working-dir jobs -- python predict.py ...
"""

import sys

from sodbatch.cli import main

sys.exit(main(["predict", *sys.argv[1:]]))
