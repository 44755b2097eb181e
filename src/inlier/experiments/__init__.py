"""Around many runs: tracking of what they gave."""
