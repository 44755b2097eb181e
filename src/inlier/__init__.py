"""Learns from photos of what is normal, and tells for each new photo whether it belongs."""
