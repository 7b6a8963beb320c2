"""Chapter 4: noise that leaves sharp minima (SmoothOut, 2018), and how sharp a minimum is.

smoothout.py        5 min   theta in, gradient, theta out; AdaSmoothOut's noise
sharpness.py        7 min   Keskar's box, and the loss as the noise grows
"""

from minidl.smoothout.sharpness import sharpness, smoothing
from minidl.smoothout.smoothout import renew_statistics, smoothout, steps

__all__ = ["renew_statistics", "sharpness", "smoothing", "smoothout", "steps"]
