"""Scores of an inversion's end point, and what they mean on normal images.

`conformal` and `studies` need no torch; the others do.
"""
