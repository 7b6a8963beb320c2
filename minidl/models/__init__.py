"""Models: each readable beside its paper."""

from minidl.models.lenet import LeNet, lenet_caffe, lenet_terngrad
from minidl.models.lstm_lm import LSTMLanguageModel, perplexity
from minidl.models.mlp import f1, mlp
from minidl.models.resnet import ResNet, resnet

__all__ = ["LSTMLanguageModel", "LeNet", "ResNet", "f1", "lenet_caffe", "lenet_terngrad", "mlp", "perplexity", "resnet"]
