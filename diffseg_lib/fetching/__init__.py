"""Fetching models and data sets: the one part of the program that ever touches a network."""
