"""Which rows of a data set are unlearnable."""
