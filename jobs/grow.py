"""Make clean rows unlearnable by a few poisoned ones, as a Ray job: the options are those of `raydvae grow`.

ray job submit --working-dir . -- python jobs/grow.py ...
"""

import sys

from raydvae.cli.main import main

main(["grow", *sys.argv[1:]])
