"""Train the two D-VAEs of a purification, as a Ray job: `raydvae purify` up to the end of stage 2.

ray job submit --working-dir . -- python jobs/train_dvae.py ...

`raydvae purify` on the same folder goes on from there; `raydvae purify NEW OUT --models` it takes for other data.
"""

import sys

from raydvae.cli.main import main

main(["purify", *sys.argv[1:], "--until", "stage2"])
