"""Trackers, which record the events of a run in a store."""
