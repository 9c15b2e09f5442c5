"""What recipes share; for recipes only, and it may change."""
