"""From tensors to features of a frozen backbone."""
