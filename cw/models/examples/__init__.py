"""Factories of example models, one file each; they need torch and no network."""
