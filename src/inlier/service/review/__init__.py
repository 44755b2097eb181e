"""The review pages: the grid, the photo, the disagreements, and what a refit would change."""
