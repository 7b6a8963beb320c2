"""Numba twins of NumPy functions: same file names, same function names, same arguments. Deletable (see backend.py)."""
