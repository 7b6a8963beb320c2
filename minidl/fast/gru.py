"""Numba twins of minidl/layers/gru.py: they share their tanh with the LSTM's, so they are in its file."""

from minidl.fast.lstm import gru_cell, gru_cell_backward  # noqa: F401
