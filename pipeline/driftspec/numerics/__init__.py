"""The mathematics that methods share. Each file opens with its equation."""
