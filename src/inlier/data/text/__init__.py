"""What is written in photos: read, and painted out."""
