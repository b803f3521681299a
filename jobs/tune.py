"""Find the KLD targets of a data set, as a Ray job: the options are those of `raydvae tune`.

ray job submit --working-dir . -- python jobs/tune.py ...
"""

import sys

from raydvae.cli.main import main

main(["tune", *sys.argv[1:]])
