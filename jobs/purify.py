"""Purify a data set, as a Ray job: the options are those of `raydvae purify`.

ray job submit --working-dir . -- python jobs/purify.py ...
"""

import sys

from raydvae.cli.main import main

main(["purify", *sys.argv[1:]])
