"""Payload indexes: which rows fulfil a filter, from bitmaps and sorted columns in memory instead of every payload."""
