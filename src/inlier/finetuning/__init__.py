"""Phase one: a backbone learns the domain from photos of it."""
