"""Transform a data set by a defense, as a Ray job: the options are those of `raydvae defend`.

ray job submit --working-dir . -- python jobs/defend.py ...
"""

import sys

from raydvae.cli.main import main

main(["defend", *sys.argv[1:]])
