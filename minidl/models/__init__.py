"""Models: each readable beside its paper."""

from minidl.models.alexnet import AlexNet, alexnet
from minidl.models.cifarnet import CifarNet, cifarnet
from minidl.models.convnet import ConvNet, convnet
from minidl.models.googlenet import GoogLeNet, googlenet
from minidl.models.lenet import LeNet, lenet_caffe, lenet_terngrad
from minidl.models.lstm_lm import SETTINGS, LSTMLanguageModel, generate, perplexity
from minidl.models.mlp import f1, mlp
from minidl.models.resnet import ResNet, resnet
from minidl.models.rhn import RHNLanguageModel
from minidl.models.vgg import VGG, vgg

__all__ = [
    "SETTINGS", "VGG", "AlexNet", "CifarNet", "ConvNet", "GoogLeNet", "LSTMLanguageModel", "LeNet", "RHNLanguageModel",
    "ResNet", "alexnet", "cifarnet", "convnet", "f1", "generate", "googlenet", "lenet_caffe", "lenet_terngrad", "mlp",
    "perplexity", "resnet", "vgg",
]  # fmt: skip
