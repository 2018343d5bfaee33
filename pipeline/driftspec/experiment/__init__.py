"""Build an experiment from a Spec; prepare its data; train and evaluate. Writes no files and prints nothing."""
