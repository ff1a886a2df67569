"""What torch.fx records of a network, and what it is told that it did not see."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from prr.graph.tracing import traced
from prr.layers import named_tensors


class Net(nn.Module):
    """Two layers, a batch norm and a function of the network and the images as its forward pass."""

    def __init__(self, run):
        super().__init__()
        self.run, self.first, self.norm, self.last = run, nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1)

    def forward(self, x):
        return self.run(self, self.norm(self.first(x)))

    def hidden(self, name="weight"):
        """A tensor as torch.fx does not see it taken."""
        return next(value for each, value in self.first._parameters.items() if each == name)


SEEN = {
    "modules": lambda self, x: self.last(x),
    "parameter": lambda self, x: functional.conv2d(x, self.last.weight),
    "buffer": lambda self, x: x - self.norm.running_mean[:, None, None],
    "together with the images": lambda self, x: x + self.hidden("bias"),
    "size": lambda self, x: x.reshape(-1, self.hidden().size(0)),
    "shape and dtype": lambda self, x: x.reshape(-1, self.hidden().shape[0]).to(self.hidden().dtype),
    "dimensions and numbers": lambda self, x: x.flatten(self.hidden().dim() - 2) * self.hidden().numel(),
}
UNSEEN = {
    "number": lambda self, x: x * self.hidden().abs().max().item(),
    "its data": lambda self, x: x * self.hidden().data.sum().item(),
    "in a list": lambda self, x: x * torch.stack([self.hidden(), self.hidden()]).sum().item(),
    "by name": lambda self, x: x * torch.sum(input=self.hidden()).item(),
    "written into": lambda self, x: x * float(self.hidden().mul_(2).sum()),
}


@pytest.mark.parametrize("run", SEEN.values(), ids=SEEN)
def test_what_torch_fx_sees_and_questions_of_shape_hide_nothing(run):
    graph, hidden = traced(Net(run), training=False)
    assert hidden == set()
    assert {"0.first", "0.norm"} <= {node.target for node in graph.nodes if node.op == "call_module"}


@pytest.mark.parametrize("run", UNSEEN.values(), ids=UNSEEN)
def test_a_tensor_that_is_used_out_of_sight_is_named_and_stays_as_it_was(run):
    model = Net(run)
    before = copy.deepcopy(named_tensors(model))
    _, hidden = traced(model, training=False)
    assert hidden == {"first.weight"}
    assert all(torch.equal(value, before[name]) for name, value in named_tensors(model).items())


def test_a_buffer_is_seen_where_it_is_used():
    graph, _ = traced(Net(SEEN["buffer"]), training=False)
    assert "0.norm.running_mean" in {node.target for node in graph.nodes if node.op == "get_attr"}


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_that_is_asked_for_is_traced_and_the_networks_own_is_kept(training):
    model = Net(lambda self, x: self.last(x) if self.training else x).train(not training)
    graph, _ = traced(model, training=training)
    assert ("0.last" in {node.target for node in graph.nodes}) == training
    assert model.training is not training
