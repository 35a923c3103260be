"""One release: its world, the machine that decides, and what carries its steps out."""
