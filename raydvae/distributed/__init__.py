"""All that knows Ray; knows nothing of the method."""
