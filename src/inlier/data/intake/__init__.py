"""From a camera roll to a clean data set: sources, duplicates, quality, groups, and the tables that say so."""
