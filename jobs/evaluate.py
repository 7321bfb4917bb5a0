"""The evaluation job on a cluster; takes the options of ``sodbatch evaluate``.

ray job submit --address http://127.0.0.1:8265 --working-dir jobs -- python evaluate.py ...
"""

import sys

from sodbatch.cli import main

sys.exit(main(["evaluate", *sys.argv[1:]]))
