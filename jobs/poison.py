"""Poison a data set, as a Ray job: the options are those of `raydvae poison`.

ray job submit --working-dir . -- python jobs/poison.py ...
"""

import sys

from raydvae.cli.main import main

main(["poison", *sys.argv[1:]])
