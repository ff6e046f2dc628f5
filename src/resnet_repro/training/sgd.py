"""SGD as PyTorch's, without PyTorch's compiler."""

import inspect

import torch


class EagerSGD(torch.optim.SGD):
    """`torch.optim.SGD`, the same to the last bit, whose methods do not import torch.compile's compiler.

    PyTorch's optimisers import the compiler, which takes a second, to keep it out of these methods. Nothing here
    compiles an optimiser, so the methods are used as they are inside that wrapping.
    """

    step = torch.no_grad()(inspect.unwrap(torch.optim.SGD.step))
    add_param_group = inspect.unwrap(torch.optim.SGD.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.SGD.zero_grad)
    state_dict = inspect.unwrap(torch.optim.SGD.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.SGD.load_state_dict)
