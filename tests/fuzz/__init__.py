"""Fuzzing of every reader of bytes from outside: valid files, spoiled at random from a seed, read in child processes.

    python -m tests.fuzz --count 10000

prints a line a reader. Nothing may come out of a reader but what it read and raydvae's own errors; a crash, a hang of
more than five seconds, more than 2 GiB of memory or any other exception is a finding, and its input is kept.

`targets` are the readers and what they read, `mutate` spoils, `child` runs inputs, `runner` watches over children.
"""
