"""Pages that show what a run did."""
