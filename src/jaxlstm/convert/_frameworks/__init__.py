"""Weights of other frameworks: tables of their names and layouts."""
