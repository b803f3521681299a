"""Training of any of the models; knows nothing of Ray."""
