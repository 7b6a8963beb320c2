"""minidl: a small NumPy deep-learning framework for the four methods of *Efficient and Scalable Deep Learning*.

A reading order (about three hours; each file is read from top to bottom):

    minidl/rules.py                     20 min   the derivative table
    minidl/tensor.py                    20 min   the tape, and the walk back through it
    minidl/methods.py                   10 min   PyTorch's names for NumPy's functions
    minidl/gradcheck.py, locate.py      15 min   is a derivative right? and where does it go wrong first?
    minidl/layers/linear.py, conv.py    15 min   one registration per op; convolution as a matrix product
    minidl/layers/lstm.py               10 min   back-propagation through time by hand
    minidl/optim/, train.py             15 min   the only code that changes weights
    minidl/sparsity/                    30 min   structured sparsity: groups, group Lasso, compaction
    minidl/ternary/                     30 min   ternary gradients: unbiased, packed, summed by MPI
    minidl/smoothout/                   15 min   noise that leaves sharp minima

Everything else is optional and can be deleted: fast/ (Numba twins), claims/ (the talk, measured), bench/ (minidl and
PyTorch on the same work).
"""

from minidl.tensor import Tensor, grad, no_grad, trace
from minidl.use import use

__version__ = "0.1.0"
__all__ = ["Tensor", "__version__", "grad", "no_grad", "trace", "use"]
