"""The data set job on a cluster; takes the options of ``sodbatch check_dataset``.

ray job submit --address http://127.0.0.1:8265 --working-dir jobs -- python check_dataset.py ...
"""

import sys

from sodbatch.cli import main

sys.exit(main(["check_dataset", *sys.argv[1:]]))
