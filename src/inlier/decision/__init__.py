"""From scores to decisions, metrics and pages."""
