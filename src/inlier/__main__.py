"""``python -m inlier``: the same as the command ``inlier``."""

from inlier.cli.main import run

if __name__ == "__main__":
    run()
