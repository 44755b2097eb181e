"""A fitted model as one file that needs no PyTorch, and a page that runs it in a browser."""
