"""The HTTP service: verdicts for an app, the record of them, and the pages for a person."""
