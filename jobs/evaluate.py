"""Evaluate a data set by what a classifier learns from it, as a Ray job: the options are those of `raydvae classify`.

ray job submit --working-dir . -- python jobs/evaluate.py ...
"""

import sys

from raydvae.cli.main import main

main(["classify", *sys.argv[1:]])
