"""Make a table or figure of the paper, as a Ray job: the options are those of `raydvae table`.

ray job submit --working-dir . -- python jobs/evaluate.py ...

What a classifier learns from one data set is told by `jobs/train_classifier.py`.
"""

import sys

from raydvae.cli.main import main

main(["table", *sys.argv[1:]])
