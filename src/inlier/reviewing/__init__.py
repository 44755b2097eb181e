"""Reviews: what people decide on photos, kept in a database, and what a model learns from it."""
