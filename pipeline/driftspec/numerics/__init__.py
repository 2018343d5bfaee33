"""The mathematics that several methods share. Each file opens with its equation."""
