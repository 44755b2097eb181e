"""Methods that score how far a photo is from normal ones, one method a file."""
