"""What recipes share: the command line, the grid of rows, data, models, and the experiments that they are built from.

For recipes only, and it may change: what a user builds on is everything outside of this folder.
"""
