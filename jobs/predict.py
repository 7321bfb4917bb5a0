"""The main job for ``ray job submit -- python jobs/predict.py ...``; takes the options of ``sodbatch predict``."""

import sys

from sodbatch.cli import main

sys.exit(main(["predict", *sys.argv[1:]]))
