"""Training of any of the models; knows nothing of Ray."""

import os

HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"

# torch takes large pages for large tensors if told so before the first: fewer page faults, some percent of a step.
os.environ.setdefault(HUGE_PAGES, "1")
