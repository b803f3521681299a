"""Train a classifier on a data set and test it on another, as a Ray job: the options are those of `raydvae classify`.

ray job submit --working-dir . -- python jobs/train_classifier.py ...
"""

import sys

from raydvae.cli.main import main

main(["classify", *sys.argv[1:]])
