"""Find out which rows of a data set are unlearnable, as a Ray job: the options are those of `raydvae detect`.

ray job submit --working-dir . -- python jobs/detect.py ...
"""

import sys

from raydvae.cli.main import main

main(["detect", *sys.argv[1:]])
